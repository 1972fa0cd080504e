// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// serviceName is what the Service of a Gateway is called: <gateway>-<class>, as GEP-1762 has it for what is generated.
func serviceName(gw *gatewayv1.Gateway) string {
	name := gw.Name + "-" + string(gw.Spec.GatewayClassName)
	if len(validation.IsDNS1035Label(name)) == 0 {
		return name
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return fmt.Sprintf("gateway-%x", h.Sum64())
}

// portName is how a Service's port is called, and so the one of its endpoints.
func portName(s Socket) string {
	return strings.ToLower(string(s.Protocol)) + "-" + strconv.Itoa(int(s.Port))
}

// service is the Service by which a Gateway is reached.
//
// It has an address in the cluster, and as a LoadBalancer the nodes' addresses too, or others if somebody hands out others. With
// traffic policy Local backends see where clients come from.
func service(gw *gatewayv1.Gateway, wanted []Socket) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: gw.Namespace, Name: serviceName(gw), Labels: map[string]string{}, Annotations: map[string]string{},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(gw, gatewayv1.SchemeGroupVersion.WithKind(gatewayKind))},
		},
		Spec: corev1.ServiceSpec{
			Type:                          corev1.ServiceTypeLoadBalancer,
			ExternalTrafficPolicy:         corev1.ServiceExternalTrafficPolicyLocal,
			AllocateLoadBalancerNodePorts: ptr.To(false),
			ClusterIP:                     staticAddress(gw),
		},
	}
	if infrastructure := gw.Spec.Infrastructure; infrastructure != nil {
		for k, v := range infrastructure.Labels {
			svc.Labels[string(k)] = string(v)
		}
		for k, v := range infrastructure.Annotations {
			svc.Annotations[string(k)] = string(v)
		}
	}
	svc.Labels[gatewayv1.GatewayNameLabelKey] = labelValue(gw.Name)
	svc.Labels[gatewayv1.GatewayClassNameLabelKey] = labelValue(string(gw.Spec.GatewayClassName))
	for _, s := range wanted {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{
			Name: portName(s), Protocol: s.Protocol, Port: s.Port, TargetPort: intstr.FromInt32(s.Port),
		})
	}
	return svc
}

func labelValue(s string) string {
	if len(validation.IsValidLabelValue(s)) == 0 {
		return s
	}
	return s[:validation.LabelValueMaxLength]
}

// staticAddress is the address that the Gateway asks for; "" if any will do.
func staticAddress(gw *gatewayv1.Gateway) string {
	for _, a := range gw.Spec.Addresses {
		if a.Value != "" {
			return a.Value
		}
	}
	return ""
}

// exposure is what a Gateway's Service says about its addresses.
//
// Those that reach beyond the cluster come first: with them, the address in the cluster is not told. An address that the Gateway
// asks for must be the only one.
func exposure(gw *gatewayv1.Gateway, svc *corev1.Service, refused string) Exposure {
	if refused != "" {
		return Exposure{Problem: refused}
	}
	if svc == nil || !metav1.IsControlledBy(svc, gw) {
		return Exposure{}
	}
	var out Exposure
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if ip, err := netip.ParseAddr(ingress.IP); err == nil {
			out.Addresses = append(out.Addresses, ip)
		}
	}
	inCluster, _ := netip.ParseAddr(svc.Spec.ClusterIP)
	if wanted := staticAddress(gw); wanted != "" {
		ip, _ := netip.ParseAddr(wanted)
		if ip != inCluster && !slices.Contains(out.Addresses, ip) {
			return Exposure{Problem: fmt.Sprintf("address %s is not to be had: it must be the node's, a free one of the Service range, or a load balancer's", wanted)}
		}
		return Exposure{Addresses: []netip.Addr{ip}}
	}
	if len(out.Addresses) == 0 && inCluster.IsValid() {
		out.Addresses = []netip.Addr{inCluster}
	}
	return out
}

// expose brings Services and their endpoints in line with what the Gateways want.
func (c *Controller) expose(ctx context.Context, gateways []*gatewayv1.Gateway, wanted map[types.NamespacedName][]Socket) error {
	var errs []error
	for _, gw := range gateways {
		ports, ours := wanted[reconcile.KeyOf(gw)]
		if !ours || gw.DeletionTimestamp != nil {
			continue
		}
		errs = append(errs, c.exposeOne(ctx, gw, ports))
	}
	return errors.Join(errs...)
}

func (c *Controller) exposeOne(ctx context.Context, gw *gatewayv1.Gateway, ports []Socket) error {
	delete(c.refused, reconcile.KeyOf(gw))
	client := c.cfg.Client.CoreV1().Services(gw.Namespace)
	want := service(gw, ports)
	if ip, err := netip.ParseAddr(want.Spec.ClusterIP); err == nil && ip == c.cfg.NodeIP {
		want.Spec.ClusterIP = "" // LoadBalancers get it
	}
	have, err := c.services.Services(gw.Namespace).Get(want.Name)
	switch {
	case err != nil && !apierrors.IsNotFound(err):
		return err
	case have != nil && !metav1.IsControlledBy(have, gw):
		c.refused[reconcile.KeyOf(gw)] = fmt.Sprintf("Service %s, which the Gateway needs, is somebody else's", want.Name)
		return nil
	case len(ports) == 0 && have == nil:
		return nil
	case len(ports) == 0, have != nil && !mayHave(have, want.Spec.ClusterIP):
		if err := client.Delete(ctx, have.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(have.UID))}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete Service %s/%s: %w", gw.Namespace, have.Name, err)
		}
		return nil // it is made again when it is seen to be gone
	case have == nil:
		if have, err = c.createService(ctx, want); err != nil {
			return err
		}
	default:
		if have, err = c.updateService(ctx, have, want); err != nil {
			return err
		}
	}
	return c.publish(ctx, have, ports)
}

// mayHave tells whether a Service has asked for an address; "" is any.
func mayHave(svc *corev1.Service, address string) bool {
	return address == "" || svc.Spec.ClusterIP == address || svc.Spec.LoadBalancerIP == address //nolint:staticcheck // deprecated, and in use
}

// createService makes the Service. An address that is not of the Service range is asked of who hands out addresses of LoadBalancers.
func (c *Controller) createService(ctx context.Context, want *corev1.Service) (*corev1.Service, error) {
	client := c.cfg.Client.CoreV1().Services(want.Namespace)
	made, err := client.Create(ctx, want, metav1.CreateOptions{})
	if address := want.Spec.ClusterIP; address != "" && apierrors.IsInvalid(err) {
		want.Spec.ClusterIP, want.Spec.LoadBalancerIP = "", address //nolint:staticcheck // as above
		made, err = client.Create(ctx, want, metav1.CreateOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("create Service %s/%s: %w", want.Namespace, want.Name, err)
	}
	return made, nil
}

// updateService changes what is ours of a Service, and leaves to others what they have set.
func (c *Controller) updateService(ctx context.Context, have, want *corev1.Service) (*corev1.Service, error) {
	svc := have.DeepCopy()
	if svc.Labels == nil {
		svc.Labels = map[string]string{}
	}
	if svc.Annotations == nil && len(want.Annotations) > 0 {
		svc.Annotations = map[string]string{}
	}
	maps.Copy(svc.Labels, want.Labels)
	maps.Copy(svc.Annotations, want.Annotations)
	svc.Spec.Type, svc.Spec.ExternalTrafficPolicy = want.Spec.Type, want.Spec.ExternalTrafficPolicy
	svc.Spec.AllocateLoadBalancerNodePorts, svc.Spec.Ports = want.Spec.AllocateLoadBalancerNodePorts, want.Spec.Ports
	for i := range svc.Spec.Ports { // which the user may have turned on
		for _, p := range have.Spec.Ports {
			if p.Name == svc.Spec.Ports[i].Name {
				svc.Spec.Ports[i].NodePort = p.NodePort
			}
		}
	}
	if equality.Semantic.DeepEqual(svc, have) {
		return have, nil
	}
	updated, err := c.cfg.Client.CoreV1().Services(svc.Namespace).Update(ctx, svc, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("update Service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	return updated, nil
}

// publish says where on this node the ports of a Gateway's Service are listened for.
func (c *Controller) publish(ctx context.Context, svc *corev1.Service, ports []Socket) error {
	family := discoveryv1.AddressTypeIPv4
	if c.cfg.NodeIP.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	want := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, Name: svc.Name + "-" + c.cfg.NodeName,
			Labels: map[string]string{
				discoveryv1.LabelServiceName: svc.Name, discoveryv1.LabelManagedBy: Component,
			},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(svc, corev1.SchemeGroupVersion.WithKind("Service"))},
		},
		AddressType: family,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{c.cfg.NodeIP.String()}, NodeName: ptr.To(c.cfg.NodeName), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
		}},
	}
	for _, s := range ports {
		at := c.sockets.of(s)
		if !at.IsValid() {
			continue
		}
		want.Ports = append(want.Ports, discoveryv1.EndpointPort{
			Name: ptr.To(portName(s)), Protocol: ptr.To(s.Protocol), Port: ptr.To(int32(at.Port())),
		})
	}
	client := c.cfg.Client.DiscoveryV1().EndpointSlices(want.Namespace)
	have, err := c.slices.EndpointSlices(want.Namespace).Get(want.Name)
	switch {
	case apierrors.IsNotFound(err):
		if _, err = client.Create(ctx, want, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			return nil // it will be seen, and compared
		}
	case err == nil && !(equality.Semantic.DeepEqual(have.Ports, want.Ports) && equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) &&
		equality.Semantic.DeepEqual(have.OwnerReferences, want.OwnerReferences)):
		want.ResourceVersion = have.ResourceVersion
		_, err = client.Update(ctx, want, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("publish the endpoint of Service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	return nil
}
