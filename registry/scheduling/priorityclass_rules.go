// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rule"
)

const (
	systemPrefix    = "system-"
	maxUserPriority = 1_000_000_000
)

// systemClasses are the values of the classes that the server makes.
var systemClasses = map[string]int32{"system-node-critical": 2_000_001_000, "system-cluster-critical": 2_000_000_000}

func defaultPriorityClass(c *schedulingv1.PriorityClass) {
	if c.PreemptionPolicy == nil {
		c.PreemptionPolicy = ptr.To(corev1.PreemptLowerPriority)
	}
}

func validatePriorityClass(c *schedulingv1.PriorityClass) field.ErrorList {
	errs := rule.ObjectMeta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	if strings.HasPrefix(c.Name, systemPrefix) {
		if wrong := systemClassError(c); wrong != "" {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"),
				"priority class names with '"+systemPrefix+"' prefix are reserved for system use only. error: "+wrong))
		}
	} else {
		errs = append(errs, rule.If(c.Value > maxUserPriority,
			field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %v", maxUserPriority)))...)
	}
	if c.PreemptionPolicy != nil {
		errs = append(errs, rule.OneOf(field.NewPath("preemptionPolicy"), *c.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	return errs
}

func systemClassError(c *schedulingv1.PriorityClass) string {
	value, known := systemClasses[c.Name]
	switch {
	case !known:
		return c.Name + " is not a known system priority class"
	case c.Value != value:
		return fmt.Sprintf("value of %v PriorityClass must be %v", c.Name, value)
	case c.GlobalDefault:
		return fmt.Sprintf("globalDefault of %v PriorityClass must be false", c.Name)
	}
	return ""
}

func validatePriorityClassUpdate(c, old *schedulingv1.PriorityClass) field.ErrorList {
	errs := rule.ObjectMetaUpdate(&c.ObjectMeta)
	errs = append(errs, rule.If(c.Value != old.Value, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))...)
	return append(errs, rule.Unchanged(field.NewPath("preemptionPolicy"), c.PreemptionPolicy, old.PreemptionPolicy)...)
}
