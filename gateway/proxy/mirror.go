// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/skiff-k8s/skiff/gateway/table"
)

const (
	maxMirrors    = 256              // requests under way; further ones are not mirrored
	mirrorTimeout = 15 * time.Second // for each
	maxMirrorBody = 1 << 20          // requests with more are not mirrored
)

// mirrored is a request of which others get a copy. Nobody waits for them: a copy is sent when its body has gone to the backend.
type mirrored struct {
	proxy   *Proxy
	grpc    bool
	slots   []*slot
	request *http.Request // the copy, without its body

	mu   sync.Mutex // guards what follows: the body may be read while the answer is on its way
	body []byte
	full bool // all of body is there, and the copies are sent
}

// newMirrored returns what to do about the rule's mirrors, or nil if none gets this request.
func (x *exchange) newMirrored(out *http.Request) *mirrored {
	var chosen []*slot
	for i, m := range x.Filters.Mirrors {
		if applies(m) {
			chosen = append(chosen, x.mirrors[i])
		}
	}
	if len(chosen) == 0 || out.ContentLength > maxMirrorBody {
		return nil
	}
	return &mirrored{proxy: x.socket.proxy, grpc: x.route.GRPC, slots: chosen}
}

// applies throws the dice for one request.
func applies(m table.Mirror) bool {
	return m.Denominator <= 0 || rand.Int32N(m.Denominator) < m.Numerator
}

// begin takes the copy of a request that is about to be sent. body is its body, if that has been read.
func (m *mirrored) begin(out *http.Request, body []byte) {
	m.request = out.Clone(m.proxy.ctx)
	m.request.Body = nil
	if out.Body == nil || body != nil {
		m.body, m.full = body, true
		m.send()
		return
	}
	out.Body = &copiedBody{ReadCloser: out.Body, to: m}
}

// finish is called when the backend has answered: what it has not read by then nobody gets.
func (m *mirrored) finish() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.full = true
}

// copiedBody keeps what is read of a body.
type copiedBody struct {
	io.ReadCloser
	to *mirrored
}

func (b *copiedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.to.keep(p[:n], err == io.EOF)
	return n, err
}

func (m *mirrored) keep(p []byte, end bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full {
		return
	}
	if m.body = append(m.body, p...); len(m.body) > maxMirrorBody {
		m.full, m.body = true, nil
		m.proxy.cfg.Metrics.mirrorDropped()
	} else if end {
		m.full = true
		m.send()
	}
}

// send sends the copies. It does not wait.
func (m *mirrored) send() {
	for _, s := range m.slots {
		n := s.target.Load()
		if n == nil {
			continue
		}
		select {
		case m.proxy.mirrors <- struct{}{}:
			go func() {
				defer func() { <-m.proxy.mirrors }()
				m.sendTo(n)
			}()
		default:
			m.proxy.cfg.Metrics.mirrorDropped()
		}
	}
}

func (m *mirrored) sendTo(n *target) {
	ctx, cancel := context.WithTimeout(m.proxy.ctx, mirrorTimeout)
	defer cancel()
	request := m.request.Clone(ctx)
	request.URL.Scheme, request.URL.Host = n.scheme, n.endpoint(n.first(""))
	if m.body != nil {
		request.Body, request.ContentLength = io.NopCloser(bytes.NewReader(m.body)), int64(len(m.body))
	}
	request.Header.Del("Connection") // nobody would speak on an upgraded connection
	request.Header.Del("Upgrade")
	transport := n.transport
	if m.grpc {
		transport = n.grpc
	}
	res, err := transport.RoundTrip(request)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
}
