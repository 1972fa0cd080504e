// SPDX-License-Identifier: Apache-2.0

package node

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/validate"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

func defaultRuntimeClass(c *nodev1.RuntimeClass) {
	if c.Overhead != nil {
		podspec.DefaultResourceList(c.Overhead.PodFixed)
	}
}

func validateRuntimeClass(c *nodev1.RuntimeClass) field.ErrorList {
	return append(validateFields(c), rule.RequiredAnd(field.NewPath("handler"), c.Handler, validate.ShortName)...)
}

func validateFields(c *nodev1.RuntimeClass) field.ErrorList {
	errs := rule.GenericMeta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	if c.Overhead != nil {
		errs = append(errs, podspec.ValidateOverhead(field.NewPath("overhead"), c.Overhead.PodFixed, podspec.Options{})...)
	}
	if c.Scheduling == nil {
		return errs
	}
	path := field.NewPath("scheduling")
	errs = append(errs, rule.Labels(path.Child("nodeSelector"), c.Scheduling.NodeSelector)...)
	return append(errs, validateTolerations(path.Child("tolerations"), c.Scheduling.Tolerations)...)
}

// validateTolerations says that each is another one, however long it lasts.
func validateTolerations(path *field.Path, tolerations []corev1.Toleration) field.ErrorList {
	errs := podspec.ValidateTolerations(path, tolerations, podspec.Options{})
	seen := sets.New[corev1.Toleration]()
	for i, t := range tolerations {
		key := t
		key.TolerationSeconds = nil
		errs = append(errs, rule.If(seen.Has(key), field.Duplicate(path.Index(i), t))...)
		seen.Insert(key)
	}
	return errs
}

func validateRuntimeClassUpdate(c, old *nodev1.RuntimeClass) field.ErrorList {
	errs, handler := validateFields(c), field.NewPath("handler")
	if c.Handler == "" {
		errs = append(errs, field.Required(handler, ""))
	} else {
		errs = append(errs, rule.DNSLabel(handler, c.Handler)...) // in other words than on create, as upstream
	}
	return append(errs, rule.Fixed(handler, c.Handler, old.Handler)...)
}

func runtimeClassWarnings(c, _ *nodev1.RuntimeClass) []string {
	if c.Scheduling == nil {
		return nil
	}
	var out []string
	for _, label := range slices.Sorted(maps.Keys(c.Scheduling.NodeSelector)) {
		if message, deprecated := podspec.NodeLabelWarning(label); deprecated {
			out = append(out, "scheduling.nodeSelector: "+message)
		}
	}
	return out
}
