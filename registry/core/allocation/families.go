// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/internal/serviceip"
	"github.com/skiff-k8s/skiff/registry/core"
)

var (
	policyPath     = field.NewPath("spec", "ipFamilyPolicy")
	familiesPath   = field.NewPath("spec", "ipFamilies")
	clusterIPsPath = field.NewPath("spec", "clusterIPs")
)

func invalid(s *corev1.Service, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name, errs)
}

// setFamilies fills in ipFamilyPolicy and ipFamilies and refuses what this cluster cannot do. old is nil
// on create. It never changes how many families a Service has unless its policy says so.
func (a *Allocator) setFamilies(s, old *corev1.Service) error {
	if !needsClusterIP(s) || stillPrefersDualStack(s, old) {
		return nil
	}
	if s.Spec.IPFamilyPolicy == nil {
		s.Spec.IPFamilyPolicy = defaultPolicy(s, old)
	}
	before := old
	if before == nil {
		before = &corev1.Service{}
	}
	if err := invalid(s, core.ValidateServiceIPs(s, before)); err != nil {
		return err // what follows relies on addresses being addresses
	}
	errs := releaseSecond(s, old)
	errs = append(errs, checkSingleStack(s)...)
	errs = append(errs, a.inferFamilies(s)...)
	if err := invalid(s, errs); err != nil {
		return err
	}
	spec := &s.Spec
	dual := policyOf(s) != corev1.IPFamilyPolicySingleStack
	if spec.ClusterIP == corev1.ClusterIPNone && len(spec.Selector) == 0 {
		// Nothing is allocated and nobody but the owner knows the endpoints: any families will do.
		a.completeFamilies(s, dual)
		return nil
	}
	if err := invalid(s, a.checkFamilies(s)); err != nil {
		return err
	}
	a.completeFamilies(s, dual && len(a.families) == 2)
	return nil
}

// completeFamilies adds the cluster's default family and, if dual, the other one.
func (a *Allocator) completeFamilies(s *corev1.Service, dual bool) {
	families := &s.Spec.IPFamilies
	if len(*families) == 0 {
		*families = []corev1.IPFamily{a.families[0]}
	}
	if dual && len(*families) == 1 {
		*families = append(*families, otherFamily((*families)[0]))
	}
}

// stillPrefersDualStack is true if s preferred dual-stack before and nothing was changed about that: then
// it stays as the cluster was when it got its addresses.
func stillPrefersDualStack(s, old *corev1.Service) bool {
	return old != nil && s.Spec.Type == old.Spec.Type &&
		policyOf(s) == corev1.IPFamilyPolicyPreferDualStack &&
		(old.Spec.IPFamilyPolicy == nil || policyOf(old) == corev1.IPFamilyPolicyPreferDualStack) &&
		slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) && slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies)
}

func defaultPolicy(s, old *corev1.Service) *corev1.IPFamilyPolicy {
	switch {
	case old != nil && old.Spec.IPFamilyPolicy != nil:
		return old.Spec.IPFamilyPolicy
	case s.Spec.ClusterIP == corev1.ClusterIPNone && len(s.Spec.Selector) == 0:
		return ptr.To(corev1.IPFamilyPolicyRequireDualStack)
	}
	return ptr.To(corev1.IPFamilyPolicySingleStack)
}

// releaseSecond drops the second address and family if the policy has become SingleStack, and refuses that
// they go without it.
func releaseSecond(s, old *corev1.Service) field.ErrorList {
	if old == nil {
		return nil
	}
	is, was := &s.Spec, &old.Spec
	if policyOf(s) == corev1.IPFamilyPolicySingleStack {
		if len(is.ClusterIPs) > 1 && slices.Equal(is.ClusterIPs, was.ClusterIPs) {
			is.ClusterIPs = is.ClusterIPs[:1]
		}
		if len(is.IPFamilies) > 1 && slices.Equal(is.IPFamilies, was.IPFamilies) {
			is.IPFamilies = is.IPFamilies[:1]
		}
		return nil
	}
	var errs field.ErrorList
	if len(is.ClusterIPs) > 0 && len(is.ClusterIPs) < len(was.ClusterIPs) {
		errs = append(errs, field.Invalid(policyPath, is.IPFamilyPolicy, "must be 'SingleStack' to release the secondary cluster IP"))
	}
	if len(is.IPFamilies) > 0 && len(is.IPFamilies) < len(was.IPFamilies) {
		errs = append(errs, field.Invalid(policyPath, is.IPFamilyPolicy, "must be 'SingleStack' to release the secondary IP family"))
	}
	return errs
}

func checkSingleStack(s *corev1.Service) field.ErrorList {
	if policyOf(s) != corev1.IPFamilyPolicySingleStack {
		return nil
	}
	const want = "must be 'RequireDualStack' or 'PreferDualStack' when multiple %s are specified"
	var errs field.ErrorList
	if len(s.Spec.ClusterIPs) == 2 {
		errs = append(errs, field.Invalid(policyPath, s.Spec.IPFamilyPolicy, fmt.Sprintf(want, "cluster IPs")))
	}
	if len(s.Spec.IPFamilies) == 2 {
		errs = append(errs, field.Invalid(policyPath, s.Spec.IPFamilyPolicy, fmt.Sprintf(want, "IP families")))
	}
	return errs
}

// inferFamilies takes the families that are not given from the addresses that are.
func (a *Allocator) inferFamilies(s *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	for i, text := range s.Spec.ClusterIPs {
		if text == corev1.ClusterIPNone {
			break
		}
		ip, err := netip.ParseAddr(text)
		if err != nil || i < len(s.Spec.IPFamilies) {
			continue
		}
		family := serviceip.FamilyOf(ip)
		if !slices.Contains(a.families, family) {
			errs = append(errs, field.Invalid(clusterIPsPath.Index(i), s.Spec.ClusterIPs, fmt.Sprintf("%s is not configured on this cluster", family)))
			continue
		}
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, family)
	}
	return errs
}

func (a *Allocator) checkFamilies(s *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	if policyOf(s) == corev1.IPFamilyPolicyRequireDualStack && len(a.families) < 2 {
		errs = append(errs, field.Invalid(policyPath, s.Spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, family := range s.Spec.IPFamilies {
		if !slices.Contains(a.families, family) {
			errs = append(errs, field.Invalid(familiesPath.Index(i), family, "not configured on this cluster"))
		}
	}
	return errs
}
