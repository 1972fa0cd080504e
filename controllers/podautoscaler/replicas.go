// SPDX-License-Identifier: Apache-2.0

package podautoscaler

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/skiff-k8s/skiff/controllers/podcontrol"
)

const (
	usualTolerance   = 0.1              // of the ratio of what is used to what is wished
	cpuInit          = 5 * time.Minute  // after the start of a pod, while its use of CPU may not mean much
	initialReadiness = 30 * time.Second // after the start of a pod, while changes of readiness belong to the start
)

// podSet is the pods of a target.
type podSet struct {
	selector labels.Selector
	list     []*corev1.Pod
}

// question is one metric of an autoscaler, with what is needed to answer it.
type question struct {
	spec      *autoscalingv2.MetricSpec
	namespace string
	pods      *podSet
	scale     *autoscalingv1.Scale
	tolerance tolerance
}

// tolerance is how far the ratio may be off before anything is done.
type tolerance struct{ down, up float64 }

func (t tolerance) allows(ratio float64) bool { return 1-t.down <= ratio && ratio <= 1+t.up }

func (a *autoscaler) tolerance() tolerance {
	t := tolerance{usualTolerance, usualTolerance}
	if b := a.Spec.Behavior; b != nil {
		if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
			t.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
		}
		if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
			t.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
		}
	}
	return t
}

// Sample is one pod's value of a metric, in thousandths.
type Sample struct {
	Value  int64
	Time   time.Time
	Window time.Duration // before Time, in which it was measured
}

// Samples are by the names of pods.
type Samples map[string]Sample

// measure compares what pods use with what is wished.
type measure interface {
	// ratio is what is used, divided by what is wished; average is per pod.
	ratio(used Samples) (ratio float64, average int64, err error)
	// assumed is what a pod uses of which nothing is known, when others use too little.
	assumed(pod string) int64
}

// plain wishes for a certain value per pod.
type plain struct{ target int64 }

func (p plain) ratio(used Samples) (float64, int64, error) {
	total := int64(0)
	for _, s := range used {
		total += s.Value
	}
	average := total / int64(len(used))
	return float64(average) / float64(p.target), average, nil
}

func (p plain) assumed(string) int64 { return p.target }

// utilization wishes for a percentage of what the pods request.
type utilization struct {
	target   int32
	requests map[string]int64
	percent  int32 // what ratio found first
	found    bool
}

func (u *utilization) ratio(used Samples) (float64, int64, error) {
	total, requested, n := int64(0), int64(0), int64(0)
	for pod, s := range used {
		if request, ok := u.requests[pod]; ok {
			total, requested, n = total+s.Value, requested+request, n+1
		}
	}
	if requested == 0 {
		return 0, 0, errors.New("no metrics returned matched known pods")
	}
	percent := int32(total * 100 / requested)
	if !u.found {
		u.percent, u.found = percent, true
	}
	return float64(percent) / float64(u.target), total / n, nil
}

func (u *utilization) assumed(pod string) int64 {
	return u.requests[pod] * int64(max(100, u.target)) / 100
}

// perPod computes replicas from what the pods use. Pods that have no say (failed, ending, not ready, without
// metrics) must not turn things round: where more replicas are proposed they are assumed to use nothing, where fewer
// are, as much as is wished.
func (q *question) perPod(used Samples, name corev1.ResourceName, m measure) (replicas int32, average int64, err error) {
	current := q.scale.Spec.Replicas
	if len(q.pods.list) == 0 {
		return 0, 0, errors.New("no pods returned by selector while calculating replica count")
	}
	g := group(q.pods.list, used, name, time.Now())
	for _, pods := range [][]string{g.ignored, g.unready} {
		for _, pod := range pods {
			delete(used, pod)
		}
	}
	if len(used) == 0 {
		return 0, 0, errors.New("did not receive metrics for targeted pods (pods might be unready)")
	}
	ratio, average, err := m.ratio(used)
	if err != nil {
		return 0, 0, err
	}
	withUnready := len(g.unready) > 0 && ratio > 1
	if !withUnready && len(g.missing) == 0 {
		if q.tolerance.allows(ratio) {
			return current, average, nil
		}
		return ceil(ratio * float64(g.ready)), average, nil
	}
	for _, pod := range g.missing {
		switch {
		case ratio < 1:
			used[pod] = Sample{Value: m.assumed(pod)}
		case ratio > 1:
			used[pod] = Sample{}
		}
	}
	if withUnready {
		for _, pod := range g.unready {
			used[pod] = Sample{}
		}
	}
	again, _, err := m.ratio(used)
	if err != nil {
		return 0, 0, err
	}
	if q.tolerance.allows(again) || ratio < 1 && again > 1 || ratio > 1 && again < 1 {
		return current, average, nil
	}
	replicas = ceil(again * float64(len(used)))
	if again < 1 && replicas > current || again > 1 && replicas < current {
		return current, average, nil
	}
	return replicas, average, nil
}

// groups are pods by what their metrics are worth.
type groups struct {
	ready                     int
	unready, missing, ignored []string
}

func group(pods []*corev1.Pod, used Samples, name corev1.ResourceName, now time.Time) groups {
	var g groups
	for _, pod := range pods {
		sample, known := used[pod.Name]
		switch {
		case pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed:
			g.ignored = append(g.ignored, pod.Name)
		case pod.Status.Phase == corev1.PodPending:
			g.unready = append(g.unready, pod.Name)
		case !known:
			g.missing = append(g.missing, pod.Name)
		case name == corev1.ResourceCPU && isStarting(pod, sample, now):
			g.unready = append(g.unready, pod.Name)
		default:
			g.ready++
		}
	}
	return g
}

// isStarting tells whether what a pod uses of CPU may be due to its start. One whose start is long to come was there before the clock
// was set back, and is judged by its own times alone.
func isStarting(pod *corev1.Pod, s Sample, now time.Time) bool {
	ready := podcontrol.Condition(pod, corev1.PodReady)
	if ready == nil || pod.Status.StartTime == nil {
		return true
	}
	start, changed := pod.Status.StartTime.Time, ready.LastTransitionTime.Time
	if start.Add(cpuInit).After(now) && start.Sub(now) < cpuInit {
		return ready.Status == corev1.ConditionFalse || s.Time.Before(changed.Add(s.Window))
	}
	return ready.Status == corev1.ConditionFalse && start.Add(initialReadiness).After(changed) // it has never been ready
}

// requestsOf returns what each pod requests, or its container of that name, in thousandths.
func requestsOf(pods []*corev1.Pod, container string, name corev1.ResourceName) (map[string]int64, error) {
	out := map[string]int64{}
	for _, pod := range pods {
		if container == "" && resourcehelper.IsPodLevelRequestsSet(pod) {
			request, ok := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})[name]
			if !ok {
				return nil, fmt.Errorf("missing pod-level request for %s in Pod %s", name, pod.Name)
			}
			out[pod.Name] = request.MilliValue()
			continue
		}
		request, err := containerRequests(pod, container, name)
		if err != nil {
			return nil, err
		}
		out[pod.Name] = request
	}
	return out, nil
}

// containerRequests adds up what the containers request that run as long as the pod does.
func containerRequests(pod *corev1.Pod, container string, name corev1.ResourceName) (total int64, err error) {
	found := container == ""
	for _, c := range lastingContainers(pod) {
		if container != "" && container != c.Name {
			continue
		}
		found = true
		request, ok := c.Resources.Requests[name]
		if !ok {
			return 0, fmt.Errorf("missing request for %s in container %s of Pod %s", name, c.Name, pod.Name)
		}
		total += request.MilliValue()
	}
	if !found {
		return 0, fmt.Errorf("container %s not found in Pod %s", container, pod.Name)
	}
	return total, nil
}

// lastingContainers are those of the pod and its sidecars.
func lastingContainers(pod *corev1.Pod) []corev1.Container {
	all := slices.Clone(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			all = append(all, c)
		}
	}
	return all
}

// whole computes replicas from one value for all pods: as such, or divided by their number.
func (q *question) whole(value int64, t autoscalingv2.MetricTarget, metric, source string) (proposal, autoscalingv2.MetricValueStatus, error) {
	switch {
	case t.AverageValue != nil:
		target, replicas := t.AverageValue.MilliValue(), q.scale.Status.Replicas
		if !q.tolerance.allows(float64(value) / (float64(target) * float64(replicas))) {
			replicas = ceil(float64(value) / float64(target))
		}
		average := value
		if n := q.scale.Status.Replicas; n > 0 {
			average = value/int64(n) + min(value%int64(n), 1)
		}
		return proposal{replicas, metric}, autoscalingv2.MetricValueStatus{AverageValue: quantity("", average)}, nil
	case t.Value != nil:
		replicas, err := q.byRatio(float64(value) / float64(t.Value.MilliValue()))
		return proposal{replicas, metric}, autoscalingv2.MetricValueStatus{Value: quantity("", value)}, err
	}
	return proposal{}, autoscalingv2.MetricValueStatus{}, fmt.Errorf("invalid %s metric source: neither a value target nor an average value target was set", source)
}

// byRatio changes the number of replicas by a factor; that of the ready ones, as the others do not work yet.
func (q *question) byRatio(ratio float64) (int32, error) {
	if q.scale.Spec.Replicas == 0 {
		return ceil(ratio), nil
	}
	if q.tolerance.allows(ratio) {
		return q.scale.Spec.Replicas, nil
	}
	if len(q.pods.list) == 0 {
		return 0, errors.New("unable to calculate ready pods: no pods returned by selector while calculating replica count")
	}
	ready := 0
	for _, pod := range q.pods.list {
		if pod.Status.Phase == corev1.PodRunning && podcontrol.Ready(pod) {
			ready++
		}
	}
	return ceil(ratio * float64(ready)), nil
}

// ceil rounds up to a number of replicas.
func ceil(replicas float64) int32 { return int32(min(math.Ceil(replicas), math.MaxInt32)) }

// quantity is a value as users write it.
func quantity(name corev1.ResourceName, milli int64) *resource.Quantity {
	if name == corev1.ResourceMemory {
		return resource.NewMilliQuantity(milli, resource.BinarySI)
	}
	return resource.NewMilliQuantity(milli, resource.DecimalSI)
}
