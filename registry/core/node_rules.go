// SPDX-License-Identifier: Apache-2.0

package core

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	netutils "k8s.io/utils/net"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

const (
	taintsAnnotation = corev1.TaintsAnnotationKey
	podCIDRIsSet     = "node updates may not change podCIDR except from \"\" to valid"
)

// declaredFeature is the form of the names of features that a kubelet declares: MyFeature/aPart.
var declaredFeature = regexp.MustCompile(`^[A-Z][a-zA-Z0-9]*(\/[a-zA-Z][a-zA-Z0-9]*)*$`)

// defaultNode: without reservations all of a Node can be used. It also keeps podCIDR the first of podCIDRs.
func defaultNode(n *corev1.Node) {
	switch {
	case n.Spec.PodCIDR != "" && (len(n.Spec.PodCIDRs) == 0 || n.Spec.PodCIDRs[0] != n.Spec.PodCIDR):
		n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
	case n.Spec.PodCIDR == "" && len(n.Spec.PodCIDRs) > 0:
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	}
	podspec.DefaultResourceList(n.Status.Capacity)
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	podspec.DefaultResourceList(n.Status.Allocatable)
}

func prepareNodeCreate(n *corev1.Node) {
	n.Spec.ConfigSource = nil
	n.Spec.PodPreemptionPolicy = nil
	n.Status.Config = nil
}

func prepareNodeUpdate(n, old *corev1.Node) {
	n.Status = old.Status
	if old.Spec.ConfigSource == nil {
		n.Spec.ConfigSource = nil
	}
	if old.Spec.PodPreemptionPolicy == nil {
		n.Spec.PodPreemptionPolicy = nil
	}
}

func prepareNodeStatusUpdate(n, old *corev1.Node) {
	n.Spec = old.Spec
	if old.Status.Config == nil {
		n.Status.Config = nil
	}
}

// validateNode says errors of taints and swap are in the metadata, as upstream does.
func validateNode(n *corev1.Node) field.ErrorList {
	errs := rule.ObjectMeta(&n.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validateNodeCommon(n)...)
	if swap := n.Status.NodeInfo.Swap; swap != nil && swap.Capacity != nil {
		errs = append(errs, rule.Positive(field.NewPath("metadata", "nodeSwapStatus", "capacity"), *swap.Capacity)...)
	}
	path := field.NewPath("spec", "podCIDRs")
	for i, cidr := range n.Spec.PodCIDRs {
		errs = append(errs, rule.CIDR(path.Index(i), cidr)...)
	}
	if len(n.Spec.PodCIDRs) > 1 {
		both, err := netutils.IsDualStackCIDRStrings(n.Spec.PodCIDRs)
		if err != nil {
			errs = append(errs, field.InternalError(path, fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%v", err)))
		}
		errs = append(errs, rule.If(!both || len(n.Spec.PodCIDRs) > 2, field.Invalid(path, n.Spec.PodCIDRs, "may specify no more than one CIDR for each IP family"))...)
	}
	return errs
}

func validateNodeCommon(n *corev1.Node) field.ErrorList {
	meta := field.NewPath("metadata")
	errs := validateNodeAnnotations(meta.Child("annotations"), n.Annotations)
	errs = append(errs, validateTaints(meta.Child("taints"), n.Spec.Taints)...)
	for _, list := range []struct {
		name      string
		resources corev1.ResourceList
	}{{"capacity", n.Status.Capacity}, {"allocatable", n.Status.Allocatable}} {
		for _, name := range sets.List(sets.KeySet(list.resources)) {
			errs = append(errs, podspec.ValidateQuantity(field.NewPath("status", list.name, string(name)), name, list.resources[name])...)
		}
	}
	return append(errs, validateDeclaredFeatures(field.NewPath("status", "declaredFeatures"), n.Status.DeclaredFeatures)...)
}

func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	return append(validateNode(n), validateNodeChange(n, old)...)
}

func validateNodeStatus(n, old *corev1.Node) field.ErrorList {
	errs := append(rule.ObjectMetaUpdate(&n.ObjectMeta), validateNodeCommon(n)...)
	return append(errs, validateNodeChange(n, old)...)
}

// validateNodeChange checks what may not change, or not so, in a Node and its status.
func validateNodeChange(n, old *corev1.Node) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	seen := sets.New[corev1.NodeAddress]()
	for i, a := range n.Status.Addresses {
		errs = append(errs, rule.If(seen.Has(a), field.Duplicate(field.NewPath("status", "addresses").Index(i), a))...)
		seen.Insert(a)
	}
	errs = append(errs, rule.If(len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs),
		field.Forbidden(spec.Child("podCIDRs"), podCIDRIsSet))...)
	if was := old.Spec.ProviderID; was != "" && n.Spec.ProviderID != was {
		detail := "field cannot be modified once set"
		if n.Spec.ProviderID == "" {
			detail = "field cannot be cleared once set"
		}
		errs = append(errs, field.Invalid(spec.Child("providerID"), nil, detail))
	}
	return append(errs, rule.If(n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID, field.Forbidden(spec.Child("externalID"), "may not be updated"))...)
}

func validateTaints(path *field.Path, taints []corev1.Taint) field.ErrorList {
	var errs field.ErrorList
	type pair struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := sets.New[pair]()
	for i, t := range taints {
		at := path.Index(i)
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		if msgs := validation.IsValidLabelValue(t.Value); len(msgs) > 0 {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, strings.Join(msgs, ";")))
		}
		if t.Effect == "" {
			errs = append(errs, field.Required(at.Child("effect"), ""))
		} else {
			errs = append(errs, podspec.ValidateTaintEffect(at.Child("effect"), t.Effect)...)
		}
		if p := (pair{t.Key, t.Effect}); seen.Has(p) {
			duplicate := field.Duplicate(at, t)
			duplicate.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, duplicate)
		} else {
			seen.Insert(p)
		}
	}
	return errs
}

// validateNodeAnnotations checks two annotations of old that the scheduler may still read.
func validateNodeAnnotations(path *field.Path, annotations map[string]string) field.ErrorList {
	var errs field.ErrorList
	if value := annotations[taintsAnnotation]; value != "" {
		var taints []corev1.Taint
		if err := json.Unmarshal([]byte(value), &taints); err != nil {
			errs = append(errs, field.Invalid(path, taintsAnnotation, err.Error()))
		} else {
			errs = append(errs, validateTaints(path.Child(taintsAnnotation), taints)...)
		}
	}
	if annotations[corev1.PreferAvoidPodsAnnotationKey] == "" {
		return errs
	}
	avoids, err := schedulinghelper.GetAvoidPodsFromNodeAnnotations(annotations)
	if err != nil {
		return append(errs, field.Invalid(path.Child("AvoidPods"), corev1.PreferAvoidPodsAnnotationKey, err.Error()))
	}
	for i, avoid := range avoids.PreferAvoidPods {
		at := path.Child(corev1.PreferAvoidPodsAnnotationKey).Index(i).Child("PodSignature")
		switch owner := avoid.PodSignature.PodController; {
		case owner == nil:
			errs = append(errs, field.Required(at, ""))
		case owner.Controller == nil || !*owner.Controller:
			errs = append(errs, field.Invalid(at.Child("PodController", "Controller"), false, "must point to a controller"))
		}
	}
	return errs
}

func validateDeclaredFeatures(path *field.Path, features []string) field.ErrorList {
	var errs field.ErrorList
	for i, f := range features {
		at := path.Index(i)
		switch {
		case len(f) > validation.DNS1123SubdomainMaxLength:
			errs = append(errs, field.Invalid(at, f, fmt.Sprintf("invalid feature name %q: must be no more than %d characters", f, validation.DNS1123SubdomainMaxLength)))
		case !declaredFeature.MatchString(f):
			errs = append(errs, field.Invalid(at, f, fmt.Sprintf("invalid feature name %q: must start with an UpperCamelCase segment, with subsequent segments "+
				"separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes", f)))
		}
		if i == 0 {
			continue
		}
		errs = append(errs, rule.If(f == features[i-1], field.Duplicate(at, f))...)
		errs = append(errs, rule.If(f < features[i-1], field.Invalid(at, f, "list must be sorted alphabetically"))...)
	}
	return errs
}

func nodeWarnings(n *corev1.Node) []string {
	var list []string
	if n.Spec.ConfigSource != nil {
		list = append(list, "spec.configSource: the feature is removed")
	}
	if n.Spec.DoNotUseExternalID != "" {
		list = append(list, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	for i, cidr := range n.Spec.PodCIDRs {
		list = append(list, validation.GetWarningsForCIDR(field.NewPath("spec", "podCIDRs").Index(i), cidr)...)
	}
	return list
}

// nodeFields are what field selectors of Nodes know besides metadata.name.
func nodeFields(n *corev1.Node) fields.Set {
	return fields.Set{"spec.unschedulable": strconv.FormatBool(n.Spec.Unschedulable)}
}
