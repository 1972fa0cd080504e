// SPDX-License-Identifier: Apache-2.0

package nodelifecycle

import (
	"math"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/topology"
)

// How many nodes per second may get a NoExecute taint in a zone.
const (
	normalQPS      = 0.1  // also where a whole zone is down and others are not
	reducedQPS     = 0.01 // in a large zone of which much is down; in a small one, none
	largeZone      = 50   // nodes; larger ones are large
	muchIsDown     = 0.55 // of a zone's nodes, and at least three
	noToken        = 5 * time.Second
	excludeMarking = "node.kubernetes.io/exclude-disruption"
)

// zones limits the rate of evictions per zone.
type zones struct {
	limiters map[string]*rate.Limiter
	granted  map[string]bool // nodes that have their token: until they are ready again, whatever the cache shows
	allDown  bool            // at the last judgement
}

func newZones() *zones {
	return &zones{limiters: map[string]*rate.Limiter{}, granted: map[string]bool{}}
}

// verdict is what the state of all nodes means for each.
type verdict struct {
	allDown bool               // not one node is ready: rather the network or this controller is broken
	qps     map[string]float32 // by zone
	zones   map[string]count
}

// count is how many nodes a zone has.
type count struct{ ready, notReady int }

func zoneOf(node *corev1.Node) string { return topology.GetZoneKey(node) }

// judge looks at all nodes. recovered tells that all were down before and no longer are.
func (z *zones) judge(nodes []*corev1.Node) (v verdict, recovered bool) {
	v = judge(nodes)
	recovered = z.allDown && !v.allDown
	z.allDown = v.allDown
	return v, recovered
}

func judge(nodes []*corev1.Node) verdict {
	ready, notReady := map[string]int{}, map[string]int{}
	v := verdict{qps: map[string]float32{}, zones: map[string]count{}}
	for _, node := range nodes {
		if _, excluded := node.Labels[excludeMarking]; excluded {
			continue
		}
		if readyStatus(node) == corev1.ConditionTrue {
			ready[zoneOf(node)]++
		} else {
			notReady[zoneOf(node)]++
		}
	}
	v.allDown = len(ready) == 0 && len(notReady) > 0
	for zone, n := range ready {
		v.zones[zone] = count{ready: n}
	}
	for zone, down := range notReady {
		v.zones[zone] = count{ready[zone], down}
		size := down + ready[zone]
		switch {
		case ready[zone] == 0 || down <= 2 || float64(down)/float64(size) < muchIsDown:
			v.qps[zone] = normalQPS
		case size > largeZone:
			v.qps[zone] = reducedQPS
		default:
			v.qps[zone] = 0
		}
	}
	return v
}

// reserve takes a token of the zone, which has qps new ones per second, for the node, or says when to ask again.
func (z *zones) reserve(node, zone string, qps float32) time.Duration {
	if z.granted[node] {
		return 0
	}
	limiter := z.limiters[zone]
	if limiter == nil {
		limiter = rate.NewLimiter(rate.Limit(qps), 1)
		z.limiters[zone] = limiter
	}
	if limiter.Limit() != rate.Limit(qps) {
		limiter.SetLimit(rate.Limit(qps))
	}
	if qps <= 0 {
		return noToken
	}
	if limiter.Allow() {
		z.granted[node] = true
		return 0
	}
	missing := 1 - limiter.Tokens()
	return time.Duration(math.Ceil(missing/float64(qps)*float64(time.Second))) + time.Millisecond
}
