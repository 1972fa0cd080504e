// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ConfigMaps says what is particular to configmaps.
func ConfigMaps() rest.Resource[*corev1.ConfigMap] {
	return rest.Resource[*corev1.ConfigMap]{
		Kind:           corev1.SchemeGroupVersion.WithKind("ConfigMap"),
		Plural:         "configmaps",
		Singular:       "configmap",
		Columns:        configMapColumns(),
		ShortNames:     []string{"cm"},
		Namespaced:     true,
		Default:        defaultConfigMap,
		Validate:       validateConfigMap,
		ValidateUpdate: validateConfigMapUpdate,
	}
}
