// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// Explanation is why a pod has no node, as the scheduler sees it at this moment.
type Explanation struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Node that the pod has already; then there is nothing more to say, but for whether there is such a node.
	Node        string `json:"node,omitempty"`
	NodeMissing bool   `json:"nodeMissing,omitempty"`
	// State is where the pod is: "active", "backoff", "unschedulable", "gated", "in flight", "binding", "deleted" (it is being deleted, so that
	// it is not looked at), "ended" (nor is it if it has), "elsewhere" (this scheduler does not run, since another server's does), or "" for
	// another scheduler's.
	State     string     `json:"state,omitempty"`
	Binding   string     `json:"binding,omitempty"`   // the node that the pod is going to be bound to
	Nominated string     `json:"nominated,omitempty"` // the node where room is kept for the pod
	Attempts  int        `json:"attempts,omitempty"`
	Until     *time.Time `json:"until,omitempty"` // the end of its back-off
	// Scheduler is the pod's schedulerName.
	Scheduler string `json:"scheduler"`
	// Condition is the message of the last attempt.
	Condition string `json:"condition,omitempty"`
	// Whole is what keeps the pod from all nodes.
	Whole []Objection `json:"whole,omitempty"`
	Nodes []Verdict   `json:"nodes,omitempty"`
	// Preemption is how others might make room; nil if the pod fits somewhere, or nothing can be said.
	Preemption *Preemption `json:"preemption,omitempty"`
}

// Preemption says that the pod would fit on a node if some pods went, that it waits for these to go, or why that helps nowhere.
type Preemption struct {
	Node       string   `json:"node,omitempty"`
	Victims    []string `json:"victims,omitempty"`    // namespace/name
	Leaving    bool     `json:"leaving,omitempty"`    // they are being deleted already
	Violations int      `json:"violations,omitempty"` // of PodDisruptionBudgets
	Reason     string   `json:"reason,omitempty"`     // why not
}

// Verdict is what speaks against one node; nothing, if the pod would fit there.
type Verdict struct {
	Node       string      `json:"node"`
	Objections []Objection `json:"objections,omitempty"`
}

// Objection is a plugin's.
type Objection struct {
	Plugin string `json:"plugin"`
	Reason string `json:"reason"`
	Help   string `json:"help,omitempty"` // what change would help
}

// Explain asks all plugins about all nodes, without placing the pod. It needs Config.StartInformers, for what plugins want to know must
// be there for longer than the question.
func (s *Scheduler) Explain(ctx context.Context, namespace, name string) (*Explanation, error) {
	if s.lazy.startAll == nil {
		return nil, errors.New("the scheduler cannot explain: it was made without StartInformers")
	}
	if !toolscache.WaitFor(ctx, "", s.synced...) {
		return nil, context.Cause(ctx)
	}
	pod, err := s.pods.Pods(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	e := &Explanation{Namespace: namespace, Name: name, Node: pod.Spec.NodeName, Scheduler: pod.Spec.SchedulerName}
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse {
			e.Condition = c.Message
		}
	}
	profile := s.profileOf(pod)
	switch {
	case pod.Spec.NodeName != "":
		_, err := s.informers.Core().V1().Nodes().Lister().Get(pod.Spec.NodeName)
		e.NodeMissing = apierrors.IsNotFound(err)
		return e, nil
	case finished(pod):
		e.State = "ended"
		return e, nil
	case profile == nil:
		return e, nil
	case pod.DeletionTimestamp != nil:
		e.State = "deleted"
		return e, nil
	}
	if e.Binding = s.cache.AssumedOn(pod); e.Binding != "" {
		e.State = "binding"
		return e, nil
	}
	e.State = "elsewhere"
	if s.running.Load() {
		e.State, e.Attempts, e.Until = s.queue.Find(pod.UID)
	}
	e.Nominated = s.queue.Nominated.NodeOf(pod.UID)
	cycle := framework.NewCycle(profile, framework.NewPodInfo(pod), s.cache.Snapshot(), s.queue.Nominated)
	if plugin, status := profile.PreEnqueue(pod); status != nil {
		e.Whole = s.advise(cycle).objections(plugin, status, nil)
		return e, nil
	}
	return e, s.explainNodes(ctx, e, cycle)
}

func (s *Scheduler) advise(cycle *framework.Cycle) *advisor {
	return &advisor{cycle.Pod, cycle.Snapshot, s.informers.Core().V1().Namespaces().Lister()}
}

func (s *Scheduler) explainNodes(ctx context.Context, e *Explanation, cycle *framework.Cycle) error {
	advisor := s.advise(cycle)
	names, by, plugin, status := cycle.PreFilter(ctx)
	if status != nil {
		e.Whole = advisor.objections(plugin, status, nil)
		return nil
	}
	d := &framework.Diagnosis{Nodes: cycle.Snapshot.Nodes, Statuses: make([]*framework.Status, len(cycle.Snapshot.Nodes))}
	fits, others := false, fmt.Sprintf("change what it asks for: %v", sets.List(names))
	for i, node := range cycle.Snapshot.Nodes {
		v := Verdict{Node: node.Node.Name}
		if names != nil && !names.Has(node.Node.Name) {
			v.Objections = []Objection{{Plugin: strings.Join(sets.List(by), ", "), Reason: "the pod names other nodes", Help: others}}
			d.Statuses[i] = framework.RejectForGood()
		} else {
			cycle.FilterAll(node, func(plugin string, status *framework.Status) {
				v.Objections = append(v.Objections, advisor.objections(plugin, status, node)...)
				if d.Statuses[i] == nil { // Filter would have ended here
					d.Statuses[i] = status
				}
			})
			if d.Statuses[i] == nil {
				v.Objections = s.promised(advisor, cycle, node)
			} else if kept := s.keptFor(cycle, node); len(kept) > 0 {
				v.Objections[0].Help += "; besides, room is kept there for " + strings.Join(kept, ", ")
			}
		}
		fits = fits || len(v.Objections) == 0
		e.Nodes = append(e.Nodes, v)
	}
	if node := cycle.Snapshot.ByName[e.Nominated]; node != nil {
		e.Preemption = leaving(cycle.Pod.Pod, node)
	}
	if !fits && e.Preemption == nil {
		e.Preemption = plan(ctx, cycle, d)
	}
	return nil
}

// leaving are less important pods that are on their way out, on the node where room is kept for the pod; nil if there are none.
func leaving(pod *v1.Pod, node *framework.NodeInfo) *Preemption {
	p := &Preemption{Node: node.Node.Name, Leaving: true}
	for _, other := range node.Pods {
		if other.Pod.DeletionTimestamp != nil && framework.Priority(other.Pod) < framework.Priority(pod) {
			p.Victims = append(p.Victims, framework.Key(other.Pod).String())
		}
	}
	if len(p.Victims) == 0 {
		return nil
	}
	return p
}

// keptFor names the other pods, of at least the pod's priority, for which room is kept on a node.
func (s *Scheduler) keptFor(cycle *framework.Cycle, node *framework.NodeInfo) []string {
	var names []string
	for _, other := range s.queue.Nominated.NominatedPods(node.Node.Name) {
		if framework.Priority(other.Pod) >= framework.Priority(cycle.Pod.Pod) && other.Pod.UID != cycle.Pod.Pod.UID {
			names = append(names, framework.Key(other.Pod).String())
		}
	}
	return names
}

// promised is what speaks against a node because of pods that are nominated to it.
func (s *Scheduler) promised(advisor *advisor, cycle *framework.Cycle, node *framework.NodeInfo) []Objection {
	plugin, status := cycle.Filter(node)
	if status == nil {
		return nil
	}
	all := advisor.objections(plugin, status, node)
	for i := range all {
		all[i].Help = "wait: the node is kept for " + strings.Join(s.keptFor(cycle, node), ", ")
	}
	return all
}

// plan asks what preemption would do.
func plan(ctx context.Context, cycle *framework.Cycle, d *framework.Diagnosis) *Preemption {
	victims, status := cycle.Plan(ctx, d)
	switch {
	case victims == nil && status == nil:
		return nil
	case victims == nil:
		return &Preemption{Reason: status.Message()}
	}
	p := &Preemption{Node: victims.Node.Node.Name, Violations: victims.Violations}
	for _, pod := range victims.Pods {
		p.Victims = append(p.Victims, framework.Key(pod).String())
	}
	return p
}

// ExplainPath is where ServeHTTP is to be reached, followed by the pod's namespace and name.
const ExplainPath = "/skiff/explain-pod/"

// ServeHTTP answers with an Explanation as JSON.
func (s *Scheduler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	namespace, name, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, ExplainPath), "/")
	if !ok || name == "" || r.Method != http.MethodGet {
		http.NotFound(w, r)
		return
	}
	e, err := s.Explain(r.Context(), namespace, name)
	switch {
	case apierrors.IsNotFound(err):
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(e); err != nil {
		klog.FromContext(r.Context()).V(2).Info("Answering why a pod has no node", "err", err)
	}
}
