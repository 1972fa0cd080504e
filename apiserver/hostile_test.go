// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/util/cert"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/inprocess"
	"github.com/skiff-k8s/skiff/testenv"
)

// open is an API server with a port.
type open struct {
	*testenv.Env
	address string
	roots   *x509.CertPool
	http    *http.Client // acts as somebody, by HTTP/2
}

const token = "somebody"

// startOpen serves at the loopback address, with TLS.
func startOpen(t *testing.T, configure func(*apiserver.Config)) *open {
	t.Helper()
	certPEM, keyPEM, err := cert.GenerateSelfSignedCertKey("127.0.0.1", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	serving, err := dynamiccertificates.NewStaticCertKeyContent("serving", certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := dynamiccertificates.NewStaticCAContent("clients", certPEM)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tokens := authenticator.TokenFunc(func(_ context.Context, given string) (*authenticator.Response, bool, error) {
		return &authenticator.Response{User: &user.DefaultInfo{Name: given}}, given == token, nil
	})
	s := &open{address: listener.Addr().String(), roots: x509.NewCertPool()}
	s.roots.AppendCertsFromPEM(certPEM)
	s.Env = testenv.Start(t, testenv.Configure(func(c *apiserver.Config) {
		c.Listener, c.ServingCert, c.ClientCA = listener, serving, ca
		c.Authenticator = union.New(inprocess.Authenticator(), bearertoken.New(tokens))
		c.MaxInFlight = 600
		configure(c)
	}))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	s.http = &http.Client{Transport: transport}
	return s
}

// dial opens a connection that speaks HTTP/1.1, if any.
func (s *open) dial(ctx context.Context) (*tls.Conn, error) {
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: s.roots}}
	conn, err := dialer.DialContext(ctx, "tcp", s.address)
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil
}

func (s *open) request(t *testing.T, method, path string, header http.Header, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "https://"+s.address+path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	for name, values := range header {
		r.Header[name] = values
	}
	return r
}

// serves fails the test unless an honest client is answered soon, on a new connection.
func (s *open) serves(t *testing.T, meanwhile string) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	for _, r := range []*http.Request{
		s.request(t, http.MethodGet, "/api/v1/namespaces/default", nil, nil),
		s.request(t, http.MethodPost, configMaps, http.Header{"Content-Type": {"application/json"}}, strings.NewReader(`{"metadata":{"generateName":"honest-"}}`)),
	} {
		response, err := client.Do(r)
		if err != nil {
			t.Errorf("while %s: %v", meanwhile, err)
			return
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if response.StatusCode >= 300 {
			t.Errorf("while %s: %s is answered with %s", meanwhile, r.Method, response.Status)
		}
	}
}

const configMaps = "/api/v1/namespaces/default/configmaps"

// Thousands of connections that say nothing do not keep others from being served, cost little, and those that
// do not even finish their handshake are cut off.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	const silent, idle = 3000, 1000
	s := startOpen(t, func(*apiserver.Config) {})
	before := inUse()
	var mu sync.Mutex
	var mute, all []net.Conn // guarded by mu
	defer func() {
		for _, conn := range all {
			_ = conn.Close()
		}
	}()
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(50)
	for i := range silent + idle {
		group.Go(func() error {
			var conn net.Conn
			var err error
			if i < silent {
				conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", s.address)
				if err == nil && i%2 == 0 {
					_, err = conn.Write([]byte{22, 3, 1, 2, 0, 1}) // as far as the type of the first message
				}
			} else {
				conn, err = s.dial(ctx)
			}
			if err != nil {
				return fmt.Errorf("connect: %w", err)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, conn)
			if i < silent {
				mute = append(mute, conn)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	s.serves(t, "4000 connections are idle")
	if each := (inUse() - before) / (silent + idle); each > 64<<10 { // both ends are in this process
		t.Errorf("an idle connection takes %d bytes", each)
	}
	deadline := time.Now().Add(90 * time.Second) // the machinery gives them 32 s
	for _, conn := range mute {
		_ = conn.SetReadDeadline(deadline)
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a connection without a handshake is still open after 90 s")
		}
	}
	s.serves(t, "1000 connections are idle")
}

// inUse is how much memory the process uses.
func inUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// dripping is a body of which a byte comes now and then.
type dripping struct{ done <-chan struct{} }

func (d dripping) Read(p []byte) (int, error) {
	select {
	case <-time.After(100 * time.Millisecond):
		p[0] = ' '
		return 1, nil
	case <-d.done:
		return 0, io.ErrUnexpectedEOF
	}
}

// Who sends a body byte by byte, or stops in the middle of one, is told so when the request has taken its time, and
// then cut off, whoever it is.
func TestSlowBodies(t *testing.T) {
	t.Parallel()
	s := startOpen(t, func(c *apiserver.Config) { c.RequestTimeout = 2 * time.Second })
	t.Run("by HTTP/2", func(t *testing.T) {
		for _, c := range []struct {
			method, path, contentType, authorization string
		}{
			{http.MethodPost, configMaps, "application/json", "Bearer " + token},
			{http.MethodPut, configMaps + "/x", "application/yaml", "Bearer " + token},
			{http.MethodPatch, configMaps + "/x", "application/apply-patch+yaml", "Bearer " + token},
			{http.MethodDelete, configMaps + "/x", "application/json", "Bearer " + token},
			{http.MethodPost, configMaps, "application/json", "Bearer stranger"},
		} {
			name := c.method + " " + c.contentType + " of " + c.authorization
			body := dripping{t.Context().Done()}
			r := s.request(t, c.method, c.path+"?fieldManager=x", http.Header{"Content-Type": {c.contentType}, "Authorization": {c.authorization}}, body)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			response, err := s.http.Do(r.WithContext(ctx))
			switch {
			case ctx.Err() != nil:
				t.Errorf("%s: not cut off", name)
			case err == nil && response.StatusCode < 400:
				t.Errorf("%s: %s", name, response.Status)
			}
			if err == nil {
				_ = response.Body.Close()
			}
			cancel()
		}
	})
	for _, authorization := range []string{"Bearer " + token, "Bearer stranger"} {
		t.Run("by HTTP/1.1, "+authorization, func(t *testing.T) {
			conn, err := s.dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", configMaps, authorization)
			s.serves(t, "a body is awaited")
			_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
			answer, err := io.ReadAll(conn)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("not cut off after %.200q", answer)
			}
			if !bytes.HasPrefix(answer, []byte("HTTP/1.1 4")) && !bytes.HasPrefix(answer, []byte("HTTP/1.1 504")) {
				t.Errorf("the answer is %.200q", answer)
			}
		})
	}
}

// Who asks for much and does not read it is cut off.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	s := startOpen(t, func(c *apiserver.Config) { c.RequestTimeout = 2 * time.Second })
	for i := range 30 {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m", i)}, Data: map[string]string{"a": strings.Repeat("x", 1_000_000)}}
		if _, err := s.Client.CoreV1().ConfigMaps("default").Create(t.Context(), m, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := s.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nAccept: application/json\r\n\r\n", configMaps, token)
	in := bufio.NewReaderSize(conn, 16)
	if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 200") {
		t.Fatalf("the answer begins with %q, %v", line, err)
	}
	time.Sleep(2*time.Second + 2*lastWords) // it reads nothing
	s.serves(t, "an answer is not read")
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	size, err := io.Copy(io.Discard, in)
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) || size > 29_000_000 {
		t.Errorf("it could still be read: %d bytes, %v", size, err)
	}
}

// lastWords is what the server adds to the time of a request.
const lastWords = 5 * time.Second

// A watch has no deadline.
func TestWatchOutlivesRequests(t *testing.T) {
	t.Parallel()
	s := startOpen(t, func(c *apiserver.Config) { c.RequestTimeout = time.Second })
	response, err := s.http.Do(s.request(t, http.MethodGet, configMaps+"?watch=true", nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	time.Sleep(time.Second + 2*lastWords)
	s.serves(t, "a watch goes on")
	var event struct{ Type string }
	if err := json.NewDecoder(response.Body).Decode(&event); err != nil || event.Type != "ADDED" {
		t.Errorf("the event is %v, %v", event, err)
	}
}

// What is no HTTP, or too much of it, is refused or cut off.
func TestHostileConnections(t *testing.T) {
	s := startOpen(t, func(c *apiserver.Config) { c.RequestTimeout = 2 * time.Second })
	long := strings.Repeat("x", 2<<20)
	for name, sent := range map[string]string{
		"a body that breaks off":   "POST " + configMaps + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"metadata\"",
		"chunks without a length":  "POST " + configMaps + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
		"two lengths":              "POST " + configMaps + " HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
		"a header without an end":  "GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + long,
		"a path without an end":    "GET /" + long,
		"a header that is not one": "GET / HTTP/1.1\r\nHost: x\r\n\x00\x01\x02\r\n\r\n",
		"nothing known":            "\x00\x01\x02\x03 hello\r\n\r\n",
		"a preface of HTTP/2":      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\xff", 100),
		"a method that is not one": "FROB " + configMaps + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\nConnection: close\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := s.dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			_, _ = io.WriteString(conn, sent) // it may be cut off before the end
			_ = conn.CloseWrite()
			answer, err := io.ReadAll(conn)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("not cut off after %.200q", answer)
			}
			if len(answer) > 0 && !bytes.HasPrefix(answer, []byte("HTTP/1.1 4")) && !bytes.HasPrefix(answer, []byte("HTTP/1.1 504")) { // its other half was closed
				t.Errorf("the answer is %.200q", answer)
			}
			s.serves(t, "a client sends "+name)
		})
	}
}
