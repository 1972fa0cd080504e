// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runHook runs a postStart or preStop handler to its end, or to that of ctx.
func (r *Runtime) runHook(ctx context.Context, pod *v1.Pod, c *v1.Container, id, podIP string, h *v1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		return r.execHook(ctx, c, id, h.Exec.Command)
	case h.HTTPGet != nil:
		return r.httpHook(ctx, pod, c, podIP, h.HTTPGet)
	case h.Sleep != nil:
		err := sleep(ctx, time.Duration(h.Sleep.Seconds)*time.Second)
		if err != nil {
			r.metrics.SleepsCut.Inc()
		}
		return err
	}
	return fmt.Errorf("invalid handler: %v", h)
}

func (r *Runtime) execHook(ctx context.Context, c *v1.Container, id string, command []string) error {
	resp, err := r.cri.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command})
	if err != nil {
		return fmt.Errorf("Exec lifecycle hook (%v) for Container %q failed - error: %w", command, c.Name, err) //nolint:staticcheck // clients read this sentence
	}
	if code := resp.GetExitCode(); code != 0 {
		return fmt.Errorf("Exec lifecycle hook (%v) for Container %q failed - error: command '%s' exited with %d: %s, message: %q", //nolint:staticcheck // as above
			command, c.Name, strings.Join(command, " "), code, resp.GetStderr(), string(resp.GetStdout())+string(resp.GetStderr()))
	}
	return nil
}

func (r *Runtime) httpHook(ctx context.Context, pod *v1.Pod, c *v1.Container, podIP string, get *v1.HTTPGetAction) error {
	req, err := HTTPRequest(ctx, get, c, podIP, "kube-lifecycle/1.37")
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true} // pods' certificates are their own affair
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil && get.Scheme == v1.URISchemeHTTPS && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		req.URL.Scheme = "http"
		req.Header.Del("Authorization") // that was for nobody else to read
		if resp, err = (&http.Client{Transport: transport}).Do(req); err == nil {
			r.metrics.HookFallbacks.Inc()
			r.events.Eventf(pod, v1.EventTypeWarning, "LifecycleHTTPFallback", "request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", req.URL.Host)
		}
	}
	if err != nil {
		return fmt.Errorf("HTTP lifecycle hook (%s) for Container %q failed: %w", get.Path, c.Name, err)
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 10<<10)) // any answer will do
	return resp.Body.Close()
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("container terminated before sleep hook finished: %w", ctx.Err())
	}
}

// HTTPRequest makes the request of an httpGet probe or hook.
func HTTPRequest(ctx context.Context, get *v1.HTTPGetAction, c *v1.Container, podIP, agent string) (*http.Request, error) {
	port, err := Port(get.Port, c)
	if err != nil {
		return nil, err
	}
	host := get.Host
	if host == "" {
		host = podIP
	}
	u, err := url.Parse(get.Path) // a path may carry a query
	if err != nil {
		u = &url.URL{Path: get.Path}
	}
	u.Scheme, u.Host = strings.ToLower(string(get.Scheme)), net.JoinHostPort(host, strconv.Itoa(port))
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, h := range get.HTTPHeaders {
		req.Header.Add(h.Name, h.Value)
	}
	if _, set := req.Header["User-Agent"]; !set {
		req.Header.Set("User-Agent", agent)
	}
	if accept, set := req.Header["Accept"]; !set {
		req.Header.Set("Accept", "*/*")
	} else if len(accept) == 1 && accept[0] == "" {
		req.Header.Del("Accept")
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	return req, nil
}

// Port resolves the port of a probe or hook by number or by name.
func Port(port intstr.IntOrString, c *v1.Container) (int, error) {
	n := port.IntValue()
	if port.Type == intstr.String {
		for _, p := range c.Ports {
			if p.Name == port.StrVal {
				n = int(p.ContainerPort)
			}
		}
		if n == 0 {
			return 0, fmt.Errorf("couldn't find port: %v in container %q", port.StrVal, c.Name)
		}
	}
	if n <= 0 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", n)
	}
	return n, nil
}
