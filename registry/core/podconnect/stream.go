// SPDX-License-Identifier: Apache-2.0

package podconnect

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/rest"
	streamproxy "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// Streams is what exec, attach and portforward need.
type Streams struct {
	Pods       Getter
	Kubelets   Kubelets
	Authorizer authorizer.UnconditionalAuthorizer
}

// Exec is pods/exec.
type Exec struct {
	storage[corev1.PodExecOptions, *corev1.PodExecOptions]
	Streams
}

// Attach is pods/attach.
type Attach struct {
	storage[corev1.PodAttachOptions, *corev1.PodAttachOptions]
	Streams
}

// PortForward is pods/portforward.
type PortForward struct {
	storage[corev1.PodPortForwardOptions, *corev1.PodPortForwardOptions]
	Streams
}

var (
	_ rest.Connecter = Exec{}
	_ rest.Connecter = Attach{}
	_ rest.Connecter = PortForward{}
)

// ConnectMethods: SPDY clients POST, WebSockets begin with GET.
func (Streams) ConnectMethods() []string { return []string{http.MethodGet, http.MethodPost} }

func (Exec) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.PodExecOptions{}, false, ""
}

func (Attach) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.PodAttachOptions{}, false, ""
}

func (PortForward) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.PodPortForwardOptions{}, false, ""
}

// Connect runs a command in a container.
func (e Exec) Connect(ctx context.Context, name string, opts runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := opts.(*corev1.PodExecOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", opts)
	}
	stdio := streamproxy.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}
	query := stdioParams(stdio)
	query["command"] = o.Command
	return e.connectStdio(ctx, "exec", name, o.Container, query, stdio, responder)
}

// Connect joins the streams of a running container.
func (a Attach) Connect(ctx context.Context, name string, opts runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := opts.(*corev1.PodAttachOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", opts)
	}
	stdio := streamproxy.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}
	return a.connectStdio(ctx, "attach", name, o.Container, stdioParams(stdio), stdio, responder)
}

// Connect opens connections to ports of a pod.
func (p PortForward) Connect(ctx context.Context, name string, opts runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := opts.(*corev1.PodPortForwardOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", opts)
	}
	pod, err := p.pod(ctx, name)
	if err != nil {
		return nil, err
	}
	to, err := connection(ctx, p.Kubelets, pod)
	if err != nil {
		return nil, err
	}
	query := url.Values{}
	if len(o.Ports) > 0 {
		query.Set(corev1.PortHeader, joinPorts(o.Ports))
	}
	location := to.URL(fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name), query)
	direct := newProxy(location, to.Transport, false, true, responder)
	tunnel := streamproxy.NewTunnelingHandler(direct)
	return streamproxy.NewTranslatingHandler(direct, tunnel, wsstream.IsWebSocketRequestWithTunnelingProtocol), nil
}

// pod returns the pod if the user may connect to it.
func (s Streams) pod(ctx context.Context, name string) (*corev1.Pod, error) {
	if err := mustMayCreate(ctx, s.Authorizer); err != nil {
		return nil, err
	}
	return getPod(ctx, s.Pods, name)
}

// connectStdio connects to a container. A WebSocket of the protocol that can close single streams is translated
// into SPDY; older ones the kubelet understands itself.
func (s Streams) connectStdio(ctx context.Context, verb, name, container string, query url.Values, stdio streamproxy.Options, responder rest.Responder) (http.Handler, error) {
	pod, err := s.pod(ctx, name)
	if err != nil {
		return nil, err
	}
	if container, err = chooseContainer(pod, container); err != nil {
		return nil, err
	}
	to, err := connection(ctx, s.Kubelets, pod)
	if err != nil {
		return nil, err
	}
	location := to.URL(fmt.Sprintf("/%s/%s/%s/%s", verb, pod.Namespace, pod.Name, container), query)
	direct := newProxy(location, to.Transport, false, true, responder)
	translator := streamproxy.NewStreamTranslatorHandler(location, to.Transport, 0, stdio)
	return streamproxy.NewTranslatingHandler(direct, translator, wsstream.IsWebSocketRequestWithStreamCloseProtocol), nil
}

func stdioParams(stdio streamproxy.Options) url.Values {
	query := url.Values{}
	for name, wanted := range map[string]bool{
		corev1.ExecStdinParam: stdio.Stdin, corev1.ExecStdoutParam: stdio.Stdout,
		corev1.ExecStderrParam: stdio.Stderr, corev1.ExecTTYParam: stdio.Tty,
	} {
		if wanted {
			query.Set(name, "1")
		}
	}
	return query
}

func joinPorts(ports []int32) string {
	var s []string
	for _, p := range ports {
		s = append(s, strconv.Itoa(int(p)))
	}
	return strings.Join(s, ",")
}
