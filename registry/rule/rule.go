// SPDX-License-Identifier: Apache-2.0

// Package rule holds the small checks that the validation of every resource is written with.
//
// Each takes the path of a field and its value and returns what is wrong with it, in the words
// that upstream uses: clients and people read them. None looks further than the value it is given.
package rule

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Details that several resources share.
const (
	Immutable   = apivalidation.FieldImmutableErrorMsg
	NotNegative = apivalidation.IsNegativeErrorMsg
	NotZero     = "must be greater than zero"
)

// One makes a list of a single error; nil makes none.
func One(err *field.Error) field.ErrorList {
	if err == nil {
		return nil
	}
	return field.ErrorList{err}
}

// If returns the error when the condition holds.
func If(wrong bool, err *field.Error) field.ErrorList {
	if !wrong {
		return nil
	}
	return field.ErrorList{err}
}

// Required says that a string must not be empty.
func Required(path *field.Path, s string) field.ErrorList {
	return If(s == "", field.Required(path, ""))
}

// Invalid turns the messages of a format check, such as validation.IsDNS1123Label, into errors.
func Invalid(path *field.Path, value any, msgs []string) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range msgs {
		errs = append(errs, field.Invalid(path, value, msg))
	}
	return errs
}

// Supported says that a value must be one of the allowed ones. The order is that of the message.
func Supported[T ~string](path *field.Path, value T, allowed ...T) field.ErrorList {
	for _, a := range allowed {
		if value == a {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(path, value, allowed)}
}

// SupportedIfSet is Supported for an optional field.
func SupportedIfSet[T ~string](path *field.Path, value *T, allowed ...T) field.ErrorList {
	if value == nil {
		return nil
	}
	return Supported(path, *value, allowed...)
}

// OneOf says that a value must be there and must be one of the allowed ones.
func OneOf[T ~string](path *field.Path, value T, allowed ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return Supported(path, value, allowed...)
}

// NonNegative says that a number must be zero or more.
func NonNegative[T ~int32 | ~int64](path *field.Path, n T) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(int64(n), path)
}

// NonNegativeIfSet is NonNegative for an optional field.
func NonNegativeIfSet[T ~int32 | ~int64](path *field.Path, n *T) field.ErrorList {
	if n == nil {
		return nil
	}
	return NonNegative(path, *n)
}

// Positive says that a number must be one or more.
func Positive[T ~int32 | ~int64](path *field.Path, n T) field.ErrorList {
	return If(n <= 0, field.Invalid(path, int64(n), NotZero))
}

// Range says that a number must be between two others, both included.
func Range[T ~int32 | ~int64](path *field.Path, n, low, high T) field.ErrorList {
	return If(n < low || n > high, field.Invalid(path, n, validation.InclusiveRangeError(int(low), int(high))))
}

// DNSLabel says that a string must be a label of RFC 1123.
func DNSLabel(path *field.Path, s string) field.ErrorList {
	return Invalid(path, s, validation.IsDNS1123Label(s))
}

// DNSSubdomain says that a string must be a subdomain of RFC 1123.
func DNSSubdomain(path *field.Path, s string) field.ErrorList {
	return Invalid(path, s, validation.IsDNS1123Subdomain(s))
}

// QualifiedName says that a string must be a name with an optional domain before a slash.
func QualifiedName(path *field.Path, s string) field.ErrorList {
	return Invalid(path, s, validation.IsQualifiedName(s))
}

// Name says that a reference must be a valid name of the kind it refers to.
func Name(path *field.Path, name string, valid apivalidation.ValidateNameFunc) field.ErrorList {
	return Invalid(path, name, valid(name, false))
}

// Port says that a number must be a port.
func Port(path *field.Path, port int32) field.ErrorList {
	return Invalid(path, port, validation.IsValidPortNum(int(port)))
}

// PortNumberOrName says that a value must be a port number or the name of a port.
func PortNumberOrName(path *field.Path, port intstr.IntOrString) field.ErrorList {
	switch port.Type {
	case intstr.Int:
		return Invalid(path, port.IntValue(), validation.IsValidPortNum(port.IntValue()))
	case intstr.String:
		return Invalid(path, port.StrVal, validation.IsValidPortName(port.StrVal))
	}
	return field.ErrorList{field.InternalError(path, fmt.Errorf("unknown type: %v", port.Type))}
}

// IP says that a string of a field older than strict checking must be an IP address. Addresses of
// the old object may stay as they are.
func IP(path *field.Path, ip string, old ...string) field.ErrorList {
	return validation.IsValidIPForLegacyField(path, ip, true, old)
}

// CIDR says that a string of a field older than strict checking must be a block of addresses.
// Blocks of the old object may stay as they are.
func CIDR(path *field.Path, cidr string, old ...string) field.ErrorList {
	return validation.IsValidCIDRForLegacyField(path, cidr, true, old)
}

// Unchanged says that a field must stay what it was.
func Unchanged(path *field.Path, value, old any) field.ErrorList {
	return apivalidation.ValidateImmutableField(value, old, path)
}

// Fixed is Unchanged for fields of which upstream's error does not show the value: those declared immutable.
func Fixed(path *field.Path, value, old any) field.ErrorList {
	return If(!equality.Semantic.DeepEqual(value, old), field.Invalid(path, nil, Immutable))
}

// ObjectMeta checks the metadata of a new object; name says what its name may look like.
func ObjectMeta(meta *metav1.ObjectMeta, namespaced bool, name apivalidation.ValidateNameFunc) field.ErrorList {
	path := field.NewPath("metadata")
	return append(apivalidation.ValidateObjectMeta(meta, namespaced, name, path), Finalizers(path.Child("finalizers"), meta.Finalizers)...)
}

// GenericMeta is ObjectMeta for those groups in which upstream lets finalizers be named without a domain.
func GenericMeta(meta *metav1.ObjectMeta, namespaced bool, name apivalidation.ValidateNameFunc) field.ErrorList {
	return apivalidation.ValidateObjectMeta(meta, namespaced, name, field.NewPath("metadata"))
}

// ObjectMetaUpdate checks what the machinery does not check of changed metadata.
func ObjectMetaUpdate(meta *metav1.ObjectMeta) field.ErrorList {
	return Finalizers(field.NewPath("metadata", "finalizers"), meta.Finalizers)
}

var standardFinalizers = sets.New("kubernetes", metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents)

// Finalizers says that a finalizer without a domain must be one of Kubernetes' own.
func Finalizers[T ~string](path *field.Path, finalizers []T) field.ErrorList {
	var errs field.ErrorList
	for i, f := range finalizers {
		if name := string(f); !strings.Contains(name, "/") && !standardFinalizers.Has(name) {
			errs = append(errs, field.Invalid(path.Index(i), name, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}

// Labels checks keys and values of labels, or of a selector by equality.
func Labels(path *field.Path, labels map[string]string) field.ErrorList {
	return metavalidation.ValidateLabels(labels, path)
}

// Annotations checks keys and size of annotations.
func Annotations(path *field.Path, annotations map[string]string) field.ErrorList {
	return apivalidation.ValidateAnnotations(annotations, path)
}

// LabelSelector checks a selector; tolerant lets values stand that are no label values, for objects
// that were stored before they were checked.
func LabelSelector(path *field.Path, selector *metav1.LabelSelector, tolerant bool) field.ErrorList {
	return metavalidation.ValidateLabelSelector(selector, metavalidation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: tolerant}, path)
}

// OneMember says that of the members of a union one must be set.
func OneMember(path *field.Path, set []string, members ...string) field.ErrorList {
	if len(set) == 1 {
		return nil
	}
	names := "`" + strings.Join(members, "`, `") + "`"
	if len(set) == 0 {
		return field.ErrorList{field.Invalid(path, "", "must specify one of: "+names)}
	}
	return field.ErrorList{field.Invalid(path, fmt.Sprintf("{%s}", strings.Join(set, ", ")), "must specify exactly one of: "+names)}
}
