// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"math"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/api/validate"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

const (
	maxAttachmentMetadata = 256 << 10 // bytes, of keys and values
	maxDriverName         = 63        // characters
	maxErrorMessage       = 1024      // bytes
)

func defaultVolumeAttachment(a *storagev1.VolumeAttachment) {
	if inline := a.Spec.Source.InlineVolumeSpec; inline != nil {
		podspec.DefaultResourceList(inline.Capacity)
		podspec.DefaultPersistentSource(&inline.PersistentVolumeSource)
	}
}

func validateVolumeAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	attacher := field.NewPath("spec", "attacher")
	errs := append(validateAttachment(a), rule.RequiredAnd(attacher, a.Spec.Attacher, validate.LongNameCaseless)...)
	return append(errs, validate.MaxLength(context.Background(), operation.Operation{}, attacher, &a.Spec.Attacher, nil, maxDriverName)...)
}

func validateAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	path, status := field.NewPath("spec"), field.NewPath("status")
	errs := rule.ObjectMeta(&a.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validateAttachmentSource(path.Child("source"), &a.Spec.Source)...)
	errs = append(errs, rule.DNSSubdomain(path.Child("nodeName"), a.Spec.NodeName)...)
	size := 0
	for k, v := range a.Status.AttachmentMetadata {
		size += len(k) + len(v)
	}
	errs = append(errs, rule.If(size > maxAttachmentMetadata, field.TooLong(status.Child("attachmentMetadata"), "", maxAttachmentMetadata))...)
	errs = append(errs, validateVolumeError(status.Child("attachError"), a.Status.AttachError)...)
	return append(errs, validateVolumeError(status.Child("detachError"), a.Status.DetachError)...)
}

func validateAttachmentSource(path *field.Path, s *storagev1.VolumeAttachmentSource) field.ErrorList {
	const one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	var errs field.ErrorList
	switch name := path.Child("persistentVolumeName"); {
	case s.InlineVolumeSpec == nil && s.PersistentVolumeName == nil:
		errs = append(errs, field.Required(path, one))
	case s.InlineVolumeSpec != nil && s.PersistentVolumeName != nil:
		errs = append(errs, field.Forbidden(path, one))
	case s.InlineVolumeSpec != nil:
		errs = append(errs, podspec.ValidateInlineVolumeSpec(path.Child("inlineVolumeSpec"), s.InlineVolumeSpec)...)
	case *s.PersistentVolumeName == "":
		errs = append(errs, field.Required(name, "must specify non empty persistentVolumeName"))
	}
	if s.PersistentVolumeName != nil {
		errs = append(errs, rule.DNSSubdomain(path.Child("persistentVolumeName"), *s.PersistentVolumeName)...)
	}
	return errs
}

func validateVolumeError(path *field.Path, e *storagev1.VolumeError) field.ErrorList {
	if e == nil {
		return nil
	}
	errs := rule.If(len(e.Message) > maxErrorMessage, field.TooLong(path.Child("message"), "", maxErrorMessage))
	if e.ErrorCode != nil && *e.ErrorCode < 0 {
		errs = append(errs, field.Invalid(path.Child("errorCode"), *e.ErrorCode, validation.InclusiveRangeError(0, math.MaxInt32)))
	}
	return errs
}

func validateVolumeAttachmentUpdate(a, old *storagev1.VolumeAttachment) field.ErrorList {
	errs := append(validateAttachment(a), rule.Fixed(field.NewPath("spec"), a.Spec, old.Spec)...)
	return append(errs, podspec.ValidateCSIDriverName(field.NewPath("spec", "attacher"), a.Spec.Attacher)...) // in other words than on create, as upstream
}
