// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/skiff-k8s/skiff/kubelet/env"
)

// downwardAPI shows fields of the pod and resources of its containers as files.
type downwardAPI struct{ m *Manager }

func (downwardAPI) name() string { return "kubernetes.io/downward-api" }

func (downwardAPI) supports(v *volume) bool { return v.source.DownwardAPI != nil }

func (d downwardAPI) setUp(_ context.Context, v *volume) (mounted, error) {
	files, err := d.m.downwardFiles(v.pod, v.source.DownwardAPI.Items, modeOr(v.source.DownwardAPI.DefaultMode))
	if err != nil {
		return mounted{}, err
	}
	return d.m.write(v, files, true)
}

func (m *Manager) downwardFiles(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode int32) (map[string]file, error) {
	files := map[string]file{}
	var errs []error
	for i := range items {
		item := &items[i]
		text, err := m.downwardItem(pod, item)
		if err != nil {
			errs = append(errs, err)
		}
		files[filepath.Clean(item.Path)] = file{data: []byte(text), mode: modeOr(item.Mode, mode)}
	}
	return files, utilerrors.NewAggregate(errs)
}

func (m *Manager) downwardItem(pod *corev1.Pod, item *corev1.DownwardAPIVolumeFile) (string, error) {
	switch {
	case item.FieldRef != nil:
		return env.Field(pod, item.FieldRef.FieldPath)
	case item.ResourceFieldRef != nil:
		node, err := m.cfg.Node()
		if err != nil {
			return "", err
		}
		return env.Resource(pod, nil, item.ResourceFieldRef, node.Status.Allocatable)
	}
	return "", nil
}
