// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// pipes is a network of connections in memory, so that time in it is virtual.
type pipes struct{ listeners map[string]*pipeListener }

type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) listen(_, address string) (net.Listener, error) {
	p.listeners[address] = &pipeListener{make(chan net.Conn), make(chan struct{})}
	return p.listeners[address], nil
}

func (p *pipes) dial(ctx context.Context, _, address string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.listeners[address].conns <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { close(l.closed); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

const (
	slowGateway = "192.0.2.1:80"
	slowBackend = "192.0.2.2:80"
)

// withSlowClients runs a test in virtual time, with a gateway in front of a handler.
func withSlowClients(t *testing.T, cfg Config, protocol table.Protocol, handler http.HandlerFunc, test func(t *testing.T, connect func() net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		network := &pipes{map[string]*pipeListener{}}
		l, _ := network.listen("tcp", slowBackend)
		server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Hour}
		go func() { _ = server.Serve(l) }()
		defer server.Close()

		cfg.Listen, cfg.Dial = network.listen, network.dial
		p := New(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		defer func() { cancel(); <-done }()
		failed := p.Set("test", &table.Table{
			Services: map[string]*table.Service{"s": {Name: "s", Endpoints: []netip.AddrPort{netip.MustParseAddrPort(slowBackend)}}},
			Listeners: []*table.Listener{{
				Gateway: "g", Name: "l", Bind: netip.MustParseAddrPort(slowGateway), Protocol: protocol,
				Routes: []*table.Route{{Name: "ns/route", Hostnames: []string{""}, Rules: []*table.Rule{{Backends: to("s")}}}},
			}},
		})
		if len(failed) > 0 {
			t.Fatalf("sockets: %v", failed)
		}
		test(t, func() net.Conn {
			conn, err := network.dial(t.Context(), "tcp", slowGateway)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			return conn
		})
	})
}

func answersAll(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	_, _ = io.WriteString(w, "all of it")
}

// untilClosed reads until the gateway has closed the connection, and returns what came and how long that took.
func untilClosed(conn net.Conn) (string, time.Duration) {
	began := time.Now()
	said, _ := io.ReadAll(conn)
	return string(said), time.Since(began)
}

// A client has ten seconds to say what it wants, however busy it looks meanwhile.
func TestSlowHeader(t *testing.T) {
	withSlowClients(t, Config{}, table.HTTP, answersAll, func(t *testing.T, connect func() net.Conn) {
		silent, trickling := connect(), connect()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for _, err := io.WriteString(trickling, "GET / HTTP/1.1\r\nX-Slow: "); err == nil; time.Sleep(time.Second) {
				_, err = io.WriteString(trickling, "a")
			}
		}()
		began := time.Now()
		for name, conn := range map[string]net.Conn{"silent": silent, "trickling": trickling} {
			if said, _ := untilClosed(conn); strings.Contains(said, "200 OK") || time.Since(began) != headerTimeout {
				t.Errorf("a %s client heard %q and was left after %s, want %s", name, said, time.Since(began), headerTimeout)
			}
		}
		<-ended
	})
}

// The same is true of a TLS handshake, whether the connection is for HTTP or to be passed on.
func TestSlowHandshake(t *testing.T) {
	for _, protocol := range []table.Protocol{table.HTTPS, table.TLS} {
		withSlowClients(t, Config{}, protocol, answersAll, func(t *testing.T, connect func() net.Conn) {
			conn := connect()
			if _, err := conn.Write([]byte{22, 3, 1, 2, 0}); err != nil { // the head of a ClientHello
				t.Fatal(err)
			}
			if said, took := untilClosed(conn); took != headerTimeout {
				t.Errorf("%s: heard %q, closed after %s, want %s", protocol, said, took, headerTimeout)
			}
		})
	}
}

// Between requests a connection is kept for two minutes.
func TestIdleClient(t *testing.T) {
	withSlowClients(t, Config{}, table.HTTP, answersAll, func(t *testing.T, connect func() net.Conn) {
		conn := connect()
		replies := bufio.NewReader(conn)
		for _, idle := range []time.Duration{0, clientIdle - time.Second} {
			time.Sleep(idle)
			if got := ask(t, conn, replies, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); got != "200 OK: all of it" {
				t.Fatalf("after %s: %s", idle, got)
			}
		}
		if _, took := untilClosed(conn); took != clientIdle {
			t.Errorf("closed after %s, want %s", took, clientIdle)
		}
	})
}

// ask sends a request and returns status and body of the answer.
func ask(t *testing.T, conn net.Conn, replies *bufio.Reader, request string) string {
	t.Helper()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return answer(t, replies)
}

func answer(t *testing.T, replies *bufio.Reader) string {
	t.Helper()
	res, err := http.ReadResponse(replies, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.Status + ": " + strings.TrimSpace(string(body))
}

// A body may take its time, but not pause for more than a minute.
func TestSlowBody(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
	withSlowClients(t, Config{}, table.HTTP, answersAll, func(t *testing.T, connect func() net.Conn) {
		conn := connect()
		replies := bufio.NewReader(conn)
		if _, err := io.WriteString(conn, head); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			time.Sleep(stallTimeout - time.Second)
			if _, err := conn.Write([]byte("a")); err != nil {
				t.Fatal(err)
			}
		}
		if got := answer(t, replies); got != "200 OK: all of it" {
			t.Errorf("a slow body is answered with %s", got)
		}
	})
	withSlowClients(t, Config{}, table.HTTP, answersAll, func(t *testing.T, connect func() net.Conn) {
		conn := connect()
		began := time.Now()
		if got := ask(t, conn, bufio.NewReader(conn), head+"ab"); got != "408 Request Timeout: the body of the request did not come" || time.Since(began) != stallTimeout {
			t.Errorf("half a body is answered with %s after %s", got, time.Since(began))
		}
		if _, took := untilClosed(conn); took > stallTimeout {
			t.Errorf("the connection is closed %s later", took)
		}
	})
}

// Nor does a body hold the connection that nobody wants to have.
func TestSlowUnwantedBody(t *testing.T) {
	withSlowClients(t, Config{}, table.HTTP, answersAll, func(t *testing.T, connect func() net.Conn) {
		conn, began := connect(), time.Now()
		got := ask(t, conn, bufio.NewReader(conn), "POST /../%2F.. HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
		if !strings.HasPrefix(got, "400 ") {
			t.Fatal(got)
		}
		if _, _ = untilClosed(conn); time.Since(began) != stallTimeout {
			t.Errorf("the connection is closed after %s, want %s", time.Since(began), stallTimeout)
		}
	})
}

// A client that does not take its answer holds the backend for a minute, and no longer.
func TestSlowReader(t *testing.T) {
	var ended chan time.Time
	endless := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000000000000") // of an unknown length would be flushed on time, under a lock: synctest cannot wait for that
		for _, err := w.Write(make([]byte, 1<<16)); err == nil; _, err = w.Write(make([]byte, 1<<16)) {
		}
		<-r.Context().Done()
		ended <- time.Now()
	}
	withSlowClients(t, Config{}, table.HTTP, endless, func(t *testing.T, connect func() net.Conn) {
		ended = make(chan time.Time, 1)
		conn := connect()
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if took := (<-ended).Sub(began); took < stallTimeout*3/4 || took > stallTimeout {
			t.Errorf("the backend was held for %s, want about %s", took, stallTimeout)
		}
	})
}

// Slow clients take the place of others only as long as they may be slow.
func TestSlowClientsGiveWay(t *testing.T) {
	withSlowClients(t, Config{MaxConnections: 2}, table.HTTP, answersAll, func(t *testing.T, connect func() net.Conn) {
		connect()
		connect()
		began := time.Now()
		conn := connect()
		if got := ask(t, conn, bufio.NewReader(conn), "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); got != "200 OK: all of it" || time.Since(began) != headerTimeout {
			t.Errorf("the third client was answered %s after %s", got, time.Since(began))
		}
	})
}

// Streams of HTTP/2 may pause, as those of gRPC do for hours; but a client that is gone is noticed.
func TestSilentHTTP2(t *testing.T) {
	const settings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	// POST / at host a on stream 1, of which neither the body nor its end follows.
	const headers = "\x00\x00\x06\x01\x04\x00\x00\x00\x01" + "\x83\x86\x84\x41\x01a"
	withSlowClients(t, Config{}, table.HTTP, answersAll, func(t *testing.T, connect func() net.Conn) {
		conn := connect()
		written := make(chan error, 1)
		go func() {
			_, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+settings+headers)
			written <- err
		}()
		const ping = 6
		began, pings := time.Now(), 0
		for head := make([]byte, 9); ; {
			if _, err := io.ReadFull(conn, head); err != nil {
				break
			}
			if head[3] == ping {
				pings++
			}
			if _, err := io.CopyN(io.Discard, conn, int64(head[0])<<16|int64(head[1])<<8|int64(head[2])); err != nil {
				break
			}
		}
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		if took, want := time.Since(began), clientIdle/2+headerTimeout; pings != 1 || took != want {
			t.Errorf("it was closed after %d pings, at %s; want one, and %s", pings, took, want)
		}
	})
}
