// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skiff-k8s/skiff/e2e/testimage"
	"github.com/skiff-k8s/skiff/testhost"
)

const (
	nodeName     = "alpha"
	image        = "docker.io/library/busybox:stable"
	kubeconfig   = "/etc/skiff/skiff.yaml"
	imageDir     = "/var/lib/skiff/agent/images"
	patience     = 2 * time.Minute
	stopPatience = 30 * time.Second
	lookAgain    = 3 * time.Millisecond // between two looks at something that has not happened yet
)

// host is a test host with, at times, a server on it.
type host struct {
	*testhost.Host
	options options
	flags   []string // of the server, besides the usual ones
	cleanup []func()
	server  *testhost.Process
	log     *os.File
}

// host is a testhost.T.
func (h *host) Helper()                         {}
func (h *host) Cleanup(f func())                { h.cleanup = append(h.cleanup, f) }
func (h *host) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (h *host) Fatalf(format string, args ...any) {
	panic(fatal{fmt.Errorf(format, args...)})
}

// fatal is what testhost cannot go on after.
type fatal struct{ error }

// newHost makes a host with a busybox image to import.
func newHost(o options) (h *host, err error) {
	h = &host{options: o}
	defer func() {
		if f, ok := recover().(fatal); ok {
			err = f
		}
		if err != nil {
			h.close()
		}
	}()
	h.Host = testhost.New(h, testhost.Options{Name: nodeName})
	if err := os.MkdirAll(h.Path(imageDir), 0o755); err != nil {
		return nil, err
	}
	if err := testimage.WriteBusybox(filepath.Join(h.Path(imageDir), "busybox.tar"), image); err != nil {
		return nil, err
	}
	if o.log != "" {
		if h.log, err = os.OpenFile(o.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
			return nil, err
		}
		h.Cleanup(func() { h.log.Close() })
	}
	return h, nil
}

func (h *host) close() {
	for i := len(h.cleanup) - 1; i >= 0; i-- {
		h.cleanup[i]()
	}
}

// startup is how long it took from the start of a server until the API answered and the Node was Ready, and
// the processor time used up to then.
type startup struct{ api, ready, cpu time.Duration }

// start starts a server with a node.
func (h *host) start(ctx context.Context) (took startup, err error) {
	begin := time.Now()
	if took.api, err = h.startAPI(ctx); err != nil {
		return startup{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no Ready node after %s", patience))
	defer cancel()
	client, err := h.client()
	if err != nil {
		return startup{}, err
	}
	err = await(ctx, func(ctx context.Context) (watch.Interface, error) {
		return client.CoreV1().Nodes().Watch(ctx, named(nodeName))
	}, func(e watch.Event) bool { return nodeIsReady(e, begin.Truncate(time.Second)) })
	took.ready = time.Since(begin)
	if err != nil {
		return startup{}, err
	}
	used, err := usage(h.server.PID())
	took.cpu = used.cpu
	return took, err
}

// startAPI starts a server, and returns how long it took until it said that it is ready.
func (h *host) startAPI(ctx context.Context) (time.Duration, error) {
	args := append([]string{"server", "--node-name", nodeName, "--node-ip", h.IP().String(), "--cgroup-root", h.CgroupRoot()}, h.flags...)
	cmd := h.Command(ctx, h.options.binary, args...)
	if h.log != nil {
		cmd.Stdout, cmd.Stderr = h.log, h.log
	}
	if h.options.profile != "" {
		dir, err := os.MkdirTemp(h.options.profile, time.Now().Format("150405-"))
		if err != nil {
			return 0, err
		}
		cmd.Env = append(os.Environ(), "SKIFF_PROFILE="+dir)
	}
	begin := time.Now()
	var err error
	if h.server, err = h.Start(cmd); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no serving API after %s", patience))
	defer cancel()
	err = h.awaitAPI(ctx)
	return time.Since(begin), err
}

// stop ends the server as a service manager would.
func (h *host) stop(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	if err := h.server.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, stopPatience, fmt.Errorf("it did not end within %s", stopPatience))
	defer cancel()
	err := h.server.Wait(ctx)
	if ctx.Err() != nil {
		_ = h.server.Signal(syscall.SIGQUIT) // its stacks are in the log
		_ = h.server.Wait(context.WithoutCancel(ctx))
		err = context.Cause(ctx)
	}
	return time.Since(begin), err
}

// profileAnew lets the server begin another CPU profile, if it writes any.
func (h *host) profileAnew() error {
	if h.options.profile == "" {
		return nil
	}
	return h.server.Signal(syscall.SIGUSR1)
}

// awaitAPI asks for /readyz until it is answered with 200.
func (h *host) awaitAPI(ctx context.Context) error {
	for {
		config, err := h.config()
		if err == nil {
			err = askReady(ctx, config)
		}
		if err == nil {
			return nil
		}
		select {
		case <-time.After(lookAgain):
		case <-h.server.Done():
			return fmt.Errorf("the server ended: %w", h.server.Wait(ctx))
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

func askReady(ctx context.Context, config *rest.Config) error {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	return get(ctx, client, config.Host+"/readyz")
}

// config is the administrator's, through the host's network namespace.
func (h *host) config() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", h.Path(kubeconfig))
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		return h.Dial(ctx, network, address)
	}
	return config, nil
}

func (h *host) client() (kubernetes.Interface, error) {
	config, err := h.config()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

// await watches until an object is as it should be.
func await(ctx context.Context, open func(context.Context) (watch.Interface, error), good func(watch.Event) bool) error {
	for {
		w, err := open(ctx)
		if err == nil {
			for event := range w.ResultChan() {
				if good(event) {
					w.Stop()
					return nil
				}
			}
		}
		select {
		case <-time.After(lookAgain): // the watch ended, or the server does not allow it yet
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

func named(name string) metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()}
}

// nodeIsReady looks for a Ready condition with a heartbeat of the present run: an earlier one may have left
// the Node Ready.
func nodeIsReady(e watch.Event, since time.Time) bool {
	node, ok := e.Object.(*corev1.Node)
	if !ok {
		return false
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue && !c.LastHeartbeatTime.Time.Before(since)
		}
	}
	return false
}

func podIsReady(e watch.Event) bool {
	pod, ok := e.Object.(*corev1.Pod)
	if !ok {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
