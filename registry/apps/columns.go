// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// What kubectl prints, in the order and the words of upstream.

const readyPods = "Number of the pod with ready state"

func deploymentColumns() []rest.Column[*appsv1.Deployment] {
	type D = *appsv1.Deployment
	status := appsv1.DeploymentStatus{}
	containers := func(o D) []corev1.Container { return o.Spec.Template.Spec.Containers }
	upToDate := rest.Number("Up-to-date", rest.Doc(status, "updatedReplicas"), func(o D) int32 { return o.Status.UpdatedReplicas })
	available := rest.Number("Available", rest.Doc(status, "availableReplicas"), func(o D) int32 { return o.Status.AvailableReplicas })
	upToDate.Type, available.Type = "string", "string" // so upstream says, with numbers in the cells
	return []rest.Column[D]{
		rest.Name[D](),
		rest.Text("Ready", readyPods, func(o D) string { return fmt.Sprintf("%d/%d", o.Status.ReadyReplicas, ptr.Deref(o.Spec.Replicas, 0)) }),
		upToDate,
		available,
		rest.Age[D](),
		rest.ContainerNames(containers).OnWide(),
		rest.ContainerImages(containers).OnWide(),
		rest.Text("Selector", rest.Doc(appsv1.DeploymentSpec{}, "selector"), func(o D) string {
			selector, err := metav1.LabelSelectorAsSelector(o.Spec.Selector)
			if err != nil {
				return "<invalid>"
			}
			return selector.String()
		}).OnWide(),
	}
}

func replicaSetColumns() []rest.Column[*appsv1.ReplicaSet] {
	type RS = *appsv1.ReplicaSet
	spec, status := appsv1.ReplicaSetSpec{}, appsv1.ReplicaSetStatus{}
	containers := func(o RS) []corev1.Container { return o.Spec.Template.Spec.Containers }
	return []rest.Column[RS]{
		rest.Name[RS](),
		rest.Number("Desired", rest.Doc(spec, "replicas"), func(o RS) int32 { return ptr.Deref(o.Spec.Replicas, 0) }),
		rest.Number("Current", rest.Doc(status, "replicas"), func(o RS) int32 { return o.Status.Replicas }),
		rest.Number("Ready", rest.Doc(status, "readyReplicas"), func(o RS) int32 { return o.Status.ReadyReplicas }),
		rest.Age[RS](),
		rest.ContainerNames(containers).OnWide(),
		rest.ContainerImages(containers).OnWide(),
		rest.Text("Selector", rest.Doc(spec, "selector"), func(o RS) string { return metav1.FormatLabelSelector(o.Spec.Selector) }).OnWide(),
	}
}

func statefulSetColumns() []rest.Column[*appsv1.StatefulSet] {
	type S = *appsv1.StatefulSet
	containers := func(o S) []corev1.Container { return o.Spec.Template.Spec.Containers }
	return []rest.Column[S]{
		rest.Name[S](),
		rest.Text("Ready", readyPods, func(o S) string { return fmt.Sprintf("%d/%d", o.Status.ReadyReplicas, ptr.Deref(o.Spec.Replicas, 0)) }),
		rest.Age[S](),
		rest.ContainerNames(containers).OnWide(),
		rest.ContainerImages(containers).OnWide(),
	}
}

func daemonSetColumns() []rest.Column[*appsv1.DaemonSet] {
	type D = *appsv1.DaemonSet
	status := appsv1.DaemonSetStatus{}
	containers := func(o D) []corev1.Container { return o.Spec.Template.Spec.Containers }
	return []rest.Column[D]{
		rest.Name[D](),
		rest.Number("Desired", rest.Doc(status, "desiredNumberScheduled"), func(o D) int32 { return o.Status.DesiredNumberScheduled }),
		rest.Number("Current", rest.Doc(status, "currentNumberScheduled"), func(o D) int32 { return o.Status.CurrentNumberScheduled }),
		rest.Number("Ready", rest.Doc(status, "numberReady"), func(o D) int32 { return o.Status.NumberReady }),
		rest.Number("Up-to-date", rest.Doc(status, "updatedNumberScheduled"), func(o D) int32 { return o.Status.UpdatedNumberScheduled }),
		rest.Number("Available", rest.Doc(status, "numberAvailable"), func(o D) int32 { return o.Status.NumberAvailable }),
		rest.Text("Node Selector", rest.Doc(corev1.PodSpec{}, "nodeSelector"), func(o D) string { return labels.FormatLabels(o.Spec.Template.Spec.NodeSelector) }),
		rest.Age[D](),
		rest.ContainerNames(containers).OnWide(),
		rest.ContainerImages(containers).OnWide(),
		rest.Text("Selector", rest.Doc(appsv1.DaemonSetSpec{}, "selector"), func(o D) string { return metav1.FormatLabelSelector(o.Spec.Selector) }).OnWide(),
	}
}

func controllerRevisionColumns() []rest.Column[*appsv1.ControllerRevision] {
	type R = *appsv1.ControllerRevision
	revision := rest.Number("Revision", rest.Doc(appsv1.ControllerRevision{}, "revision"), func(o R) int64 { return o.Revision })
	revision.Type = "string"
	return []rest.Column[R]{
		rest.Name[R](),
		rest.Text("Controller", "Controller of the object", func(o R) string {
			ref := metav1.GetControllerOf(o)
			if ref == nil {
				return "<none>"
			}
			kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind()
			return strings.ToLower(kind.String()) + "/" + ref.Name
		}),
		revision,
		rest.Age[R](),
	}
}
