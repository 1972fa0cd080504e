// SPDX-License-Identifier: Apache-2.0

package disruption

import (
	"context"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/utils/ptr"
)

// scales knows how many pods the controllers of pods want.
type scales struct {
	controllers  corelisters.ReplicationControllerLister
	replicaSets  appslisters.ReplicaSetLister
	deployments  appslisters.DeploymentLister
	statefulSets appslisters.StatefulSetLister
	// subresource reads the scale subresource of an object of any other kind; nil if there is no such object.
	subresource func(ctx context.Context, namespace string, ref *metav1.OwnerReference) (*autoscalingv1.Scale, error)
}

// scale is how many pods an object wants.
type scale struct {
	uid      types.UID
	replicas int32
}

// sum adds up how many pods the controllers of these pods want, each controller once. unmanaged tells that there are pods
// without one.
func (s *scales) sum(ctx context.Context, pods []*corev1.Pod) (n int, unmanaged bool, err error) {
	byController := map[types.UID]int32{} // also by the UID of the ReplicaSet of a Deployment, with 0: it was asked for
	for _, pod := range pods {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil {
			unmanaged = true
			continue
		}
		if _, known := byController[ref.UID]; known {
			continue
		}
		found, err := s.of(ctx, pod.Namespace, ref)
		if err != nil {
			return 0, unmanaged, err
		}
		if found == nil {
			return 0, unmanaged, fmt.Errorf("found no controllers for pod %q", pod.Name)
		}
		byController[ref.UID] = 0
		byController[found.uid] = found.replicas
	}
	for _, replicas := range byController {
		n += int(replicas)
	}
	return n, unmanaged, nil
}

// of returns the scale of a controller, or of the Deployment of a ReplicaSet; nil if it is not there.
func (s *scales) of(ctx context.Context, namespace string, ref *metav1.OwnerReference) (*scale, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, err
	}
	if found := s.cached(schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, namespace, ref); found != nil {
		return found, nil
	}
	found, err := s.subresource(ctx, namespace, ref)
	if err != nil || found == nil || found.UID != ref.UID {
		return nil, err
	}
	return &scale{found.UID, found.Spec.Replicas}, nil
}

func (s *scales) cached(kind schema.GroupKind, namespace string, ref *metav1.OwnerReference) *scale {
	switch kind {
	case schema.GroupKind{Kind: "ReplicationController"}:
		if rc, err := s.controllers.ReplicationControllers(namespace).Get(ref.Name); err == nil {
			return scaleOf(rc, rc.Spec.Replicas, ref)
		}
	case appsv1.SchemeGroupVersion.WithKind("StatefulSet").GroupKind():
		if set, err := s.statefulSets.StatefulSets(namespace).Get(ref.Name); err == nil {
			return scaleOf(set, set.Spec.Replicas, ref)
		}
	case appsv1.SchemeGroupVersion.WithKind("ReplicaSet").GroupKind():
		set, err := s.replicaSets.ReplicaSets(namespace).Get(ref.Name)
		if err != nil || set.UID != ref.UID {
			return nil
		}
		above := metav1.GetControllerOfNoCopy(set)
		if above == nil || above.Kind != "Deployment" {
			return scaleOf(set, set.Spec.Replicas, ref)
		}
		if d, err := s.deployments.Deployments(namespace).Get(above.Name); err == nil {
			return scaleOf(d, d.Spec.Replicas, above)
		}
	}
	return nil
}

// scaleOf returns the scale of the object if it is the one that the reference is about.
func scaleOf(obj metav1.Object, replicas *int32, ref *metav1.OwnerReference) *scale {
	if obj.GetUID() != ref.UID {
		return nil
	}
	return &scale{ref.UID, ptr.Deref(replicas, 1)}
}

// scaleSubresource reads scales from the API server: of custom resources, for one.
func scaleSubresource(client discovery.DiscoveryInterface) func(context.Context, string, *metav1.OwnerReference) (*autoscalingv1.Scale, error) {
	return func(ctx context.Context, namespace string, ref *metav1.OwnerReference) (*autoscalingv1.Scale, error) {
		served, err := client.ServerResourcesForGroupVersion(ref.APIVersion)
		if err != nil {
			return nil, fmt.Errorf("find the resource of %s %s: %w", ref.APIVersion, ref.Kind, err)
		}
		plural, ok := scalable(served.APIResources, ref.Kind)
		if !ok {
			return nil, fmt.Errorf("%s %s does not implement the scale subresource", ref.APIVersion, ref.Kind)
		}
		prefix := "/apis/" + ref.APIVersion
		if ref.APIVersion == "v1" {
			prefix = "/api/v1"
		}
		body, err := client.RESTClient().Get().AbsPath(prefix, "namespaces", namespace, plural, ref.Name, "scale").
			SetHeader("Accept", "application/json").DoRaw(ctx)
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the scale of %s %s: %w", ref.Kind, ref.Name, err)
		}
		scale := &autoscalingv1.Scale{}
		return scale, json.Unmarshal(body, scale)
	}
}

// scalable returns the plural of a kind that has a scale subresource.
func scalable(served []metav1.APIResource, kind string) (plural string, ok bool) {
	names := map[string]bool{}
	for _, r := range served {
		names[r.Name] = true
	}
	for _, r := range served {
		if r.Kind == kind && names[r.Name+"/scale"] {
			return r.Name, true
		}
	}
	return "", false
}
