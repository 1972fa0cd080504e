// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/skiff-k8s/skiff/internal/podcontainers"
)

// projected puts several sources into one directory.
type projected struct{ m *Manager }

func (projected) name() string { return "kubernetes.io/projected" }

func (projected) supports(v *volume) bool { return v.source.Projected != nil }

func (p projected) setUp(ctx context.Context, v *volume) (mounted, error) {
	files := map[string]file{}
	var errs []error
	for i := range v.source.Projected.Sources {
		more, err := p.files(ctx, v, i)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		maps.Copy(files, more)
	}
	if len(errs) > 0 {
		return mounted{}, utilerrors.NewAggregate(errs)
	}
	return p.m.write(v, files, true)
}

// files returns those of one source.
func (p projected) files(ctx context.Context, v *volume, index int) (map[string]file, error) {
	s := &v.source.Projected.Sources[index]
	mode := modeOr(v.source.Projected.DefaultMode)
	switch {
	case s.ConfigMap != nil:
		return p.m.configMapFiles(ctx, v.pod.Namespace, s.ConfigMap.Name, keys{s.ConfigMap.Items, mode, isTrue(s.ConfigMap.Optional)})
	case s.Secret != nil:
		return p.m.secretFiles(ctx, v.pod.Namespace, s.Secret.Name, keys{s.Secret.Items, mode, isTrue(s.Secret.Optional)})
	case s.DownwardAPI != nil:
		return p.m.downwardFiles(v.pod, s.DownwardAPI.Items, mode)
	case s.ServiceAccountToken != nil:
		token, err := p.m.tokens.get(ctx, v.pod, s.ServiceAccountToken)
		return map[string]file{s.ServiceAccountToken.Path: private(v, token, mode)}, err
	case s.ClusterTrustBundle != nil:
		anchors, err := p.m.bundles.get(ctx, v.pod.UID, s.ClusterTrustBundle)
		return map[string]file{s.ClusterTrustBundle.Path: private(v, anchors, mode)}, err
	case s.PodCertificate != nil:
		has, err := p.m.certificates.get(ctx, v.pod, certificateKey{v.pod.UID, v.source.Name, index}, s.PodCertificate)
		if err != nil {
			return nil, err
		}
		return certificateFiles(v, s.PodCertificate, has, mode), nil
	}
	return nil, nil
}

// certificateFiles are those that the source names: the key and its certificates in one file, or each in its own.
func certificateFiles(v *volume, s *corev1.PodCertificateProjection, has *issued, mode int32) map[string]file {
	files := map[string]file{}
	for path, data := range map[string][]byte{
		s.CredentialBundlePath: slices.Concat(has.key, has.chain), s.KeyPath: has.key, s.CertificateChainPath: has.chain,
	} {
		if path != "" {
			files[path] = private(v, data, mode)
		}
	}
	return files
}

// private returns a file that only the pod's user can read, if there is one user, or its fsGroup.
func private(v *volume, data []byte, mode int32) file {
	uid := singleUser(v.pod)
	if uid != nil || v.fsGroup() != nil {
		mode = 0o600
	}
	return file{data: data, mode: mode, uid: uid}
}

// singleUser is the user that all containers of pod run as, or nil.
func singleUser(pod *corev1.Pod) *int64 {
	var uid *int64
	for c := range podcontainers.All(pod) {
		as := runAsUser(pod, c)
		if as == nil || uid != nil && *uid != *as {
			return nil
		}
		uid = as
	}
	return uid
}

func runAsUser(pod *corev1.Pod, c *corev1.Container) *int64 {
	if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
		return c.SecurityContext.RunAsUser
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.RunAsUser
	}
	return nil
}
