// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// podTopologyLabels copies zone and region of the node to the pods on it, so that a pod can read
// them through the downward API.
type podTopologyLabels struct {
	*admission.Handler
	nodes corelisters.NodeLister
}

var _ admission.MutationInterface = (*podTopologyLabels)(nil)

func newPodTopologyLabels(d *Deps) admission.Interface {
	return &podTopologyLabels{admission.NewHandler(admission.Create), d.Informers.Core().V1().Nodes().Lister()}
}

// Admit labels a pod that is created on a node, or the binding, whose labels the pod will get.
func (p *podTopologyLabels) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	var on string
	var object metav1.Object
	switch o := a.GetObject().(type) {
	case *corev1.Pod:
		if !isFor(a, pods, "") {
			return nil
		}
		on, object = o.Spec.NodeName, o
	case *corev1.Binding:
		if !isFor(a, pods, "binding") || o.Target.Kind != "Node" {
			return nil
		}
		on, object = o.Target.Name, o
	}
	if on == "" {
		return nil
	}
	node, err := p.nodes.Get(on)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		value, ok := node.Labels[key]
		if !ok {
			continue
		}
		labels := object.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels[key] = value
		object.SetLabels(labels)
	}
	return nil
}

// Reasons for a resize that can never happen.
const (
	reasonNodeCapacity metav1.CauseType = "NodeCapacity"
	reasonPlatform     metav1.CauseType = "UnsupportedPlatform"
)

// podResize refuses to resize a pod beyond what its node has in all.
type podResize struct {
	*admission.Handler
	nodes corelisters.NodeLister
}

var _ admission.ValidationInterface = (*podResize)(nil)

func newPodResize(d *Deps) admission.Interface {
	return &podResize{admission.NewHandler(admission.Update), d.Informers.Core().V1().Nodes().Lister()}
}

func (p *podResize) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	old, okOld := a.GetOldObject().(*corev1.Pod)
	if !ok || !okOld || !isFor(a, pods, "resize") || pod.Spec.NodeName == "" || pod.Generation == old.Generation {
		return nil
	}
	node, err := p.nodes.Get(pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return forbid(a, fmt.Errorf("node %q not found", pod.Spec.NodeName))
	}
	if err != nil {
		return forbid(a, fmt.Errorf("failed to get node %q: %w", pod.Spec.NodeName, err))
	}
	if system := node.Labels[corev1.LabelOSStable]; system != "" && system != "linux" {
		return withCause(forbid(a, fmt.Errorf("pod resize is only supported on linux nodes, node %q is %q", node.Name, system)), reasonPlatform)
	}
	if err := fits(pod, node.Status.Allocatable); err != nil {
		return withCause(forbid(a, err), reasonNodeCapacity)
	}
	return nil
}

func fits(pod *corev1.Pod, allocatable corev1.ResourceList) error {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	var short []string
	if cpu := requests.Cpu(); cpu.Cmp(*allocatable.Cpu()) > 0 {
		short = append(short, fmt.Sprintf("cpu, requested: %d, allocatable: %d", cpu.MilliValue(), allocatable.Cpu().MilliValue()))
	}
	if memory := requests.Memory(); memory.Cmp(*allocatable.Memory()) > 0 {
		short = append(short, fmt.Sprintf("memory, requested: %d, allocatable: %d", memory.Value(), allocatable.Memory().Value()))
	}
	if len(short) > 0 {
		return fmt.Errorf("node didn't have enough allocatable resources: %s", strings.Join(short, "; "))
	}
	return nil
}

func withCause(err error, cause metav1.CauseType) error {
	var status *apierrors.StatusError
	if errors.As(err, &status) {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{Type: cause})
	}
	return err
}
