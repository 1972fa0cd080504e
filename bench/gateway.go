// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
)

const (
	gatewayClients = 32              // that ask one after the other
	gatewayWindow  = 2 * time.Second // for each of the ways in turn
)

// gateway measures requests through a Gateway, beside the same through the least that could pass them on, httputil.ReverseProxy
// alone, and straight to the pod.
func gateway(ctx context.Context, o options, r *results) error {
	h, err := newHost(o)
	if err != nil {
		return err
	}
	defer h.close()
	if _, err := h.start(ctx); err != nil {
		return err
	}
	client, err := h.client()
	if err != nil {
		return err
	}
	pod, err := startHello(ctx, h, client)
	if err != nil {
		return err
	}
	if err := makeGateway(ctx, client); err != nil {
		return err
	}
	bare, err := startBareProxy(ctx, h, pod)
	if err != nil {
		return err
	}
	ways := []*way{
		{key: "gateway", name: "requests through a Gateway", url: "http://" + h.IP().String()},
		{key: "bare", name: "  through httputil.ReverseProxy alone", url: "http://" + bare},
		{key: "pod", name: "  straight to the pod", url: "http://" + pod},
	}
	transport := &http.Transport{DialContext: h.Dial, MaxIdleConnsPerHost: gatewayClients}
	defer transport.CloseIdleConnections()
	asker := &http.Client{Transport: transport, Timeout: patience}
	for _, w := range ways {
		if err := w.awaitAnswer(ctx, asker); err != nil {
			return err
		}
	}
	for range o.runs {
		for _, w := range ways { // in turn: a machine is as busy as it is
			if err := w.ask(ctx, asker); err != nil {
				return err
			}
		}
	}
	for _, w := range ways {
		r.add(w.key+"-requests", w.name, median(w.rates), "/s", noBudget)
		r.add(w.key+"-latency", "    of which the median takes", median(w.took).Seconds()*1e6, "µs", noBudget)
	}
	r.add("gateway-of-bare", "Gateway, of ReverseProxy alone", median(ways[0].rates)/median(ways[1].rates), "", noBudget)
	_, err = h.stop(ctx)
	return err
}

// startHello starts a pod, and in its network a server that says hello. It returns where that is.
func startHello(ctx context.Context, h *host, client kubernetes.Interface) (string, error) {
	address, err := startLabelled(ctx, h, client)
	if err != nil {
		return "", err
	}
	l, err := listenInPod(ctx, h, echoPort)
	if err != nil {
		return "", fmt.Errorf("listen in the pod: %w", err)
	}
	serveHTTP(h, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	return net.JoinHostPort(address, fmt.Sprint(echoPort)), nil
}

func serveHTTP(h *host, l net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: patience}
	h.Cleanup(func() { server.Close() })
	go func() { _ = server.Serve(l) }()
}

// makeGateway makes a Gateway at port 80 that leads to the pod.
func makeGateway(ctx context.Context, client kubernetes.Interface) error {
	s := &serviceBench{client: client}
	if _, err := s.create(ctx, "hello", map[string]string{"app": "echo"}); err != nil {
		return err
	}
	for kind, spec := range map[string]string{
		"gateways":   `"kind": "Gateway", "spec": {"gatewayClassName": "skiff", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}`,
		"httproutes": `"kind": "HTTPRoute", "spec": {"parentRefs": [{"name": "hello"}], "rules": [{"backendRefs": [{"name": "hello", "port": 80}]}]}`,
	} {
		body := `{"apiVersion": "gateway.networking.k8s.io/v1", "metadata": {"name": "hello"}, ` + spec + `}`
		err := client.Discovery().RESTClient().Post().AbsPath("/apis/gateway.networking.k8s.io/v1/namespaces/default", kind).
			SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(ctx).Error()
		if err != nil {
			return fmt.Errorf("create %s: %w", kind, err)
		}
	}
	return nil
}

// startBareProxy starts what the Gateway is measured beside, and returns where it listens.
func startBareProxy(ctx context.Context, h *host, to string) (string, error) {
	target := &url.URL{Scheme: "http", Host: to}
	l, err := h.Listen(ctx, "tcp", net.JoinHostPort(h.IP().String(), "0"))
	if err != nil {
		return "", err
	}
	serveHTTP(h, l, &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() },
		Transport: &http.Transport{DialContext: h.Dial, MaxIdleConnsPerHost: gatewayClients, DisableCompression: true},
	})
	return l.Addr().String(), nil
}

// way is one of those that requests go.
type way struct {
	key, name, url string
	rates          []float64       // requests per second, of each window
	took           []time.Duration // medians of the windows
}

func (w *way) awaitAnswer(ctx context.Context, client *http.Client) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("%s: no answer after %s", w.url, patience))
	defer cancel()
	for {
		err := get(ctx, client, w.url)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// ask sends requests for one window.
func (w *way) ask(ctx context.Context, client *http.Client) error {
	var mu sync.Mutex
	var took []time.Duration // guarded by mu
	var failed error         // guarded by mu
	var group sync.WaitGroup
	begin := time.Now()
	for range gatewayClients {
		group.Go(func() {
			var mine []time.Duration
			var err error
			for err == nil && time.Since(begin) < gatewayWindow {
				asked := time.Now()
				err = get(ctx, client, w.url)
				mine = append(mine, time.Since(asked))
			}
			mu.Lock()
			defer mu.Unlock()
			took, failed = append(took, mine...), errors.Join(failed, err)
		})
	}
	group.Wait()
	w.rates = append(w.rates, float64(len(took))/time.Since(begin).Seconds())
	w.took = append(w.took, median(took))
	return failed
}

func get(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}
