// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/klog/v2"
)

// Server takes the calls of nodes and dials through them. Nodes that have not called are dialled directly.
type Server struct {
	nodes  corelisters.NodeLister
	direct net.Dialer

	mu       sync.Mutex
	closed   bool
	sessions map[string]*yamux.Session // by the node's name; the last one that it opened
	opened   chan struct{}             // closed, and made anew, when there is one more
}

// NewServer returns a Server. It has nothing to do until the first node calls.
func NewServer(nodes corelisters.NodeLister) *Server {
	return &Server{nodes: nodes, direct: net.Dialer{Timeout: dialTimeout}, sessions: map[string]*yamux.Session{}, opened: make(chan struct{})}
}

// ServeHTTP takes the call of a node, which must have been authenticated, and returns when it has ended.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	node, ok := nodeOf(r.Context())
	if !ok {
		http.Error(w, "a tunnel is for nodes", http.StatusForbidden)
		return
	}
	hijacker, ok := w.(http.Hijacker)
	if !ok || !strings.EqualFold(r.Header.Get("Upgrade"), protocol) {
		http.Error(w, "want an upgrade to "+protocol+" over HTTP/1.1", http.StatusBadRequest)
		return
	}
	conn, buffered, err := hijacker.Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n")
	if err != nil {
		return
	}
	session, err := yamux.Client(bufferedConn{conn, buffered.Reader}, sessionConfig())
	if err != nil {
		klog.FromContext(r.Context()).Error(err, "Opening a tunnel", "node", node)
		return
	}
	defer session.Close()
	if s.add(node, session) {
		klog.FromContext(r.Context()).V(1).Info("Tunnel opened", "node", node, "from", conn.RemoteAddr())
		<-session.CloseChan()
		s.remove(node, session)
	}
}

// bufferedConn has read more than it gave away.
type bufferedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (c bufferedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }

// nodeOf is the name of the node that a request is from.
func nodeOf(ctx context.Context) (string, bool) {
	who, ok := request.UserFrom(ctx)
	if !ok || !slices.Contains(who.GetGroups(), user.NodesGroup) {
		return "", false
	}
	name, ok := strings.CutPrefix(who.GetName(), "system:node:")
	return name, ok && name != ""
}

func (s *Server) add(node string, session *yamux.Session) bool {
	s.mu.Lock()
	old := s.sessions[node]
	if !s.closed {
		s.sessions[node] = session
		close(s.opened)
		s.opened = make(chan struct{})
	}
	closed := s.closed
	s.mu.Unlock()
	if old != nil {
		_ = old.Close() // the node has given it up
	}
	return !closed
}

func (s *Server) remove(node string, session *yamux.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[node] == session {
		delete(s.sessions, node)
	}
}

// session returns the tunnel of a node, if it has one, and what is closed when some node opens one.
func (s *Server) session(node string) (*yamux.Session, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[node], s.opened
}

// Close ends all tunnels, and takes no more.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	sessions := s.sessions
	s.sessions = map[string]*yamux.Session{}
	s.mu.Unlock()
	for _, session := range sessions {
		_ = session.Close()
	}
}

// DialNode dials a port of a node. The host of the address is the node's name.
func (s *Server) DialNode(ctx context.Context, network, address string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	node, err := s.nodes.Get(name)
	if err != nil {
		return nil, err
	}
	addresses := addressesOf(node)
	if len(addresses) == 0 {
		return nil, fmt.Errorf("node %s has no address", name)
	}
	return s.dial(ctx, name, network, net.JoinHostPort(addresses[0], port))
}

// dial goes by the tunnel of a node if there is one, or if one is opened before the address has answered directly: a
// node that was away, or this server, may just be coming back.
func (s *Server) dial(ctx context.Context, node, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	var direct chan result
	directly, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		session, opened := s.session(node)
		if session != nil {
			if direct != nil {
				go func() { // it may just have answered
					if r := <-direct; r.conn != nil {
						r.conn.Close()
					}
				}()
			}
			return dialThrough(ctx, session, address)
		}
		if direct == nil {
			direct = make(chan result, 1)
			go func() {
				conn, err := s.direct.DialContext(directly, network, address)
				direct <- result{conn, err}
			}()
		}
		select {
		case r := <-direct:
			return r.conn, r.err
		case <-opened:
		}
	}
}

// DialPod dials an address of a pod, or of anything else if no node has it.
func (s *Server) DialPod(ctx context.Context, network, address string) (net.Conn, error) {
	if host, _, err := net.SplitHostPort(address); err == nil {
		if ip, err := netip.ParseAddr(host); err == nil {
			if node := s.nodeWith(ip.Unmap()); node != "" {
				return s.dial(ctx, node, network, address)
			}
		}
	}
	return s.direct.DialContext(ctx, network, address)
}

// nodeWith returns the node that has an address; none if more than one says that it has it.
func (s *Server) nodeWith(ip netip.Addr) (owner string) {
	nodes, err := s.nodes.List(labels.Everything())
	if err != nil {
		return ""
	}
	for _, node := range nodes {
		if !has(node, ip) {
			continue
		}
		if owner != "" {
			return ""
		}
		owner = node.Name
	}
	return owner
}

func has(node *corev1.Node, ip netip.Addr) bool {
	return slices.Contains(addressesOf(node), ip.String()) || slices.ContainsFunc(node.Spec.PodCIDRs, func(cidr string) bool {
		prefix, err := netip.ParsePrefix(cidr)
		return err == nil && prefix.Contains(ip)
	})
}

// addressesOf are a node's IP addresses, those before others by which the cluster knows it.
func addressesOf(node *corev1.Node) []string {
	var out []string
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range node.Status.Addresses {
			if a.Type == kind {
				out = append(out, a.Address)
			}
		}
	}
	return out
}

// dialThrough lets the node at the other end dial.
func dialThrough(ctx context.Context, session *yamux.Session, address string) (net.Conn, error) {
	stream, err := session.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("open the tunnel to %s: %w", address, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() })
	_ = stream.SetDeadline(time.Now().Add(dialTimeout))
	_, err = io.WriteString(stream, address+"\n")
	problem := ""
	if err == nil {
		problem, err = readLine(stream)
	}
	if err == nil && problem != "" {
		err = errors.New(problem)
	}
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = stream.Close()
		return nil, fmt.Errorf("dial %s by the tunnel of its node: %w", address, err)
	}
	_ = stream.SetDeadline(time.Time{})
	return stream, nil
}
