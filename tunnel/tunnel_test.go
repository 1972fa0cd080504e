// SPDX-License-Identifier: Apache-2.0

package tunnel_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/tunnel"
)

func node(name, address string, podCIDRs ...string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.NodeSpec{PodCIDRs: podCIDRs},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}},
	}
}

type cluster struct {
	*tunnel.Server
	http  *httptest.Server
	nodes cache.Indexer
	as    chan user.Info // who the next call is from

	connections *connections
}

func newCluster(t *testing.T, nodes ...*corev1.Node) *cluster {
	t.Helper()
	c := &cluster{nodes: cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{}), as: make(chan user.Info, 10)}
	for _, n := range nodes {
		if err := c.nodes.Add(n); err != nil {
			t.Fatal(err)
		}
	}
	c.Server = tunnel.NewServer(corelisters.NewNodeLister(c.nodes))
	c.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.ServeHTTP(w, r.WithContext(request.WithUser(r.Context(), <-c.as)))
	}))
	c.connections = &connections{Listener: c.http.Listener}
	c.http.Listener = c.connections
	c.http.StartTLS()
	t.Cleanup(func() {
		c.Close()
		c.http.Close()
	})
	return c
}

func nodeUser(name string) user.Info {
	return &user.DefaultInfo{Name: "system:node:" + name, Groups: []string{user.NodesGroup}}
}

// join runs the tunnel of a node until the test, or the returned function, ends it.
func (c *cluster) join(t *testing.T, who user.Info, serves func(netip.Addr) bool) (leave func()) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(c.http.Certificate())
	client := &tunnel.Client{Server: c.http.Listener.Addr().String(), TLS: &tls.Config{RootCAs: roots, ServerName: "example.com"}, Serves: serves}
	for range cap(c.as) {
		select {
		case c.as <- who:
		default:
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- client.Run(ctx) }()
	left := false
	leave = func() {
		if left {
			return
		}
		left = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(leave)
	return leave
}

// eventually repeats what may fail while a tunnel is being opened.
func eventually[T any](t *testing.T, try func(ctx context.Context) (T, error)) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		got, err := try(ctx)
		if err == nil {
			return got
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not in 30 s: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// echo answers each connection with what it says, then with "end".
func echo(t *testing.T) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.CopyN(conn, conn, 1<<20)
				_, _ = io.WriteString(conn, "end")
			}()
		}
	}()
	return l.Addr()
}

// What the server sends to a node's name arrives there and comes back, much of it at the same time.
func TestDialsNodes(t *testing.T) {
	target := echo(t)
	c := newCluster(t, node("far", "127.0.0.1"))
	c.join(t, nodeUser("far"), func(a netip.Addr) bool { return a.IsLoopback() })
	_, port, _ := net.SplitHostPort(target.String())
	results := make(chan error)
	const streams = 8
	for i := range streams {
		go func() {
			results <- func() error {
				conn, err := c.DialNode(t.Context(), "tcp", "far:"+port)
				if err != nil {
					return err
				}
				defer conn.Close()
				sent := bytes.Repeat([]byte{byte(i)}, 1<<20)
				go func() { _, _ = conn.Write(sent) }()
				got, err := io.ReadAll(conn)
				if err != nil || !bytes.Equal(got, append(sent, "end"...)) {
					return fmt.Errorf("stream %d: %d bytes came back, %w", i, len(got), err)
				}
				return nil
			}()
		}()
	}
	for range streams {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// A node answers for its pods and for nothing else, and where two nodes say that they have an address, none does.
func TestDialsOnlyOwnPods(t *testing.T) {
	c := newCluster(t, node("far", "192.0.2.1", "127.1.0.0/24"), node("other", "192.0.2.2", "127.2.0.0/24"))
	asked := make(chan netip.Addr, 100)
	c.join(t, nodeUser("far"), func(a netip.Addr) bool { asked <- a; return false })
	refusal := eventually(t, func(ctx context.Context) (string, error) {
		conn, err := c.DialPod(ctx, "tcp", "127.1.0.7:1")
		if err == nil {
			conn.Close()
			return "", errors.New("connected")
		}
		if len(asked) == 0 { // no tunnel yet
			return "", err
		}
		return err.Error(), nil
	})
	if !strings.Contains(refusal, "127.1.0.7 is not an address of this node") {
		t.Errorf("DialPod = %s", refusal)
	}
	if got := <-asked; got.String() != "127.1.0.7" {
		t.Errorf("the node was asked for %s", got)
	}
	if err := c.nodes.Add(node("greedy", "192.0.2.1", "127.1.0.0/16")); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"127.1.0.7:1", "127.2.0.7:1", "127.3.0.7:1"} {
		if conn, err := c.DialPod(t.Context(), "tcp", address); err == nil {
			conn.Close()
		}
		if len(asked) > 0 {
			t.Errorf("the node was asked for %s", address)
			<-asked
		}
	}
}

// Who is no node gets no tunnel.
func TestTakesCallsOfNodesOnly(t *testing.T) {
	c := newCluster(t)
	for _, who := range []user.Info{
		&user.DefaultInfo{Name: "system:node:far"},
		&user.DefaultInfo{Name: "ann", Groups: []string{user.NodesGroup}},
		&user.DefaultInfo{Name: "system:node:", Groups: []string{user.NodesGroup}},
	} {
		c.as <- who
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.http.URL+tunnel.Path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := c.http.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusForbidden {
			t.Errorf("%s in %v: %s", who.GetName(), who.GetGroups(), response.Status)
		}
	}
}

// A tunnel that was cut comes back. Without one, the node is dialled directly.
func TestOpensAgain(t *testing.T) {
	_, port, _ := net.SplitHostPort(echo(t).String())
	c := newCluster(t, node("far", "127.0.0.1"))
	var through atomic.Int32
	dialThrough := func() {
		t.Helper()
		before := through.Load()
		eventually(t, func(ctx context.Context) (any, error) {
			conn, err := c.DialNode(ctx, "tcp", "far:"+port)
			if err != nil {
				return nil, err
			}
			conn.Close()
			if through.Load() == before {
				return nil, errors.New("dialled directly")
			}
			return nil, nil
		})
	}
	leave := c.join(t, nodeUser("far"), func(a netip.Addr) bool { through.Add(1); return a.IsLoopback() })
	dialThrough()
	c.connections.cut()
	dialThrough()
	leave()
	before := through.Load()
	eventually(t, func(ctx context.Context) (any, error) { // the server may not know yet that the node left
		conn, err := c.DialNode(ctx, "tcp", "far:"+port)
		if err == nil {
			conn.Close()
		}
		return nil, err
	})
	if through.Load() != before {
		t.Error("a tunnel that was left is in use")
	}
}

// connections are those that a listener took.
type connections struct {
	net.Listener
	mu  sync.Mutex
	all []net.Conn
}

func (c *connections) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, conn)
	return conn, err
}

func (c *connections) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.all {
		conn.Close()
	}
}
