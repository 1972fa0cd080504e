// SPDX-License-Identifier: Apache-2.0

package core

import (
	"crypto/tls"
	"encoding/json"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

const (
	redacted        = "<secret contents redacted>"
	immutableObject = "field is immutable when `immutable` is set"
)

// defaultSecret also moves stringData, which is only for writing, into data.
func defaultSecret(s *corev1.Secret) {
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = make(map[string][]byte, len(s.StringData))
	}
	for key, value := range s.StringData {
		s.Data[key] = []byte(value)
	}
	s.StringData = nil
}

func validateSecret(s *corev1.Secret) field.ErrorList {
	path := field.NewPath("data")
	errs := rule.ObjectMeta(&s.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	size := 0
	for _, key := range sets.List(sets.KeySet(s.Data)) {
		errs = append(errs, rule.Invalid(path.Key(key), key, validation.IsConfigMapKey(key))...)
		size += len(s.Data[key])
	}
	errs = append(errs, rule.If(size > corev1.MaxSecretSize, field.TooLong(path, "", corev1.MaxSecretSize))...)
	return append(errs, validateSecretType(path, s)...)
}

// validateSecretType checks that there is what the type of a Secret promises.
func validateSecretType(path *field.Path, s *corev1.Secret) field.ErrorList {
	var errs field.ErrorList
	has := func(key string) bool { _, ok := s.Data[key]; return ok }
	require := func(keys ...string) {
		for _, key := range keys {
			errs = append(errs, rule.If(!has(key), field.Required(path.Key(key), ""))...)
		}
	}
	requireJSON := func(key string) {
		if !has(key) {
			errs = append(errs, field.Required(path.Key(key), ""))
		} else if err := json.Unmarshal(s.Data[key], &map[string]any{}); err != nil {
			errs = append(errs, field.Invalid(path.Key(key), redacted, err.Error()))
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		return rule.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), s.Annotations[corev1.ServiceAccountNameKey])
	case corev1.SecretTypeDockercfg:
		requireJSON(corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		requireJSON(corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		if !has(corev1.BasicAuthUsernameKey) && !has(corev1.BasicAuthPasswordKey) {
			require(corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		errs = rule.If(len(s.Data[corev1.SSHAuthPrivateKey]) == 0, field.Required(path.Key(corev1.SSHAuthPrivateKey), ""))
	case corev1.SecretTypeTLS:
		require(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return errs
}

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := rule.Unchanged(field.NewPath("type"), s.Type, old.Type)
	if isTrue(old.Immutable) {
		errs = append(errs, rule.If(!isTrue(s.Immutable), field.Forbidden(field.NewPath("immutable"), immutableObject))...)
		errs = append(errs, rule.If(!reflect.DeepEqual(s.Data, old.Data), field.Forbidden(field.NewPath("data"), immutableObject))...)
	}
	return append(errs, validateSecret(s)...)
}

// secretWarnings warns of a certificate and key that do not belong together. The first error of the two
// never tells their content.
func secretWarnings(s *corev1.Secret) []string {
	if s.Type != corev1.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// secretFields are what field selectors of Secrets know besides name and namespace.
func secretFields(s *corev1.Secret) fields.Set { return fields.Set{"type": string(s.Type)} }

func isTrue(b *bool) bool { return b != nil && *b }
