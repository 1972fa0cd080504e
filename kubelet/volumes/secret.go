// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// secret shows the keys of a Secret as files, in memory only.
type secret struct{ m *Manager }

func (secret) name() string { return "kubernetes.io/secret" }

func (secret) supports(v *volume) bool { return v.source.Secret != nil }

func (s secret) setUp(ctx context.Context, v *volume) (mounted, error) {
	src := v.source.Secret
	files, err := s.m.secretFiles(ctx, v.pod.Namespace, src.SecretName, keys{src.Items, modeOr(src.DefaultMode), isTrue(src.Optional)})
	if err != nil {
		return mounted{}, err
	}
	return s.m.write(v, files, true)
}

func (m *Manager) secretFiles(ctx context.Context, namespace, name string, want keys) (map[string]file, error) {
	obj, err := m.cfg.Objects.Secret(ctx, namespace, name)
	if err != nil {
		if apierrors.IsNotFound(err) && want.optional {
			return nil, nil
		}
		return nil, err
	}
	return want.files("references non-existent secret key", obj.Data)
}
