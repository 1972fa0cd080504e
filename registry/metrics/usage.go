// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/skiff-k8s/skiff/registry/core/podconnect"
)

const (
	fresh    = 10 * time.Second // an answer that is younger is given again
	useful   = 2 * time.Minute  // a reading that is older tells nothing about the use of CPU now
	firstGap = time.Second      // between the two readings that a first answer needs
	patience = 10 * time.Second // with a kubelet
)

// Summaries asks the kubelet of a node what the node, its pods and their containers have used so far.
type Summaries interface {
	Summary(ctx context.Context, node string) (*stats.Summary, error)
}

// Usage knows what nodes and pods use. The use of CPU is the difference of two readings of a kubelet: those of this
// question and of the one before, or two in a row if nobody has asked for a while.
type Usage struct {
	summaries Summaries

	mu    sync.Mutex
	nodes map[string]*nodeUsage // guarded by mu
}

// NewUsage returns a Usage that has asked nobody yet.
func NewUsage(summaries Summaries) *Usage {
	return &Usage{summaries: summaries, nodes: map[string]*nodeUsage{}}
}

// nodeUsage is what is known of one node. Who holds mu asks; the others wait for the answer.
type nodeUsage struct {
	mu      sync.Mutex
	reading *reading // the last one, nil without one
	answer  used
}

// reading is a summary, and when it was read.
type reading struct {
	at      time.Time
	summary *stats.Summary
}

// used is what a node and its pods use.
type used struct {
	node *amount // nil if the kubelet does not tell
	pods map[types.UID][]containerAmount
}

// amount is what something uses: of CPU on average in the window before at, of memory then.
type amount struct {
	at       time.Time
	window   time.Duration
	nanoCPUs uint64
	bytes    uint64
}

type containerAmount struct {
	name string
	amount
}

func (a *amount) list() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(a.nanoCPUs), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(int64(a.bytes), resource.BinarySI),
	}
}

// of returns what the nodes use, without those that do not answer.
func (u *Usage) of(ctx context.Context, nodes []string) map[string]used {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	u.forget()
	var mu sync.Mutex
	out := map[string]used{}
	var asked sync.WaitGroup
	for _, name := range nodes {
		asked.Go(func() {
			answer, err := u.node(name).ask(ctx, name, u.summaries)
			if err != nil {
				klog.FromContext(ctx).Error(err, "Reading the usage of a node", "node", name)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[name] = answer
		})
	}
	asked.Wait()
	return out
}

// forget drops what is of no use any more, as nodes come and go.
func (u *Usage) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for name, n := range u.nodes {
		if !n.mu.TryLock() {
			continue // it is being asked
		}
		if n.reading != nil && time.Since(n.reading.at) > useful {
			delete(u.nodes, name)
		}
		n.mu.Unlock()
	}
}

func (u *Usage) node(name string) *nodeUsage {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.nodes[name] == nil {
		u.nodes[name] = &nodeUsage{}
	}
	return u.nodes[name]
}

func (n *nodeUsage) ask(ctx context.Context, name string, summaries Summaries) (used, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.reading != nil && time.Since(n.reading.at) < fresh {
		return n.answer, nil
	}
	before := n.reading
	if before == nil || time.Since(before.at) > useful {
		var err error
		if before, err = read(ctx, name, summaries); err != nil {
			return used{}, err
		}
		select {
		case <-time.After(firstGap):
		case <-ctx.Done():
			return used{}, ctx.Err()
		}
	}
	now, err := read(ctx, name, summaries)
	if err != nil {
		return used{}, err
	}
	n.reading, n.answer = now, compare(before.summary, now.summary)
	return n.answer, nil
}

func read(ctx context.Context, name string, summaries Summaries) (*reading, error) {
	summary, err := summaries.Summary(ctx, name)
	if err != nil {
		return nil, err
	}
	return &reading{time.Now(), summary}, nil
}

// compare finds out what was used between two readings.
func compare(before, now *stats.Summary) used {
	out := used{pods: map[types.UID][]containerAmount{}}
	if a, ok := difference(before.Node.CPU, now.Node.CPU, now.Node.Memory, now.Node.StartTime.Time); ok {
		out.node = &a
	}
	type id struct{ pod, container string }
	had := map[id]stats.ContainerStats{}
	for _, pod := range before.Pods {
		for _, c := range pod.Containers {
			had[id{pod.PodRef.UID, c.Name}] = c
		}
	}
	for _, pod := range now.Pods {
		for _, c := range pod.Containers {
			old := had[id{pod.PodRef.UID, c.Name}]
			if old.CPU != nil && !old.StartTime.Equal(&c.StartTime) {
				old.CPU = nil // it was another one of that name
			}
			if a, ok := difference(old.CPU, c.CPU, c.Memory, c.StartTime.Time); ok {
				uid := types.UID(pod.PodRef.UID)
				out.pods[uid] = append(out.pods[uid], containerAmount{c.Name, a})
			}
		}
	}
	return out
}

// difference is false if something is not known. What there was no earlier reading of has used what it has since its
// start; and if the clock has not moved between two readings, the kubelet may know the rate itself.
func difference(before, now *stats.CPUStats, memory *stats.MemoryStats, start time.Time) (amount, bool) {
	if now == nil || now.UsageCoreNanoSeconds == nil || memory == nil || memory.WorkingSetBytes == nil {
		return amount{}, false
	}
	a := amount{at: now.Time.Time, bytes: *memory.WorkingSetBytes}
	since, total := start, uint64(0)
	if before != nil && before.UsageCoreNanoSeconds != nil {
		since, total = before.Time.Time, *before.UsageCoreNanoSeconds
	}
	a.window = a.at.Sub(since)
	switch {
	case a.window > 0 && *now.UsageCoreNanoSeconds >= total && since.Unix() > 0:
		a.nanoCPUs = uint64(float64(*now.UsageCoreNanoSeconds-total) / a.window.Seconds())
	case now.UsageNanoCores != nil:
		a.nanoCPUs, a.window = *now.UsageNanoCores, fresh
	default:
		return amount{}, false
	}
	return a, true
}

// Kubelets asks kubelets the way the API server reaches them.
type Kubelets struct{ podconnect.Kubelets }

// Summary implements Summaries.
func (k Kubelets) Summary(ctx context.Context, node string) (*stats.Summary, error) {
	connection, err := k.Connection(ctx, node)
	if err != nil {
		return nil, err
	}
	address := connection.URL("/stats/summary", url.Values{"only_cpu_and_memory": {"true"}})
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, err
	}
	response, err := (&http.Client{Transport: connection.Transport}).Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the kubelet: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask the kubelet: %s", response.Status)
	}
	summary := &stats.Summary{}
	if err := json.NewDecoder(response.Body).Decode(summary); err != nil {
		return nil, fmt.Errorf("read the kubelet's answer: %w", err)
	}
	return summary, nil
}
