// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"fmt"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

// Rules of StorageClasses and VolumeAttributesClasses.

const (
	maxParameters     = 512
	maxParametersSize = 256 << 10 // bytes, of keys and values
)

func setDefault[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

func defaultStorageClass(c *storagev1.StorageClass) {
	setDefault(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
	setDefault(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
}

func validateStorageClass(c *storagev1.StorageClass) field.ErrorList {
	errs := rule.ObjectMeta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validateProvisioner(field.NewPath("provisioner"), c.Provisioner)...)
	errs = append(errs, validateParameters(field.NewPath("parameters"), c.Parameters)...)
	if p := c.ReclaimPolicy; p != nil && *p != "" {
		errs = append(errs, rule.Supported(field.NewPath("reclaimPolicy"), *p, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	if mode := field.NewPath("volumeBindingMode"); c.VolumeBindingMode == nil {
		errs = append(errs, field.Required(mode, ""))
	} else {
		errs = append(errs, rule.Supported(mode, *c.VolumeBindingMode, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	}
	return append(errs, validateTopologies(field.NewPath("allowedTopologies"), c.AllowedTopologies)...)
}

func validateStorageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	errs := validateStorageClass(c)
	errs = append(errs, rule.Fixed(field.NewPath("parameters"), c.Parameters, old.Parameters)...)
	errs = append(errs, rule.Fixed(field.NewPath("provisioner"), c.Provisioner, old.Provisioner)...)
	errs = append(errs, rule.Fixed(field.NewPath("reclaimPolicy"), c.ReclaimPolicy, old.ReclaimPolicy)...)
	return append(errs, rule.Fixed(field.NewPath("volumeBindingMode"), c.VolumeBindingMode, old.VolumeBindingMode)...)
}

func validateProvisioner(path *field.Path, name string) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return rule.QualifiedName(path, strings.ToLower(name))
}

func validateParameters(path *field.Path, parameters map[string]string) field.ErrorList {
	if len(parameters) > maxParameters {
		return field.ErrorList{field.TooLong(path, "", maxParameters)}
	}
	_, empty := parameters[""]
	errs, size := rule.If(empty, field.Invalid(path, "", "field can not be empty.")), 0
	for k, v := range parameters {
		size += len(k) + len(v)
	}
	return append(errs, rule.If(size > maxParametersSize, field.TooLong(path, "", maxParametersSize))...)
}

// validateTopologies says that terms must be different, whatever the order in which they list things.
func validateTopologies(path *field.Path, terms []corev1.TopologySelectorTerm) field.ErrorList {
	var errs field.ErrorList
	var seen []map[string]sets.Set[string]
	for i := range terms {
		at := path.Index(i).Child("matchLabelExpressions")
		content := map[string]sets.Set[string]{}
		for j, e := range terms[i].MatchLabelExpressions {
			errs = append(errs, validateTopology(at.Index(j), e)...)
			_, twice := content[e.Key]
			errs = append(errs, rule.If(twice, field.Duplicate(at.Index(j).Child("key"), e.Key))...)
			content[e.Key] = sets.New(e.Values...)
		}
		errs = append(errs, rule.If(len(content) == 0, field.Duplicate(at, ""))...) // of nothing, as upstream has it
		for _, other := range seen {
			errs = append(errs, rule.If(equality.Semantic.DeepEqual(content, other), field.Duplicate(at, ""))...)
		}
		seen = append(seen, content)
	}
	return errs
}

func validateTopology(path *field.Path, e corev1.TopologySelectorLabelRequirement) field.ErrorList {
	values := path.Child("values")
	errs := rule.If(len(e.Values) == 0, field.Required(values, ""))
	seen := sets.New[string]()
	for i, v := range e.Values {
		errs = append(errs, rule.If(seen.Has(v), field.Duplicate(values.Index(i), v))...)
		seen.Insert(v)
	}
	return append(errs, metavalidation.ValidateLabelName(e.Key, path.Child("key"))...)
}

func storageClassWarnings(c, _ *storagev1.StorageClass) []string {
	var out []string
	for i, term := range c.AllowedTopologies {
		for j, e := range term.MatchLabelExpressions {
			if message, deprecated := podspec.NodeLabelWarning(e.Key); deprecated {
				at := field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j).Child("key")
				out = append(out, fmt.Sprintf("%s: %s", at, message))
			}
		}
	}
	return out
}

func validateVolumeAttributesClass(c *storagev1.VolumeAttributesClass) field.ErrorList {
	errs := rule.ObjectMeta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validateProvisioner(field.NewPath("driverName"), c.DriverName)...)
	errs = append(errs, validateParameters(field.NewPath("parameters"), c.Parameters)...)
	return append(errs, rule.If(len(c.Parameters) == 0, field.Required(field.NewPath("parameters"), "must contain at least one key/value pair"))...)
}

func validateVolumeAttributesClassUpdate(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
	errs := rule.If(c.DriverName != old.DriverName, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
	errs = append(errs, rule.If(!reflect.DeepEqual(c.Parameters, old.Parameters), field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))...)
	return append(errs, validateVolumeAttributesClass(c)...)
}
