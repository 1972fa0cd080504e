// SPDX-License-Identifier: Apache-2.0

// Package defaultpreemption makes room for a pod that fits nowhere by deleting pods of lower priority from one node.
//
// victims.go decides without doing anything: for each node where it may help, the fewest and least important pods to
// go, and of all nodes the one where that hurts least. This file acts on it: the pod is nominated to the node at once, the
// victims are deleted in the background, and meanwhile the pod stays out of the queue.
//
// Reference: https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/
package defaultpreemption

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/metrics"
)

// Args configures the plugin; the zero value is the default.
type Args struct {
	// Candidates are looked for on at least MinCandidateNodesPercentage (10) of the nodes, and MinCandidateNodesAbsolute (100). A negative value
	// means that it sets no minimum.
	MinCandidateNodesPercentage, MinCandidateNodesAbsolute int
}

type plugin struct {
	Args
	handle *framework.Handle

	mu         sync.Mutex
	preempting sets.Set[types.UID] // pods whose victims are being deleted just now
}

// New returns a constructor of the plugin.
func New(args Args) func(*framework.Handle) (framework.Plugin, error) {
	if args.MinCandidateNodesPercentage == 0 {
		args.MinCandidateNodesPercentage = 10
	}
	if args.MinCandidateNodesAbsolute == 0 {
		args.MinCandidateNodesAbsolute = 100
	}
	return func(h *framework.Handle) (framework.Plugin, error) {
		return &plugin{Args: args, handle: h, preempting: sets.New[types.UID]()}, nil
	}
}

func (*plugin) Name() string { return "DefaultPreemption" }

// PreEnqueue holds a pod back as long as its victims are being deleted: it would only try again in vain.
func (p *plugin) PreEnqueue(pod *v1.Pod) *framework.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.preempting.Has(pod.UID) {
		return framework.RejectForGood("waiting for the preemption for this pod to be finished")
	}
	return nil
}

// Hints has none: Recheck ends what PreEnqueue began.
func (*plugin) Hints() []framework.Hint { return nil }

// PostFilter nominates the pod to a node where deleting pods helps, and starts deleting them.
func (p *plugin) PostFilter(ctx context.Context, cycle *framework.Cycle, d *framework.Diagnosis) (*framework.Nomination, *framework.Status) {
	p.handle.Metrics.Preemptions.Inc()
	if reason := mayNotPreempt(cycle, d); reason != "" {
		return nil, framework.Reject("preemption: " + reason)
	}
	best, status := p.plan(ctx, cycle, d)
	switch {
	case status.Code() == framework.Error:
		return nil, status
	case best == nil:
		return &framework.Nomination{}, status
	}
	p.handle.Metrics.Victims.Observe(float64(len(best.Pods)))
	p.evict(ctx, cycle.Pod.Pod, best)
	return &framework.Nomination{NodeName: best.Node.Node.Name}, framework.NewStatus(framework.Success,
		fmt.Sprintf("preemption: found a potential placement for pod on node %v, preempting %d victims", best.Node.Node.Name, len(best.Pods)))
}

// Plan implements framework.Planner.
func (p *plugin) Plan(ctx context.Context, cycle *framework.Cycle, d *framework.Diagnosis) (*framework.Victims, *framework.Status) {
	if reason := mayNotPreempt(cycle, d); reason != "" {
		return nil, framework.Reject("preemption: " + reason)
	}
	return p.plan(ctx, cycle, d)
}

// plan picks the node where deleting pods hurts least; nil, with the reason, if it helps nowhere.
func (p *plugin) plan(ctx context.Context, cycle *framework.Cycle, d *framework.Diagnosis) (*framework.Victims, *framework.Status) {
	found, failed, err := p.findCandidates(ctx, cycle, d)
	if err == nil && p.handle.Preempt != nil && len(found) > 0 {
		found, err = p.askOthers(ctx, cycle.Pod.Pod, found)
	}
	switch {
	case err != nil:
		return nil, framework.AsStatus(fmt.Errorf("preemption: %w", err))
	case len(found) == 0:
		return nil, framework.Reject("preemption: " + failed.Message())
	}
	return pickOne(found).Victims, nil
}

// askOthers has extenders choose among candidates.
func (p *plugin) askOthers(ctx context.Context, pod *v1.Pod, found []*candidate) ([]*candidate, error) {
	choice := make(map[string]*framework.Victims, len(found))
	for _, c := range found {
		choice[c.Node.Node.Name] = c.Victims
	}
	left, err := p.handle.Preempt(ctx, pod, choice)
	if err != nil {
		return nil, err
	}
	found = nil
	for _, victims := range left {
		c := newCandidate(victims)
		found = append(found, &c)
	}
	return found, nil
}

// mayNotPreempt says why the pod may not preempt others now; "" if it may.
func mayNotPreempt(cycle *framework.Cycle, d *framework.Diagnosis) string {
	pod := cycle.Pod.Pod
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy == v1.PreemptNever {
		return "not eligible due to preemptionPolicy=Never."
	}
	node := cycle.Snapshot.ByName[pod.Status.NominatedNodeName]
	if node == nil || d.Status(node.Position()).Code() == framework.UnschedulableAndUnresolvable {
		return ""
	}
	for _, other := range node.Pods {
		if framework.Priority(other.Pod) < framework.Priority(pod) && preempted(other.Pod) {
			return "not eligible due to a terminating pod on the nominated node."
		}
	}
	return ""
}

// preempted says whether the pod is on its way out because of a preemption.
func preempted(pod *v1.Pod) bool {
	if pod.DeletionTimestamp == nil {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.DisruptionTarget {
			return c.Status == v1.ConditionTrue && c.Reason == v1.PodReasonPreemptionByScheduler
		}
	}
	return false
}

// evict deletes the victims in the background, and withdraws the nominations to the node that are less important.
func (p *plugin) evict(ctx context.Context, pod *v1.Pod, v *framework.Victims) {
	node := v.Node.Node.Name
	p.setPreempting(pod.UID, true)
	p.handle.Go(func() {
		began, logger := time.Now(), klog.FromContext(ctx)
		for _, other := range p.handle.Nominator.NominatedPods(node) {
			if framework.Priority(other.Pod) < framework.Priority(pod) {
				if err := p.withdrawNomination(ctx, other.Pod); err != nil {
					logger.Error(err, "Clearing the nominated node", "pod", klog.KObj(other.Pod), "node", node)
				}
			}
		}
		err := p.deleteAll(ctx, pod, v.Pods, node)
		if err != nil { // the pod's next attempt looks at everything anew
			logger.Error(err, "Preempting others", "pod", klog.KObj(pod), "node", node)
		}
		p.handle.Metrics.Evictions.WithLabelValues(metrics.Result(err)).Inc()
		p.handle.Metrics.EvictionDuration.WithLabelValues(metrics.Result(err)).Observe(time.Since(began).Seconds())
		p.setPreempting(pod.UID, false)
		p.handle.Recheck(pod.UID, err != nil)
	})
}

// atOnce is how many victims of one pod are deleted at the same time.
const atOnce = 16

func (p *plugin) deleteAll(ctx context.Context, preemptor *v1.Pod, victims []*v1.Pod, node string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, victim := range victims {
		if victim.DeletionTimestamp != nil {
			continue
		}
		group.Go(func() error {
			if err := p.deleteVictim(ctx, preemptor, victim, node); err != nil {
				return fmt.Errorf("preempt pod %v: %w", framework.Key(victim), err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (p *plugin) setPreempting(uid types.UID, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on {
		p.preempting.Insert(uid)
	} else {
		p.preempting.Delete(uid)
	}
}

func (p *plugin) withdrawNomination(ctx context.Context, pod *v1.Pod) error {
	if pod.Status.NominatedNodeName == "" {
		return nil
	}
	return p.patchStatus(ctx, pod, map[string]any{"nominatedNodeName": nil})
}

// deleteVictim lets a victim live that is not bound yet: it is tried again, somewhere else.
func (p *plugin) deleteVictim(ctx context.Context, preemptor, victim *v1.Pod, node string) error {
	note := fmt.Sprintf("Preempted by pod %v on node %v", preemptor.UID, node)
	if p.handle.TakeBack(victim.UID, "preempted by "+p.Name()) {
		note += " (in kube-scheduler memory)."
	} else if deleted, err := p.delete(ctx, preemptor, victim); !deleted {
		return err
	}
	p.handle.Recorder.Eventf(victim, preemptor, v1.EventTypeNormal, "Preempted", "Preempting", "%s", note)
	return nil
}

// delete says first in the pod's conditions that this is a disruption, so that a Job does not count it as a failure. It is false without an
// error if the pod is gone already.
func (p *plugin) delete(ctx context.Context, preemptor, victim *v1.Pod) (bool, error) {
	condition := v1.PodCondition{
		Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonPreemptionByScheduler,
		Message:            preemptor.Spec.SchedulerName + ": preempting to accommodate a higher priority pod",
		ObservedGeneration: victim.Generation, LastTransitionTime: metav1.Now(),
	}
	err := p.patchStatus(ctx, victim, map[string]any{"conditions": []v1.PodCondition{condition}})
	if err == nil {
		err = p.handle.Client.CoreV1().Pods(victim.Namespace).Delete(ctx, victim.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &victim.UID},
		})
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return false, nil
	}
	return err == nil, err
}

func (p *plugin) patchStatus(ctx context.Context, pod *v1.Pod, status map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return fmt.Errorf("encoding the patch of pod %v: %w", framework.Key(pod), err)
	}
	_, err = p.handle.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}
