// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

const (
	serviceNamespace = metav1.NamespaceSystem
	serviceName      = "kube-dns"
	dnsPort          = 53
	managedBy        = "dns.skiff.io"
)

// publisher keeps the kube-dns Service, and the EndpointSlice of this server behind it.
type publisher struct {
	cfg      Config
	client   clientset.Interface
	services cache.SharedIndexInformer
	slices   cache.SharedIndexInformer
}

// run publishes until ctx ends: as soon as the API takes it, and again when somebody deleted it.
func (p *publisher) run(ctx context.Context) error {
	again := make(chan struct{}, 1)
	for _, informer := range []cache.SharedIndexInformer{p.services, p.slices} {
		handle, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
			key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
			if err == nil && (key == serviceNamespace+"/"+serviceName || key == serviceNamespace+"/"+p.sliceName()) {
				select {
				case again <- struct{}{}:
				default: // already asked for
				}
			}
		}})
		if ctx.Err() != nil {
			return nil // the informer ends with us, and takes no handler any more
		}
		if err != nil {
			return err
		}
		defer func() { _ = informer.RemoveEventHandler(handle) }() // fails only for strangers
	}
	for {
		p.publishRetrying(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		}
	}
}

// publishRetrying publishes, however long it takes.
func (p *publisher) publishRetrying(ctx context.Context) {
	backoff := wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 8, Cap: 10 * time.Second}
	for {
		err := p.publish(ctx)
		if err == nil {
			return
		}
		klog.FromContext(ctx).V(2).Info("Publishing the DNS Service, will retry", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff.Step()):
		}
	}
}

func (p *publisher) publish(ctx context.Context) error {
	if err := p.ensureService(ctx); err != nil {
		return err
	}
	return p.ensureSlice(ctx)
}

func (p *publisher) ensureService(ctx context.Context) error {
	services := p.client.CoreV1().Services(serviceNamespace)
	if _, err := services.Get(ctx, serviceName, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return err // there, and whoever changed it has a reason
	}
	_, err := services.Create(ctx, p.service(), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) { // another node was first
		return nil
	}
	return err
}

func (p *publisher) service() *corev1.Service {
	policy := corev1.IPFamilyPolicySingleStack
	if len(p.cfg.ClusterIPs) > 1 {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: serviceNamespace,
			Name:      serviceName,
			Labels: map[string]string{
				"k8s-app":                       serviceName,
				"kubernetes.io/cluster-service": "true",
				"kubernetes.io/name":            "CoreDNS",
			},
		},
		Spec: corev1.ServiceSpec{
			ClusterIP:      p.cfg.ClusterIPs[0],
			ClusterIPs:     p.cfg.ClusterIPs,
			IPFamilyPolicy: &policy,
			Ports: []corev1.ServicePort{
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: dnsPort, TargetPort: intstr.FromInt32(dnsPort)},
				{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: dnsPort, TargetPort: intstr.FromInt32(dnsPort)},
			},
		},
	}
}

// ensureSlice makes the EndpointSlice what it should be.
func (p *publisher) ensureSlice(ctx context.Context) error {
	slices := p.client.DiscoveryV1().EndpointSlices(serviceNamespace)
	want := p.slice()
	have, err := slices.Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = slices.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	if equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(have.Ports, want.Ports) &&
		have.Labels[discoveryv1.LabelServiceName] == serviceName {
		return nil
	}
	if have.AddressType != want.AddressType { // immutable
		if err := slices.Delete(ctx, want.Name, metav1.DeleteOptions{}); err != nil {
			return err
		}
		_, err = slices.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	want.ResourceVersion = have.ResourceVersion
	_, err = slices.Update(ctx, want, metav1.UpdateOptions{})
	return err
}

// sliceName tells the slices of several nodes apart.
func (p *publisher) sliceName() string {
	if p.cfg.NodeName == "" {
		return serviceName
	}
	return serviceName + "-" + p.cfg.NodeName
}

func (p *publisher) slice() *discoveryv1.EndpointSlice {
	port, ready := int32(p.cfg.Endpoint.Port()), true
	udp, tcp := corev1.ProtocolUDP, corev1.ProtocolTCP
	nameUDP, nameTCP := "dns", "dns-tcp"
	addressType := discoveryv1.AddressTypeIPv4
	if p.cfg.Endpoint.Addr().Is6() {
		addressType = discoveryv1.AddressTypeIPv6
	}
	endpoint := discoveryv1.Endpoint{
		Addresses:  []string{p.cfg.Endpoint.Addr().String()},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready},
	}
	if p.cfg.NodeName != "" {
		endpoint.NodeName = &p.cfg.NodeName
		// Each node asks its own server. So one that is lost, whose slice stays until its Node is deleted, is no loss to
		// others.
		endpoint.Hints = &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: p.cfg.NodeName}}}
	}
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: serviceNamespace,
			Name:      p.sliceName(),
			Labels:    map[string]string{discoveryv1.LabelServiceName: serviceName, discoveryv1.LabelManagedBy: managedBy},
		},
		AddressType: addressType,
		Endpoints:   []discoveryv1.Endpoint{endpoint},
		Ports: []discoveryv1.EndpointPort{
			{Name: &nameUDP, Protocol: &udp, Port: &port},
			{Name: &nameTCP, Protocol: &tcp, Port: &port},
		},
	}
}
