// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// records finds what names stand for in the informers.
type records struct {
	services   corelisters.ServiceLister
	namespaces corelisters.NamespaceLister
	serviceIdx cache.Indexer
	sliceIdx   cache.Indexer
	synced     []cache.DoneChecker
	pods       informers.SharedInformerFactory // asked only for `pods verified`
	lifetime   context.Context                 // of informers that are asked for late
	clusterIPs []string                        // where this server is, for NS
}

// The names of our indexes; an informer is shared, so they say whose they are.
const (
	byClusterIP = "dns-cluster-ip" // Services
	byService   = "dns-service"    // EndpointSlices
	byAddress   = "dns-address"    // EndpointSlices
	byPodIP     = "dns-pod-ip"     // Pods
)

func newRecords(factory, pods informers.SharedInformerFactory) (*records, error) {
	services := factory.Core().V1().Services()
	namespaces := factory.Core().V1().Namespaces()
	slices := factory.Discovery().V1().EndpointSlices()
	if err := services.Informer().AddIndexers(cache.Indexers{byClusterIP: clusterIPs}); err != nil {
		return nil, fmt.Errorf("index Services: %w", err)
	}
	if err := slices.Informer().AddIndexers(cache.Indexers{byService: serviceOf, byAddress: addressesOf}); err != nil {
		return nil, fmt.Errorf("index EndpointSlices: %w", err)
	}
	return &records{
		services:   services.Lister(),
		namespaces: namespaces.Lister(),
		serviceIdx: services.Informer().GetIndexer(),
		sliceIdx:   slices.Informer().GetIndexer(),
		synced:     []cache.DoneChecker{services.Informer().HasSyncedChecker(), namespaces.Informer().HasSyncedChecker(), slices.Informer().HasSyncedChecker()},
		pods:       pods,
	}, nil
}

// podIndex finds Pods by their addresses.
func (r *records) podIndex() (cache.Indexer, error) {
	pods := r.pods.Core().V1().Pods().Informer()
	if _, there := pods.GetIndexer().GetIndexers()[byPodIP]; !there {
		if err := pods.AddIndexers(cache.Indexers{byPodIP: podIPs}); err != nil {
			return nil, fmt.Errorf("index Pods: %w", err)
		}
	}
	r.pods.StartWithContext(r.lifetime)
	return pods.GetIndexer(), nil
}

func clusterIPs(obj any) ([]string, error) {
	s, ok := obj.(*corev1.Service)
	if !ok || s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil, nil
	}
	if len(s.Spec.ClusterIPs) == 0 {
		return []string{s.Spec.ClusterIP}, nil
	}
	return s.Spec.ClusterIPs, nil
}

func serviceOf(obj any) ([]string, error) {
	s, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || s.Labels[discoveryv1.LabelServiceName] == "" {
		return nil, nil
	}
	return []string{s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]}, nil
}

func addressesOf(obj any) ([]string, error) {
	s, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || s.AddressType == discoveryv1.AddressTypeFQDN || s.Labels[discoveryv1.LabelServiceName] == "" {
		return nil, nil
	}
	var addresses []string
	for i := range s.Endpoints {
		if isReady(&s.Endpoints[i]) {
			addresses = append(addresses, s.Endpoints[i].Addresses...)
		}
	}
	return addresses, nil
}

func podIPs(obj any) ([]string, error) {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	var ips []string
	for _, ip := range p.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	return ips, nil
}

// isReady tells whether an endpoint has a name. With publishNotReadyAddresses all are ready.
func isReady(e *discoveryv1.Endpoint) bool {
	return e.Conditions.Ready == nil || *e.Conditions.Ready
}

func (r *records) namespaceExists(name string) bool {
	_, err := r.namespaces.Get(name)
	return err == nil
}

// service returns a Service, or nil.
func (r *records) service(namespace, name string) *corev1.Service {
	s, err := r.services.Services(namespace).Get(name)
	if err != nil {
		return nil
	}
	return s
}

// serviceAt returns the Service with this cluster address, or nil.
func (r *records) serviceAt(ip string) *corev1.Service {
	found, err := r.serviceIdx.ByIndex(byClusterIP, ip)
	if err != nil || len(found) == 0 {
		return nil
	}
	return found[0].(*corev1.Service)
}

// endpoints calls yield for each ready address of a Service and each port of it; a headless Service
// without ports has one with number 0.
func (r *records) endpoints(namespace, service string, podNames bool, yield func(address, hostname string, port *discoveryv1.EndpointPort)) {
	found, err := r.sliceIdx.ByIndex(byService, namespace+"/"+service)
	if err != nil {
		return
	}
	for _, obj := range found {
		slice := obj.(*discoveryv1.EndpointSlice)
		if slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if !isReady(e) {
				continue
			}
			for _, address := range e.Addresses {
				if len(slice.Ports) == 0 {
					yield(address, hostname(e, address, podNames), &discoveryv1.EndpointPort{})
				}
				for p := range slice.Ports {
					yield(address, hostname(e, address, podNames), &slice.Ports[p])
				}
			}
		}
	}
}

func (r *records) hasEndpoints(namespace, service string) (some bool) {
	r.endpoints(namespace, service, false, func(string, string, *discoveryv1.EndpointPort) { some = true })
	return some
}

// namesAt calls yield for each endpoint name of an address.
func (r *records) namesAt(ip string, podNames bool, yield func(hostname, service, namespace string)) {
	found, err := r.sliceIdx.ByIndex(byAddress, ip)
	if err != nil {
		return
	}
	for _, obj := range found {
		slice := obj.(*discoveryv1.EndpointSlice)
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			for _, address := range e.Addresses {
				if address == ip && isReady(e) {
					yield(hostname(e, address, podNames), slice.Labels[discoveryv1.LabelServiceName], slice.Namespace)
				}
			}
		}
	}
}

// hostname is an endpoint's label in its Service: what the pod says, its name if that is wanted, or its address with
// dashes.
func hostname(e *discoveryv1.Endpoint, address string, podNames bool) string {
	if e.Hostname != nil && *e.Hostname != "" {
		return *e.Hostname
	}
	if podNames && e.TargetRef != nil && e.TargetRef.Name != "" {
		return e.TargetRef.Name
	}
	dashed := strings.NewReplacer(".", "-", ":", "-").Replace(address)
	if strings.HasSuffix(dashed, "-") { // no label ends like that
		dashed += "0"
	}
	return dashed
}

// addressIn undoes the dashes of a pod's name.
func addressIn(label string) (string, bool) {
	text := strings.ReplaceAll(label, "-", ":")
	if strings.Count(label, "-") == 3 && !strings.Contains(label, "--") {
		text = strings.ReplaceAll(label, "-", ".")
	}
	addr, err := netip.ParseAddr(text)
	return addr.String(), err == nil
}
