// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/datastore"
)

// Upstream's numbers of the endpoints of API servers.
const (
	serverLeaseTTL   = 15 // seconds
	serverLeaseRenew = 10 * time.Second
)

// leavePatience bounds a server's last words about its endpoint.
const leavePatience = 2 * time.Second

// apiEndpoints says where the API is, in the Endpoints and the EndpointSlice of the Service kubernetes, as upstream's API
// servers do. A single server writes its own address. Of several each renews a lease for its address, and any of them
// writes those that have one.
type apiEndpoints struct {
	client kubernetes.Interface
	leases storage.Interface // at upstream's place: a lease by an address
	etcd   *clientv3.Client  // tells of leases that come and go
	own    netip.Addr
	port   int32
}

const leasesFolder = "/" + apiserver.MasterLeasesPrefix + "/"

// publishOwn writes the address of this server alone.
func (e *apiEndpoints) publishOwn(ctx context.Context) error {
	return e.publish(ctx, []netip.Addr{e.own})
}

// run keeps this server among the endpoints until ctx ends, and takes those away that have gone.
func (e *apiEndpoints) run(ctx context.Context) error {
	defer e.leave(ctx)
	renew := time.NewTicker(serverLeaseRenew)
	defer renew.Stop()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	events := e.etcd.Watch(watching, datastore.Prefix+leasesFolder, clientv3.WithPrefix())
	for do := e.renew; ; {
		if err := do(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Keeping the endpoints of the API, trying again")
		}
		select {
		case <-renew.C:
			do = e.renew
		case event, ok := <-events:
			if !ok { // the renewals see to it
				events = nil
			}
			do = nothing
			if slices.ContainsFunc(event.Events, func(ev *clientv3.Event) bool { return ev.IsCreate() || ev.Type == clientv3.EventTypeDelete }) {
				do = e.reconcile
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func nothing(context.Context) error { return nil }

// renew keeps this server's lease, and looks at all.
func (e *apiEndpoints) renew(ctx context.Context) error {
	ttl := uint64(serverLeaseTTL)
	err := e.leases.GuaranteedUpdate(ctx, leasesFolder+e.own.String(), &corev1.Endpoints{}, true, nil, //nolint:staticcheck // see apiserver.MasterLeases
		func(in runtime.Object, _ storage.ResponseMeta) (runtime.Object, *uint64, error) {
			lease := in.(*corev1.Endpoints)                                                                      //nolint:staticcheck // as above
			lease.Subsets = []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: e.own.String()}}}} //nolint:staticcheck // as above
			lease.Generation++                                                                                   // what does not change is not written
			return lease, &ttl, nil
		}, nil)
	if err != nil {
		return fmt.Errorf("renew the lease of this server's address: %w", err)
	}
	return e.reconcile(ctx)
}

// reconcile writes the addresses that have leases.
func (e *apiEndpoints) reconcile(ctx context.Context) error {
	var list corev1.EndpointsList //nolint:staticcheck // see apiserver.MasterLeases
	err := e.leases.GetList(ctx, leasesFolder, storage.ListOptions{Predicate: storage.Everything, Recursive: true}, &list)
	if err != nil {
		return fmt.Errorf("list the leases of servers: %w", err)
	}
	var living []netip.Addr
	for _, lease := range list.Items {
		for _, subset := range lease.Subsets {
			for _, a := range subset.Addresses {
				if ip, err := netip.ParseAddr(a.IP); err == nil && ip.Is4() == e.own.Is4() {
					living = append(living, ip)
				}
			}
		}
	}
	if len(living) == 0 {
		return errors.New("no server has a lease of its address: the endpoints stay as they are")
	}
	slices.SortFunc(living, netip.Addr.Compare)
	return e.publish(ctx, slices.Compact(living))
}

// leave gives the lease back, so that nobody tries this server until the lease runs out.
func (e *apiEndpoints) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leavePatience)
	defer cancel()
	err := e.leases.Delete(ctx, leasesFolder+e.own.String(), &corev1.Endpoints{}, nil, genericrest.ValidateAllObjectFunc, nil, storage.DeleteOptions{}) //nolint:staticcheck // as above
	if err == nil {
		err = e.reconcile(ctx)
	}
	if err != nil {
		klog.FromContext(ctx).V(1).Info("The endpoint of this server stays until its lease has run out", "err", err)
	}
}

// publish writes the Endpoints and the EndpointSlice. Others may do the same.
func (e *apiEndpoints) publish(ctx context.Context, ips []netip.Addr) error {
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error { return e.publishEndpoints(ctx, ips) })
	if err != nil {
		return fmt.Errorf("publish the API's Endpoints: %w", err)
	}
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error { return e.publishSlice(ctx, ips) })
	if err != nil {
		return fmt.Errorf("publish the API's EndpointSlice: %w", err)
	}
	return nil
}

func (e *apiEndpoints) publishEndpoints(ctx context.Context, ips []netip.Addr) error {
	subset := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: "https", Port: e.port, Protocol: corev1.ProtocolTCP}}} //nolint:staticcheck // upstream keeps it too, and clients read it
	for _, ip := range ips {
		subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: ip.String()}) //nolint:staticcheck // as above
	}
	subsets := []corev1.EndpointSubset{subset} //nolint:staticcheck // as above
	all := e.client.CoreV1().Endpoints(metav1.NamespaceDefault)
	old, err := all.Get(ctx, apiService, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = all.Create(ctx, &corev1.Endpoints{ //nolint:staticcheck // as above
			ObjectMeta: metav1.ObjectMeta{Name: apiService, Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"}}, Subsets: subsets,
		}, metav1.CreateOptions{})
		return conflictIfExists(err)
	}
	if err != nil || reflect.DeepEqual(old.Subsets, subsets) {
		return err
	}
	old.Subsets = subsets
	_, err = all.Update(ctx, old, metav1.UpdateOptions{})
	return err
}

func (e *apiEndpoints) publishSlice(ctx context.Context, ips []netip.Addr) error {
	ports := []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: &e.port, Protocol: ptr.To(corev1.ProtocolTCP)}}
	var endpoints []discoveryv1.Endpoint
	for _, ip := range ips {
		endpoints = append(endpoints, discoveryv1.Endpoint{Addresses: []string{ip.String()}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}})
	}
	family := discoveryv1.AddressTypeIPv4
	if e.own.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	all := e.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	old, err := all.Get(ctx, apiService, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = all.Create(ctx, &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: apiService, Labels: map[string]string{discoveryv1.LabelServiceName: apiService}},
			AddressType: family, Endpoints: endpoints, Ports: ports,
		}, metav1.CreateOptions{})
		return conflictIfExists(err)
	}
	if err != nil || reflect.DeepEqual(old.Endpoints, endpoints) && reflect.DeepEqual(old.Ports, ports) {
		return err
	}
	old.Endpoints, old.Ports = endpoints, ports
	_, err = all.Update(ctx, old, metav1.UpdateOptions{})
	return err
}

// conflictIfExists makes of an object that somebody else has just created one that somebody else has just changed.
func conflictIfExists(err error) error {
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	return apierrors.NewConflict(corev1.Resource("endpoints"), apiService, err)
}
