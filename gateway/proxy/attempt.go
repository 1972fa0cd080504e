// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	maxMoves        = 2 // to other endpoints, when one cannot be connected to
	defaultAttempts = 2
	defaultBackoff  = 25 * time.Millisecond
	maxReplay       = 64 << 10 // of a body that is kept for retries
)

// RoundTrip gets an answer from one of the endpoints. An endpoint that cannot be connected to has not seen the request, so another one
// is asked, always. Anything further is the rule's Retry.
func (x *exchange) RoundTrip(out *http.Request) (*http.Response, error) {
	transport := x.target.transport
	if x.route.GRPC {
		transport = x.target.grpc
	}
	replay, err := x.keepBody(out)
	if err != nil {
		return nil, err
	}
	if x.mirror != nil {
		x.mirror.begin(out, replay)
	}
	client := ""
	if x.target.service.ClientIP {
		client, _ = x.client()
	}
	first := x.target.first(client)
	for moves, retries := 0, 0; ; {
		res, err := x.attempt(transport, out, x.target.endpoint(first+uint32(moves+retries)), replay)
		switch {
		case err != nil && moves < min(maxMoves, len(x.target.addresses)-1) && notConnected(err) && out.Context().Err() == nil:
			moves++
		case x.again(out, res, err, retries, replay):
			retries++
			if res != nil {
				_, _ = io.CopyN(io.Discard, res.Body, 4<<10) // so that the connection can be used again
				_ = res.Body.Close()
			}
			if err := pause(out.Context(), cmp.Or(x.Retry.Backoff, defaultBackoff)); err != nil {
				return nil, err
			}
		default:
			if res != nil && res.StatusCode == http.StatusSwitchingProtocols && x.timer != nil {
				x.timer.Stop() // what comes now is as long as it is
			}
			return res, err
		}
		x.socket.proxy.cfg.Metrics.retry()
	}
}

// again says whether the rule wants another attempt.
func (x *exchange) again(out *http.Request, res *http.Response, err error, retries int, replay []byte) bool {
	policy := x.Retry
	if policy == nil || retries >= cmp.Or(policy.Attempts, defaultAttempts) || out.Context().Err() != nil || x.bodyErr.Load() != nil {
		return false
	}
	if out.Body != nil && replay == nil && !notConnected(err) {
		return false // the body is gone
	}
	return err != nil || slices.Contains(policy.Codes, res.StatusCode)
}

// keepBody reads a body that may be needed again, if it is small. It returns nil for others.
func (x *exchange) keepBody(out *http.Request) ([]byte, error) {
	if x.Retry == nil || out.Body == nil || out.ContentLength <= 0 || out.ContentLength > maxReplay {
		return nil, nil
	}
	body := make([]byte, out.ContentLength)
	_, err := io.ReadFull(out.Body, body)
	return body, err
}

// attempt asks one endpoint.
func (x *exchange) attempt(transport *http.Transport, out *http.Request, endpoint string, replay []byte) (*http.Response, error) {
	ctx, done := out.Context(), func() {}
	var timer *time.Timer
	if x.BackendTimeout > 0 {
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		timer = time.AfterFunc(x.BackendTimeout, func() { cancel(errTimeout) })
		done = func() { timer.Stop(); cancel(nil) }
	}
	request := out.WithContext(ctx)
	url := *out.URL
	url.Host = endpoint
	request.URL = &url
	switch {
	case replay != nil:
		request.Body = io.NopCloser(bytes.NewReader(replay))
	case out.Body != nil:
		request.Body = io.NopCloser(out.Body) // it is not closed by an attempt that fails before it was read
	}
	res, err := transport.RoundTrip(request)
	if timer == nil {
		return res, err
	}
	if err != nil {
		if context.Cause(ctx) == errTimeout {
			err = errors.Join(errTimeout, err)
		}
		done()
		return nil, err
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		timer.Stop()
		return res, nil
	}
	res.Body = &timedBody{ReadCloser: res.Body, done: sync.OnceFunc(done)}
	return res, nil
}

// timedBody is a body that has to end before the context of its request does.
type timedBody struct {
	io.ReadCloser
	done func()
}

func (b *timedBody) Close() error {
	defer b.done()
	return b.ReadCloser.Close()
}

// notConnected says whether err means that no connection to the endpoint came about.
func notConnected(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
