// SPDX-License-Identifier: Apache-2.0

package core

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

func defaultConfigMap(c *corev1.ConfigMap) {
	if c.Data == nil {
		c.Data = map[string]string{}
	}
}

func validateConfigMap(c *corev1.ConfigMap) field.ErrorList {
	data, binary := field.NewPath("data"), field.NewPath("binaryData")
	errs := rule.ObjectMeta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	size := 0
	for _, key := range sets.List(sets.KeySet(c.Data)) {
		errs = append(errs, rule.Invalid(data.Key(key), key, validation.IsConfigMapKey(key))...)
		_, both := c.BinaryData[key]
		errs = append(errs, rule.If(both, field.Invalid(data.Key(key), key, "duplicate of key present in binaryData"))...)
		size += len(c.Data[key])
	}
	for _, key := range sets.List(sets.KeySet(c.BinaryData)) {
		errs = append(errs, rule.Invalid(binary.Key(key), key, validation.IsConfigMapKey(key))...)
		size += len(c.BinaryData[key])
	}
	// The size is that of the whole object, so the error is at no field.
	return append(errs, rule.If(size > corev1.MaxSecretSize, field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))...)
}

func validateConfigMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	if isTrue(old.Immutable) {
		errs = rule.If(!isTrue(c.Immutable), field.Forbidden(field.NewPath("immutable"), immutableObject))
		errs = append(errs, rule.If(!reflect.DeepEqual(c.Data, old.Data), field.Forbidden(field.NewPath("data"), immutableObject))...)
		errs = append(errs, rule.If(!reflect.DeepEqual(c.BinaryData, old.BinaryData), field.Forbidden(field.NewPath("binaryData"), immutableObject))...)
	}
	return append(errs, validateConfigMap(c)...)
}
