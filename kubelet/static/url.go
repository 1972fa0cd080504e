// SPDX-License-Identifier: Apache-2.0

package static

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

const (
	urlSource  = "http"
	urlTimeout = 10 * time.Second

	// So many failures in a row are told; a server that is away would fill the log.
	failuresTold = 3
)

// page is what lies at a URL: one Pod or a PodList. What could be read last stays in force until there is something else to read.
type page struct {
	cfg    *Config
	client *http.Client

	raw    []byte // as last read, good or bad; only fetch uses it
	failed int    // times in a row, likewise

	mu   sync.Mutex
	good []*v1.Pod // guarded by mu
	seen bool      // guarded by mu: it has answered
}

func newPage(cfg *Config) *page { return &page{cfg: cfg, client: &http.Client{Timeout: urlTimeout}} }

// pods are those of the page, and whether it has answered since the start.
func (p *page) pods() (pods []*v1.Pod, seen bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.good, p.seen
}

// run looks every so often, and calls changed when there are other pods.
func (p *page) run(ctx context.Context, changed func()) {
	tick := time.NewTicker(p.cfg.Period)
	defer tick.Stop()
	for {
		news, err := p.fetch(ctx)
		p.report(ctx, err)
		if news {
			changed()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *page) report(ctx context.Context, err error) {
	logger := klog.FromContext(ctx)
	switch {
	case ctx.Err() != nil:
	case err == nil && p.failed > 0:
		logger.Info("Static pods can be read again", "url", p.cfg.URL)
		p.failed = 0
	case err != nil && p.failed < failuresTold:
		p.failed++
		logger.Error(err, "Reading static pods", "url", p.cfg.URL)
	}
}

// fetch reads the page, and says whether that is news.
func (p *page) fetch(ctx context.Context) (news bool, err error) {
	raw, err := p.get(ctx)
	if err != nil {
		return false, err
	}
	if len(raw) == 0 {
		p.raw = nil
		return p.take(nil), fmt.Errorf("zero-length data received from %v", p.cfg.URL)
	}
	if bytes.Equal(raw, p.raw) {
		return false, nil
	}
	p.raw = raw
	pods, err := p.parse(raw)
	if err != nil {
		return false, err
	}
	return p.take(pods), nil
}

func (p *page) get(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.cfg.URL, nil)
	if err != nil {
		return nil, err
	}
	req.Header = p.cfg.Header.Clone()
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%v: %v", p.cfg.URL, resp.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxFile+1))
	if err == nil && len(raw) > maxFile {
		err = fmt.Errorf("%v: more than %d bytes", p.cfg.URL, maxFile)
	}
	return raw, err
}

// parse makes the pods of a page; all of them have to be good.
func (p *page) parse(raw []byte) ([]*v1.Pod, error) {
	obj, err := decode(raw)
	if err != nil {
		return nil, err
	}
	var pods []*v1.Pod
	switch o := obj.(type) {
	case *v1.Pod:
		pods = []*v1.Pod{o}
	case *v1.PodList:
		for i := range o.Items {
			pods = append(pods, &o.Items[i])
		}
	default:
		return nil, fmt.Errorf("it holds a %s, not a Pod or a PodList", obj.GetObjectKind().GroupVersionKind().Kind)
	}
	for _, pod := range pods {
		if err := p.cfg.complete(pod, urlSource, "url:"+p.cfg.URL); err != nil {
			return nil, err
		}
	}
	return pods, nil
}

// take puts pods in force. One that is as it was stays the same.
func (p *page) take(pods []*v1.Pod) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	news = !p.seen || len(pods) != len(p.good)
	for i, pod := range pods {
		same := false
		for _, was := range p.good {
			if was.UID == pod.UID {
				pods[i], same = was, true
			}
		}
		news = news || !same
	}
	p.good, p.seen = pods, true
	return news
}
