// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	grpcstatus "google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/kubelet/containers"
)

// Exec runs a command in a container. An error means that it could not be run in time or at all.
type Exec interface {
	Exec(ctx context.Context, containerID string, command []string, timeout time.Duration) (output string, exitCode int32, err error)
}

// answer is what a container said.
type answer struct {
	ok      bool
	warning bool
	text    string
}

// agent is how probes introduce themselves.
const agent = "kube-probe/1.37"

// handle makes the probe once. An error means that it could not be made: no such port, no container.
func (p *Prober) handle(ctx context.Context, spec *v1.Probe, t *Target) (answer, error) {
	timeout := time.Duration(max(spec.TimeoutSeconds, 1)) * time.Second
	switch {
	case spec.Exec != nil:
		return p.execProbe(ctx, spec.Exec, t, timeout)
	case spec.HTTPGet != nil:
		req, err := containers.HTTPRequest(ctx, spec.HTTPGet, t.Container, t.PodIP, agent)
		if err != nil {
			return answer{}, err
		}
		return httpProbe(req, timeout), nil
	case spec.TCPSocket != nil:
		return tcpProbe(ctx, spec.TCPSocket, t, timeout)
	case spec.GRPC != nil:
		return grpcProbe(ctx, spec.GRPC, t, timeout), nil
	}
	return answer{}, fmt.Errorf("missing probe handler for %s_%s(%s):%s", t.Pod.Name, t.Pod.Namespace, t.Pod.UID, t.Container.Name)
}

func (p *Prober) execProbe(ctx context.Context, exec *v1.ExecAction, t *Target, timeout time.Duration) (answer, error) {
	output, code, err := p.exec.Exec(ctx, t.ContainerID, exec.Command, timeout)
	switch {
	case grpcstatus.Code(err) == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded):
		return answer{text: fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(exec.Command, " "), timeout)}, nil
	case err != nil:
		return answer{}, err
	}
	return answer{ok: code == 0, text: output}, nil
}

// maxBody is how much of an answer is read.
const maxBody = 10 << 10

func httpProbe(req *http.Request, timeout time.Duration) answer {
	transport := &http.Transport{
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, // pods' certificates are their own affair
		DisableKeepAlives:  true,
		DisableCompression: true,
		DialContext:        dialer().DialContext,
	}
	client := &http.Client{Transport: transport, Timeout: timeout, CheckRedirect: localRedirects}
	resp, err := client.Do(req)
	if err != nil {
		return answer{text: err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return answer{text: err.Error()}
	}
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return answer{ok: true, text: string(body)}
	case resp.StatusCode >= 300 && resp.StatusCode < 400: // one to another host, which was not followed
		return answer{ok: true, warning: true, text: fmt.Sprintf("Probe terminated redirects, Response body: %v", string(body))}
	}
	return answer{text: fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode)}
}

func localRedirects(req *http.Request, via []*http.Request) error {
	if req.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}

func tcpProbe(ctx context.Context, tcp *v1.TCPSocketAction, t *Target, timeout time.Duration) (answer, error) {
	port, err := containers.Port(tcp.Port, t.Container)
	if err != nil {
		return answer{}, err
	}
	host := tcp.Host
	if host == "" {
		host = t.PodIP
	}
	d := dialer()
	d.Timeout = timeout
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return answer{text: err.Error()}, nil
	}
	_ = conn.Close() // that it opened is all we wanted to know
	return answer{ok: true}, nil
}

// dialer closes connections with a reset, so that frequent probes leave no sockets in TIME_WAIT.
func dialer() *net.Dialer {
	return &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = syscall.SetsockoptLinger(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1, Linger: 1})
		})
	}}
}

func grpcProbe(ctx context.Context, action *v1.GRPCAction, t *Target, timeout time.Duration) answer {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	creds := insecure.NewCredentials()
	if action.Mode != nil && *action.Mode == v1.GRPCProbeModeTLS {
		creds = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}) // pods' certificates are their own affair
	}
	service, address := "", net.JoinHostPort(t.PodIP, strconv.Itoa(int(action.Port)))
	if action.Service != nil {
		service = *action.Service
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds), grpc.WithUserAgent(agent),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dialer().DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		return answer{text: fmt.Sprintf("error: cannot connect to service %q: %v", address, err)}
	}
	defer conn.Close()
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	switch {
	case err == nil && resp.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING:
		return answer{ok: true, text: "service healthy"}
	case err == nil:
		return answer{text: fmt.Sprintf("service unhealthy (responded with %q)", resp.GetStatus())}
	}
	switch code := grpcstatus.Code(err); code {
	case codes.Unimplemented:
		return answer{text: fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", grpcstatus.Convert(err).Message())}
	case codes.DeadlineExceeded:
		return answer{text: fmt.Sprintf("timeout: failed to connect service %q within %v: %v", address, timeout, err)}
	default:
		return answer{text: fmt.Sprintf("error: health rpc probe failed: %v", err)}
	}
}
