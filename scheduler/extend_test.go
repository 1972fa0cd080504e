// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/scheduler/extender"
)

// opinions is an extender: it wants no pod on node a, likes c best, binds by itself, and would preempt on b only.
type opinions struct {
	testing.TB
	cluster *loneCluster
	names   bool // it is asked about names of nodes

	mu    sync.Mutex
	calls []string // guarded by mu: verb and pod
}

func answer[In any](t testing.TB, w http.ResponseWriter, r *http.Request, reply func(*In) any) {
	in := new(In)
	if err := json.NewDecoder(r.Body).Decode(in); err != nil {
		t.Errorf("reading what the extender is asked: %v", err)
	}
	if err := json.NewEncoder(w).Encode(reply(in)); err != nil {
		t.Errorf("answering as the extender: %v", err)
	}
}

func (o *opinions) note(verb, pod string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls = append(o.calls, verb+" "+pod)
}

func (o *opinions) heard(call string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Contains(o.calls, call)
}

func (o *opinions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/v1/filter":
		answer(o, w, r, func(args *extenderv1.ExtenderArgs) any {
			o.note("filter", args.Pod.Name)
			result := &extenderv1.ExtenderFilterResult{FailedNodes: extenderv1.FailedNodesMap{}}
			if o.names {
				left := slices.DeleteFunc(*args.NodeNames, func(name string) bool { return name == "a" })
				result.NodeNames = &left
			} else {
				args.Nodes.Items = slices.DeleteFunc(args.Nodes.Items, func(n v1.Node) bool { return n.Name == "a" })
				result.Nodes = args.Nodes
			}
			result.FailedNodes["a"] = "the extender does not like it"
			return result
		})
	case "/v1/prioritize":
		answer(o, w, r, func(args *extenderv1.ExtenderArgs) any {
			return extenderv1.HostPriorityList{{Host: "c", Score: 10}, {Host: "b", Score: 1}}
		})
	case "/v1/bind":
		answer(o, w, r, func(args *extenderv1.ExtenderBindingArgs) any {
			o.note("bind", args.PodName)
			o.cluster.Bind(o.Context(), &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: args.PodNamespace, Name: args.PodName}}, args.Node)
			return &extenderv1.ExtenderBindingResult{}
		})
	case "/v1/preempt":
		answer(o, w, r, func(args *extenderv1.ExtenderPreemptionArgs) any {
			o.note("preempt", args.Pod.Name)
			result := &extenderv1.ExtenderPreemptionResult{NodeNameToMetaVictims: map[string]*extenderv1.MetaVictims{}}
			if o.names {
				result.NodeNameToMetaVictims["b"] = args.NodeNameToMetaVictims["b"]
				return result
			}
			meta := &extenderv1.MetaVictims{}
			for _, p := range args.NodeNameToVictims["b"].Pods {
				meta.Pods = append(meta.Pods, &extenderv1.MetaPod{UID: string(p.UID)})
			}
			result.NodeNameToMetaVictims["b"] = meta
			return result
		})
	default:
		http.NotFound(w, r)
	}
}

// extended runs a story on nodes a, b and c with the extender, and others.
func extended(t *testing.T, names bool, change func(*configv1.Extender), others []configv1.Extender, story func(c *loneCluster, o *opinions)) {
	o := &opinions{TB: t, names: names}
	server := httptest.NewTLSServer(o)
	defer server.Close()
	config := configv1.Extender{
		URLPrefix: server.URL + "/v1/", FilterVerb: "filter", PrioritizeVerb: "prioritize", Weight: 100, BindVerb: "bind", PreemptVerb: "preempt",
		EnableHTTPS: true, NodeCacheCapable: names,
		TLSConfig: &configv1.ExtenderTLSConfig{CAData: certificate(server)},
	}
	if change != nil {
		change(&config)
	}
	var all []*extender.Extender
	for _, c := range append(others, config) {
		e, err := extender.New(c)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	c := newLoneCluster(t, 100, all...)
	o.cluster = c
	for _, name := range []string{"a", "b", "c"} {
		c.nodeChanged(nil, newNode(name))
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	story(c, o)
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func (c *loneCluster) soon(what string, ok func() bool) {
	c.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.Fatalf("not within a minute: %s", what)
		}
	}
}

func (c *loneCluster) nodeOf(name string) string {
	pod, err := c.pods.Pods("default").Get(name)
	if err != nil {
		return err.Error()
	}
	return pod.Spec.NodeName
}

func TestExtender(t *testing.T) {
	for name, names := range map[string]bool{"nodes": false, "names": true} {
		t.Run(name, func(t *testing.T) {
			extended(t, names, nil, nil, func(c *loneCluster, o *opinions) {
				c.add([]*v1.Pod{newPod("p")})
				c.soon("the pod is where the extender likes it best", func() bool { return c.nodeOf("p") == "c" })
				if !o.heard("filter p") || !o.heard("bind p") {
					t.Errorf("the extender heard %v", o.calls)
				}
				for _, node := range []string{"a", "b", "c"} {
					full := newPod("full-"+node, cpu("3"))
					full.Spec.NodeName = node
					c.add([]*v1.Pod{full})
				}
				c.add([]*v1.Pod{newPod("important", cpu("2"), func(p *v1.Pod) { p.Spec.Priority = ptr.To[int32](10) })})
				c.soon("the pod takes the place of another where the extender wants it", func() bool { return c.nodeOf("important") == "b" })
				if _, err := c.pods.Pods("default").Get("full-b"); err == nil || c.nodeOf("full-c") != "c" {
					t.Errorf("full-b is on %q, full-c on %q", c.nodeOf("full-b"), c.nodeOf("full-c"))
				}
			})
		})
	}
}

// Who is not asked about a pod has no say; who fails has none only if that is allowed.
func TestExtenderStandsAside(t *testing.T) {
	managed := func(e *configv1.Extender) {
		e.ManagedResources = []configv1.ExtenderManagedResource{{Name: "example.com/x"}}
	}
	extended(t, true, managed, nil, func(c *loneCluster, o *opinions) {
		c.add([]*v1.Pod{newPod("p")})
		c.soon("the pod has a node", func() bool { return c.nodeOf("p") != "" })
		if len(o.calls) > 0 {
			t.Errorf("the extender heard %v of a pod without its resource", o.calls)
		}
	})
	dead := configv1.Extender{URLPrefix: "http://127.0.0.1:1", FilterVerb: "filter", PrioritizeVerb: "prioritize", Weight: 1, Ignorable: true}
	extended(t, true, nil, []configv1.Extender{dead}, func(c *loneCluster, _ *opinions) {
		c.add([]*v1.Pod{newPod("p")})
		c.soon("the pod has a node", func() bool { return c.nodeOf("p") == "c" })
	})
	dead.Ignorable = false
	extended(t, true, nil, []configv1.Extender{dead}, func(c *loneCluster, _ *opinions) {
		c.add([]*v1.Pod{newPod("p")})
		c.soon("the attempt has failed", func() bool { _, backoff, _, _ := c.queue.Pending(); return backoff == 1 })
	})
}

func certificate(server *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}
