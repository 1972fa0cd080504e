// SPDX-License-Identifier: Apache-2.0

// Package loadbalancer holds what all that has to do with load balancers asks of Services and nodes: the controllers that give
// addresses, and the nodes that announce them.
package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/utils/ptr"
)

// IsLocal says whether only nodes with an endpoint of the Service answer for it.
func IsLocal(svc *corev1.Service) bool {
	return svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// IsReady says whether a node is Ready.
func IsReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// IsExcluded says whether a node is not to get traffic from outside: by its label, or as it is being deleted.
func IsExcluded(n *corev1.Node) bool {
	_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
	return excluded || n.DeletionTimestamp != nil
}

// ReadyOf returns the nodes that are Ready. If none is, it is as likely that we are told wrong, and all are returned.
// The slice is changed.
func ReadyOf(nodes []*corev1.Node) []*corev1.Node {
	if !slices.ContainsFunc(nodes, IsReady) {
		return nodes
	}
	return slices.DeleteFunc(nodes, func(n *corev1.Node) bool { return !IsReady(n) })
}

// WithEndpoints returns those of the nodes on which a Service has an endpoint that answers.
func WithEndpoints(endpoints discoverylisters.EndpointSliceLister, svc *corev1.Service, nodes []*corev1.Node) ([]*corev1.Node, error) {
	list, err := endpoints.EndpointSlices(svc.Namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: svc.Name}))
	if err != nil {
		return nil, err
	}
	has := map[string]bool{}
	for _, slice := range list {
		for _, endpoint := range slice.Endpoints {
			if endpoint.NodeName != nil && ptr.Deref(endpoint.Conditions.Serving, ptr.Deref(endpoint.Conditions.Ready, true)) {
				has[*endpoint.NodeName] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(nodes), func(n *corev1.Node) bool { return !has[n.Name] }), nil
}

// Finalizer keeps a Service for as long as it has addresses from somebody. The name is upstream's.
const Finalizer = "service.kubernetes.io/load-balancer-cleanup"

// IsOurs says whether a Service gets its addresses here, or has to be let go: one with a class is somebody else's.
func IsOurs(svc *corev1.Service) bool {
	return svc != nil && svc.Spec.LoadBalancerClass == nil &&
		(svc.Spec.Type == corev1.ServiceTypeLoadBalancer || slices.Contains(svc.Finalizers, Finalizer))
}

// Split returns those of the Services that are to have addresses, and those that are to be let go of.
func Split(services []*corev1.Service) (staying, leaving []*corev1.Service) {
	for _, svc := range services {
		switch {
		case !IsOurs(svc):
		case svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.DeletionTimestamp == nil:
			staying = append(staying, svc)
		case slices.Contains(svc.Finalizers, Finalizer):
			leaving = append(leaving, svc)
		}
	}
	return staying, leaving
}

// Give writes at which addresses a Service is had, if that is not what it says, and that it has to be let go of one day.
func Give(ctx context.Context, client kubernetes.Interface, svc *corev1.Service, ingress []corev1.LoadBalancerIngress) error {
	held := slices.Contains(svc.Finalizers, Finalizer)
	if held && equality.Semantic.DeepEqual(svc.Status.LoadBalancer.Ingress, ingress) {
		return nil
	}
	svc = svc.DeepCopy()
	if !held {
		svc.Finalizers = append(svc.Finalizers, Finalizer)
	}
	return write(ctx, client, svc, ingress)
}

// LetGo takes the addresses of Services back, so that they can end.
func LetGo(ctx context.Context, client kubernetes.Interface, services []*corev1.Service) error {
	var errs []error
	for _, svc := range services {
		svc = svc.DeepCopy()
		svc.Finalizers = slices.DeleteFunc(svc.Finalizers, func(f string) bool { return f == Finalizer })
		errs = append(errs, write(ctx, client, svc, nil))
	}
	return errors.Join(errs...)
}

// write writes both at once: a Service's status and its finalizers are had at the same place. A Service that is gone needs neither.
func write(ctx context.Context, client kubernetes.Interface, svc *corev1.Service, ingress []corev1.LoadBalancerIngress) error {
	svc.Status.LoadBalancer.Ingress = ingress
	_, err := client.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, svc, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write addresses of Service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	return nil
}
