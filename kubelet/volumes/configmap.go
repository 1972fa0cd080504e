// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// configMap shows the keys of a ConfigMap as files.
type configMap struct{ m *Manager }

func (configMap) name() string { return "kubernetes.io/configmap" }

func (configMap) supports(v *volume) bool { return v.source.ConfigMap != nil }

func (c configMap) setUp(ctx context.Context, v *volume) (mounted, error) {
	s := v.source.ConfigMap
	files, err := c.m.configMapFiles(ctx, v.pod.Namespace, s.Name, keys{s.Items, modeOr(s.DefaultMode), isTrue(s.Optional)})
	if err != nil {
		return mounted{}, err
	}
	return c.m.write(v, files, false)
}

// keys says which keys of an object become which files.
type keys struct {
	items    []corev1.KeyToPath // none means all
	mode     int32              // of items without one
	optional bool               // whether the object and its keys may be missing
}

func (m *Manager) configMapFiles(ctx context.Context, namespace, name string, want keys) (map[string]file, error) {
	cm, err := m.cfg.Objects.ConfigMap(ctx, namespace, name)
	if err != nil {
		if apierrors.IsNotFound(err) && want.optional {
			return nil, nil
		}
		return nil, err
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, s := range cm.Data {
		data[k] = []byte(s)
	}
	for k, b := range cm.BinaryData {
		data[k] = b
	}
	return want.files("configmap references non-existent config key", data)
}

// files applies k to data. missing begins the error about an absent key.
func (k keys) files(missing string, data map[string][]byte) (map[string]file, error) {
	files := map[string]file{}
	if len(k.items) == 0 {
		for name, content := range data {
			files[name] = file{data: content, mode: k.mode}
		}
		return files, nil
	}
	for _, item := range k.items {
		content, ok := data[item.Key]
		switch {
		case ok:
			files[item.Path] = file{data: content, mode: modeOr(item.Mode, k.mode)}
		case !k.optional:
			return nil, fmt.Errorf("%s: %s", missing, item.Key)
		}
	}
	return files, nil
}

// modeOr returns mode, or else the first of the defaults, or else the one that the API sets.
func modeOr(mode *int32, defaults ...int32) int32 {
	switch {
	case mode != nil:
		return *mode
	case len(defaults) > 0:
		return defaults[0]
	}
	return corev1.ConfigMapVolumeSourceDefaultMode
}

func isTrue(b *bool) bool { return b != nil && *b }
