// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errTimeout     = errors.New("timeout")
	errNoEndpoints = errors.New("the backend has no endpoints")
)

// clientGone is what is counted for a client that did not wait for the answer. It is never sent.
const clientGone = 499

// exchange is a request with its answer. It is the ResponseWriter that sees what is answered, and the transport that
// httputil.ReverseProxy uses.
type exchange struct {
	http.ResponseWriter
	socket  *socket
	in      *http.Request
	started time.Time
	status  int // answered; 0 if nothing was yet

	*entry                        // nil if nothing matches
	backend *share                // of the rule, chosen
	target  *target               // of backend
	timer   *time.Timer           // of the rule's RequestTimeout, or nil
	bodyErr atomic.Pointer[error] // why reading the client's body failed; an attempt may outlive its end
	reverse httputil.ReverseProxy
	mirror  *mirrored // nil if nobody gets a copy
}

// ServeHTTP serves a request by the table that is set now.
func (s *socket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{ResponseWriter: w, socket: s, in: r, started: time.Now()}
	s.proxy.cfg.Metrics.begin()
	defer s.proxy.cfg.Metrics.end(x)
	x.serve()
	if r.ProtoMajor == 1 && r.ContentLength != 0 && x.status != http.StatusSwitchingProtocols {
		// What is left of the body is read now, before the next request. It must not take for ever either.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(stallTimeout))
	}
}

func (x *exchange) serve() {
	r := x.in
	if r.Method == http.MethodConnect {
		x.fail(http.StatusMethodNotAllowed, "this is not a forward proxy")
		return
	}
	if !normalize(r.URL) {
		x.fail(http.StatusBadRequest, "the path is not valid")
		return
	}
	q := question{request: r, host: hostOf(r), path: r.URL.Path}
	index := x.index()
	x.entry = index.find(&q)
	if x.misdirected(index, q.host) {
		x.fail(http.StatusMisdirectedRequest, "the host is not the one of the TLS connection")
		return
	}
	if x.entry == nil {
		x.fail(http.StatusNotFound, "nothing is served here")
		return
	}
	filters := &x.Filters
	switch {
	case filters.CORS != nil && isPreflight(r):
		preflight(filters.CORS, x, r)
	case filters.Redirect != nil:
		x.redirect(filters.Redirect)
	default:
		x.forward()
	}
}

// misdirected says whether the connection was made for another listener than the request: what was asked of the client, and its
// certificate, were that one's. A client that names no server is believed, unless the listener wants to know who it is.
func (x *exchange) misdirected(ix *index, host string) bool {
	if x.in.TLS == nil {
		return false
	}
	name := strings.ToLower(x.in.TLS.ServerName)
	if x.entry == nil {
		return name != "" && ix.apart(name, host)
	}
	if asks := x.listener.TLS != nil && x.listener.TLS.ClientCAs != nil; name == "" && !asks {
		return false
	}
	return !x.listener.owns(name)
}

// index returns the index of the client's connection, or nil.
func (x *exchange) index() *index {
	local, _ := x.in.Context().Value(http.LocalAddrContextKey).(net.Addr)
	v := x.socket.view(local)
	switch {
	case v == nil:
		x.Header().Set("Connection", "close")
	case x.in.TLS == nil:
		return v.plain
	case v.encrypted != nil:
		return v.encrypted.https
	}
	return nil
}

// forward passes the request to a backend, and its answer to the client.
func (x *exchange) forward() {
	x.backend = x.rule.backends.pick()
	if x.backend == nil || x.backend.Invalid {
		x.fail(http.StatusInternalServerError, "the route has no valid backend")
		return
	}
	if x.target = x.backend.slot.target.Load(); x.target == nil {
		x.fail(http.StatusServiceUnavailable, errNoEndpoints.Error())
		return
	}
	r := x.in
	if r.ContentLength != 0 && r.Body != nil {
		r.Body = &clientBody{ReadCloser: r.Body, exchange: x, deadline: r.ProtoMajor == 1}
	}
	if x.RequestTimeout > 0 {
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		x.timer = time.AfterFunc(x.RequestTimeout, func() { cancel(errTimeout) })
		defer x.timer.Stop()
		r = r.WithContext(ctx)
	}
	x.reverse = httputil.ReverseProxy{
		Rewrite: x.rewrite, Transport: x, ModifyResponse: x.modify, ErrorHandler: x.failed, BufferPool: &x.socket.proxy.buffers, ErrorLog: quietLog,
	}
	x.reverse.ServeHTTP(x, r)
	if x.mirror != nil {
		x.mirror.finish()
	}
}

// rewrite makes the request for the backend.
func (x *exchange) rewrite(p *httputil.ProxyRequest) {
	out := p.Out
	x.forwarded(p.In, out)
	filter(x.Filters.RequestHeaders, out.Header, &out.Host)
	filter(x.backend.RequestHeaders, out.Header, &out.Host)
	if rw := x.Filters.Rewrite; rw != nil {
		if rw.Hostname != "" {
			out.Host = rw.Hostname
		}
		if rw.Path != nil {
			modify(rw.Path, out.URL, x.prefix)
		}
	}
	out.URL.Scheme = x.target.scheme
	if len(x.mirrors) > 0 {
		x.mirror = x.newMirrored(out)
	}
}

// forwarded tells the backend who the client is. What a client says about others counts only if it is trusted.
func (x *exchange) forwarded(in, out *http.Request) {
	client, trusted := x.client()
	h := out.Header
	scheme := "http"
	if in.TLS != nil {
		scheme = "https"
	}
	for _, own := range [...]struct{ name, value string }{
		{"X-Forwarded-Host", in.Host},
		{"X-Forwarded-Proto", scheme},
		{"X-Forwarded-Port", strconv.Itoa(int(x.listener.port))},
		{"X-Real-Ip", client},
	} {
		if said := in.Header[own.name]; trusted && len(said) > 0 {
			h[own.name] = said
		} else {
			h[own.name] = []string{own.value}
		}
	}
	if said := in.Header["X-Forwarded-For"]; trusted && len(said) > 0 {
		client = strings.Join(said, ", ") + ", " + client
	}
	h["X-Forwarded-For"] = []string{client}
}

// client returns the client's IP address, and whether it is a trusted proxy.
func (x *exchange) client() (string, bool) {
	peer, err := netip.ParseAddrPort(x.in.RemoteAddr)
	if err != nil {
		return "", false
	}
	ip := peer.Addr().Unmap()
	for _, prefix := range x.socket.proxy.cfg.TrustedProxies {
		if prefix.Contains(ip.WithZone("")) {
			return ip.String(), true
		}
	}
	return ip.String(), false
}

// modify changes the backend's answer.
func (x *exchange) modify(res *http.Response) error {
	if cors := x.Filters.CORS; cors != nil {
		allow(cors, res.Header, x.in)
	}
	filter(x.Filters.ResponseHeaders, res.Header, nil)
	filter(x.backend.ResponseHeaders, res.Header, nil)
	return nil
}

// failed answers when there is no answer of a backend.
func (x *exchange) failed(_ http.ResponseWriter, out *http.Request, err error) {
	switch {
	case x.stalled():
		x.Header().Set("Connection", "close")
		x.fail(http.StatusRequestTimeout, "the body of the request did not come")
	case x.in.Context().Err() != nil:
		x.status = clientGone
	case context.Cause(out.Context()) == errTimeout || errors.Is(err, errTimeout):
		x.fail(http.StatusGatewayTimeout, "the backend did not answer in time")
	default:
		x.fail(http.StatusBadGateway, "the backend did not answer")
	}
}

// stalled says whether the client's body did not go on coming.
func (x *exchange) stalled() bool {
	err := x.bodyErr.Load()
	return err != nil && errors.Is(*err, os.ErrDeadlineExceeded)
}

// fail answers with an error of the gateway's own.
func (x *exchange) fail(status int, text string) {
	if strings.HasPrefix(x.in.Header.Get("Content-Type"), "application/grpc") {
		x.failGRPC(status, text)
		return
	}
	h := x.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	x.WriteHeader(status)
	if x.in.Method != http.MethodHead {
		_, _ = fmt.Fprintln(x, text)
	}
}

// failGRPC is fail as clients of gRPC understand it: an answer that consists of trailers only.
func (x *exchange) failGRPC(status int, text string) {
	code := 14 // UNAVAILABLE
	switch status {
	case http.StatusNotFound:
		code = 12 // UNIMPLEMENTED
	case http.StatusGatewayTimeout:
		code = 4 // DEADLINE_EXCEEDED
	case http.StatusBadRequest, http.StatusMethodNotAllowed:
		code = 13 // INTERNAL
	}
	h := x.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(code))
	h.Set("Grpc-Message", text)
	x.WriteHeader(http.StatusOK)
	x.status = status // for the metrics
}

// WriteHeader notes the status.
func (x *exchange) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		x.status = status
	}
	x.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// clientBody is the body of a request. It must go on coming.
type clientBody struct {
	io.ReadCloser
	exchange *exchange
	deadline bool // can be set: HTTP/2 looks after its connections itself
}

func (b *clientBody) Read(p []byte) (int, error) {
	if !b.deadline {
		return b.ReadCloser.Read(p)
	}
	control := http.NewResponseController(b.exchange.ResponseWriter)
	_ = control.SetReadDeadline(time.Now().Add(stallTimeout))
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF: // the connection is read on, for what comes next
		_ = control.SetReadDeadline(time.Time{})
	case err != nil:
		b.exchange.bodyErr.Store(&err)
	}
	return n, err
}

// bufferPool lends the buffers through which bodies go.
type bufferPool struct{ sync.Pool }

const bufferSize = 32 << 10

// Get implements httputil.BufferPool.
func (p *bufferPool) Get() []byte { return p.Pool.Get().(*[bufferSize]byte)[:] }

// Put implements httputil.BufferPool.
func (p *bufferPool) Put(b []byte) { p.Pool.Put((*[bufferSize]byte)(b)) }
