// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericrest "k8s.io/apiserver/pkg/registry/rest"

	"github.com/skiff-k8s/skiff/internal/serviceip"
	"github.com/skiff-k8s/skiff/registry/rest"
)

var (
	errFull       = errors.New("range is full")
	errTaken      = errors.New("provided IP is already allocated")
	errOutOfRange = errors.New("the provided network does not match the current range")
	errNotReady   = errors.New("allocator not ready")
	errNotOurs    = errors.New("the address belongs to somebody else")
)

// allocateAddresses takes the addresses that c's Service gets and notes those that it loses.
func (a *Allocator) allocateAddresses(ctx context.Context, c *change, old *corev1.Service, dryRun bool) error {
	s := c.service
	switch {
	case old == nil || !needsClusterIP(old):
		return a.assignAddresses(ctx, c, 0, dryRun)
	case stillPrefersDualStack(s, old) || isHeadless(old):
		return nil
	case !needsClusterIP(s):
		c.freed = addressesOf(old)
	case len(old.Spec.IPFamilies) == 1 && len(s.Spec.IPFamilies) == 2:
		return a.assignAddresses(ctx, c, 1, dryRun)
	case len(old.Spec.IPFamilies) == 2 && len(s.Spec.IPFamilies) == 1:
		if had := addressesOf(old); len(had) == 2 {
			c.freed = had[1:]
		}
	}
	return nil
}

// assignAddresses sets clusterIPs to one address per family, leaving alone those before the index from. An
// address that is there already is what the user wants.
func (a *Allocator) assignAddresses(ctx context.Context, c *change, from int, dryRun bool) error {
	s := c.service
	if !needsClusterIP(s) || isHeadless(s) {
		return nil
	}
	ips := slices.Clone(s.Spec.ClusterIPs)
	for i := from; i < len(s.Spec.IPFamilies); i++ {
		wanted := ""
		if i < len(ips) {
			wanted = ips[i]
		}
		ip, err := a.assignAddress(ctx, s, s.Spec.IPFamilies[i], wanted, dryRun)
		if err != nil {
			return err
		}
		c.taken = append(c.taken, ip)
		if i < len(ips) {
			ips[i] = ip.String()
		} else {
			ips = append(ips, ip.String())
		}
	}
	s.Spec.ClusterIPs = ips
	if len(ips) > 0 {
		s.Spec.ClusterIP = ips[0]
	}
	return nil
}

func (a *Allocator) assignAddress(ctx context.Context, s *corev1.Service, family corev1.IPFamily, wanted string, dryRun bool) (netip.Addr, error) {
	refuse := func(text string) error {
		return invalid(s, field.ErrorList{field.Invalid(clusterIPsPath, s.Spec.ClusterIPs, text)})
	}
	if wanted == "" {
		ip, err := a.addresses.next(ctx, s, family, dryRun)
		switch {
		case errors.Is(err, errFull):
			return ip, apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP for Service %q: %w", s.Name, err))
		case err != nil:
			return ip, refuse(fmt.Sprintf("failed to allocate IP: %v", err))
		}
		return ip, nil
	}
	ip, err := netip.ParseAddr(wanted)
	if err != nil {
		return ip, apierrors.NewInternalError(fmt.Errorf("failed to parse service IP %q", wanted))
	}
	if err := a.addresses.take(ctx, s, ip, dryRun); err != nil {
		return ip, refuse(fmt.Sprintf("failed to allocate IP %v: %v", wanted, err))
	}
	return ip, nil
}

// addresses are the cluster IPs: ServiceCIDR objects say which there are, IPAddress objects which are taken.
type addresses struct{ ips, cidrs *rest.Store }

// take reserves ip for s.
func (a *addresses) take(ctx context.Context, s *corev1.Service, ip netip.Addr, dryRun bool) error {
	blocks, err := a.blocks(ctx, serviceip.FamilyOf(ip))
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(blocks, func(b block) bool { return b.contains(ip) }) {
		return errOutOfRange
	}
	if dryRun {
		return nil
	}
	return a.create(ctx, s, ip)
}

// next reserves a free address for s. Without collisions, which a range that is not nearly full makes rare,
// it lists nothing.
func (a *addresses) next(ctx context.Context, s *corev1.Service, family corev1.IPFamily, dryRun bool) (netip.Addr, error) {
	blocks, err := a.blocks(ctx, family)
	if err != nil {
		return netip.Addr{}, err
	}
	var known sets.Set[string] // names of taken addresses, once that matters
	for _, b := range blocks {
		if dryRun {
			return b.prefix.Addr(), nil // as upstream: an address that stands for any
		}
		for ip := range b.all(rand.Uint64()) {
			if known.Has(ip.String()) {
				continue
			}
			err := a.create(ctx, s, ip)
			if err == nil || !errors.Is(err, errTaken) {
				return ip, err
			}
			if known == nil {
				if known, err = a.taken(ctx); err != nil {
					return ip, err
				}
			}
		}
	}
	return netip.Addr{}, errFull
}

// create makes the IPAddress object of ip. This is the moment of allocation.
func (a *addresses) create(ctx context.Context, s *corev1.Service, ip netip.Addr) error {
	_, err := a.ips.Create(ctx, serviceip.New(s, ip), genericrest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return errTaken
	}
	return err
}

// belongsTo is true if the address is s's.
func belongsTo(ip *networkingv1.IPAddress, s *corev1.Service) bool {
	ref := ip.Spec.ParentRef
	return ref != nil && ref.Group == "" && ref.Resource == "services" && ref.Namespace == s.Namespace && ref.Name == s.Name
}

// release gives ip back unless it is another Service's.
func (a *addresses) release(ctx context.Context, ip netip.Addr, s *corev1.Service) error {
	_, _, err := a.ips.Delete(ctx, ip.String(), func(_ context.Context, obj runtime.Object) error {
		if !belongsTo(obj.(*networkingv1.IPAddress), s) {
			return errNotOurs
		}
		return nil
	}, &metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) || errors.Is(err, errNotOurs) {
		return nil
	}
	return err
}

// taken lists the names of all addresses in use, as far as the cache knows.
func (a *addresses) taken(ctx context.Context) (sets.Set[string], error) {
	list, err := a.ips.List(ctx, &internalversion.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("list IPAddresses: %w", err)
	}
	names := sets.New[string]()
	for i := range list.(*networkingv1.IPAddressList).Items {
		names.Insert(list.(*networkingv1.IPAddressList).Items[i].Name)
	}
	return names, nil
}

// blocks are the usable ranges of one family. They are read from the cache and, if it has none, as right
// after a start, from etcd.
func (a *addresses) blocks(ctx context.Context, family corev1.IPFamily) ([]block, error) {
	for _, version := range []string{"0", ""} {
		list, err := a.cidrs.List(ctx, &internalversion.ListOptions{ResourceVersion: version})
		if err != nil {
			return nil, fmt.Errorf("list ServiceCIDRs: %w", err)
		}
		if out := readyBlocks(list.(*networkingv1.ServiceCIDRList).Items, family); len(out) > 0 {
			return out, nil
		}
	}
	return nil, errNotReady
}

func readyBlocks(cidrs []networkingv1.ServiceCIDR, family corev1.IPFamily) []block {
	var out []block
	for i := range cidrs {
		if !isReady(&cidrs[i]) {
			continue
		}
		for _, text := range cidrs[i].Spec.CIDRs {
			prefix, err := netip.ParsePrefix(text)
			if err == nil && serviceip.FamilyOf(prefix.Addr()) == family {
				out = append(out, newBlock(prefix))
			}
		}
	}
	return out
}

// isReady is true unless the range is on its way out or says that it is not. One that says nothing is
// ready: maybe no controller runs.
func isReady(cidr *networkingv1.ServiceCIDR) bool {
	if cidr.DeletionTimestamp != nil {
		return false
	}
	for _, c := range cidr.Status.Conditions {
		if c.Type == networkingv1.ServiceCIDRConditionReady {
			return c.Status == metav1.ConditionTrue
		}
	}
	return true
}
