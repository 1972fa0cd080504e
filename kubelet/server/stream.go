// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/proxy"
	streamproxy "k8s.io/apiserver/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	s.streamStdio(w, r, func(ctx context.Context, id string, o *remotecommand.Options) (string, error) {
		res, err := s.config.Runtime.Exec(ctx, &runtimeapi.ExecRequest{
			ContainerId: id, Cmd: r.URL.Query()[corev1.ExecCommandParam],
			Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY,
		})
		return res.GetUrl(), err
	})
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	s.streamStdio(w, r, func(ctx context.Context, id string, o *remotecommand.Options) (string, error) {
		res, err := s.config.Runtime.Attach(ctx, &runtimeapi.AttachRequest{
			ContainerId: id, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY,
		})
		return res.GetUrl(), err
	})
}

// streamStdio passes a connection with the streams of a process on to where the runtime serves it.
func (s *Server) streamStdio(w http.ResponseWriter, r *http.Request, prepare func(context.Context, string, *remotecommand.Options) (string, error)) {
	o, err := remotecommand.NewOptions(r)
	if err != nil {
		writeError(w, err.Error(), http.StatusBadRequest)
		return
	}
	id, ok := s.findContainer(w, r)
	if !ok {
		return
	}
	to, err := runtimeURL(prepare(r.Context(), id, o))
	if err != nil {
		writeStreamError(w, r, err)
		return
	}
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		stdio := streamproxy.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}
		streamproxy.NewStreamTranslatorHandler(to, nil, 0, stdio).ServeHTTP(w, r)
		return
	}
	passOn(to).ServeHTTP(w, r)
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	tunnel := wsstream.IsWebSocketRequestWithTunnelingProtocol(r)
	o := &portforward.V4Options{} // in a tunnel, and with SPDY, the ports come later
	if !tunnel {
		var err error
		if o, err = portforward.NewV4Options(r); err != nil {
			writeError(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	pod, ok := s.findPod(w, r)
	if !ok {
		return
	}
	sandbox, err := s.config.Pods.SandboxID(r.Context(), pod.UID)
	if err != nil {
		writeStreamError(w, r, err)
		return
	}
	res, err := s.config.Runtime.PortForward(r.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: bareID(sandbox), Port: o.Ports})
	to, err := runtimeURL(res.GetUrl(), err)
	if err != nil {
		writeStreamError(w, r, err)
		return
	}
	handler := passOn(to)
	if tunnel {
		handler = streamproxy.NewTunnelingHandler(handler)
	}
	handler.ServeHTTP(w, r)
}

// run runs a command to its end and returns what it printed.
func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	id, ok := s.findContainer(w, r)
	if !ok {
		return
	}
	res, err := s.config.Runtime.ExecSync(r.Context(), &runtimeapi.ExecSyncRequest{
		ContainerId: id, Cmd: strings.Split(r.FormValue("cmd"), " "),
	})
	if err != nil {
		writeError(w, err.Error(), http.StatusInternalServerError)
		return
	}
	out := bytes.Join([][]byte{res.Stdout, res.Stderr}, nil)
	if res.ExitCode != 0 {
		writeError(w, fmt.Sprintf("command '%s' exited with %d: %s", r.FormValue("cmd"), res.ExitCode, out), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json") // as the kubelet has always said
	if _, err := w.Write(out); err != nil {
		klog.FromContext(r.Context()).V(2).Info("Client left before the answer", "path", r.URL.Path, "err", err)
	}
}

// findContainer finds the running container of a request, or answers it.
func (s *Server) findContainer(w http.ResponseWriter, r *http.Request) (id string, ok bool) {
	pod, ok := s.findPod(w, r)
	if !ok {
		return "", false
	}
	name := r.PathValue("container")
	id, err := s.config.Pods.ContainerID(r.Context(), pod.UID, name, false)
	if err != nil {
		klog.FromContext(r.Context()).V(2).Info("No such container", "pod", klog.KObj(pod), "container", name, "err", err)
		writeStreamError(w, r, fmt.Errorf("container not found (%q)", name))
		return "", false
	}
	return bareID(id), true
}

func runtimeURL(raw string, err error) (*url.URL, error) {
	if err != nil {
		return nil, err
	}
	return url.Parse(raw)
}

// passOn connects the client with the runtime's streaming server; the connection is upgraded there.
func passOn(to *url.URL) http.Handler {
	return proxy.NewUpgradeAwareHandler(to, nil, false, true, errorResponder{})
}

type errorResponder struct{}

func (errorResponder) Error(w http.ResponseWriter, r *http.Request, err error) {
	klog.FromContext(r.Context()).Error(err, "Cannot pass a stream on", "path", r.URL.Path)
	writeError(w, err.Error(), http.StatusInternalServerError)
}

func writeStreamError(w http.ResponseWriter, r *http.Request, err error) {
	if err := streaming.WriteError(err, w); err != nil {
		klog.FromContext(r.Context()).V(2).Info("Client left before the answer", "path", r.URL.Path, "err", err)
	}
}
