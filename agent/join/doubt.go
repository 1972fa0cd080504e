// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"
)

// How long a server may take before it is asked whether it is well, and how long it may take to say so. A node's heartbeat, every
// 10 s, has to reach another server before the 50 s are over after which the node is given up.
const (
	answerPatience = 10 * time.Second
	readyPatience  = 5 * time.Second
)

// doubting is the way to whichever server is in use. Where an answer does not come, or says that the server cannot do its work, the server
// is asked whether it is ready, and left for another one that is: it may be cut off from the others, or hang, and take connections all the
// same.
type doubting struct {
	http.RoundTripper
	servers *servers
	ready   func(ctx context.Context, server string) error
	asking  sync.Mutex  // one at a time
	skewed  atomic.Bool // the clocks differed when a server answered last
}

// RoundTrip implements http.RoundTripper.
func (d *doubting) RoundTrip(r *http.Request) (*http.Response, error) {
	slow := time.AfterFunc(answerPatience, func() { d.doubt(r.Context()) }) // watches too are answered at once
	response, err := d.RoundTripper.RoundTrip(r)
	slow.Stop()
	if err != nil {
		if !errors.Is(r.Context().Err(), context.Canceled) {
			d.doubt(r.Context())
		}
		return nil, namesClock(err)
	}
	if response.StatusCode >= http.StatusInternalServerError {
		d.doubt(r.Context())
	}
	skew := checkClock(response.Header.Get("Date"), time.Now())
	d.tell(r.Context(), skew)
	if skew != nil && response.StatusCode == http.StatusUnauthorized { // a certificate is about time: it may be a good one
		_ = response.Body.Close()
		return nil, skew
	}
	return response, nil
}

// tell says when the clocks begin to differ and when they do not any more. The node works nevertheless, as long as certificates are valid.
func (d *doubting) tell(ctx context.Context, skew error) {
	switch was := d.skewed.Swap(skew != nil); {
	case skew != nil && !was:
		klog.FromContext(ctx).Error(skew, "What this node writes and reads about times is wrong")
	case skew == nil && was:
		klog.FromContext(ctx).Info("The clocks of this machine and of the server agree again")
	}
}

// WrappedRoundTripper is for who looks for the transport's connections.
func (d *doubting) WrappedRoundTripper() http.RoundTripper { return d.RoundTripper }

// doubt leaves the server in use if it is not ready and another one is.
func (d *doubting) doubt(ctx context.Context) {
	if !d.asking.TryLock() {
		return
	}
	defer d.asking.Unlock()
	all := d.servers.list()
	inUse, others := all[0], all[1:]
	if len(others) == 0 {
		return
	}
	ctx = context.WithoutCancel(ctx) // the answer is of use to others
	err := d.ready(ctx, inUse)
	if err == nil {
		return
	}
	for _, other := range others {
		if d.ready(ctx, other) == nil {
			klog.FromContext(ctx).Info("A server is not ready, going on with another one", "server", inUse, "err", err, "other", other)
			d.servers.use(other)
			return
		}
	}
}

// askReady asks one server whether it is ready, by a connection of its own.
func askReady(ctx context.Context, config *tls.Config, server string) error {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, server)
		},
		TLSClientConfig: config, DisableKeepAlives: true,
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+apiName+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= http.StatusInternalServerError {
		return fmt.Errorf("it is not ready: %s", response.Status)
	}
	return nil
}
