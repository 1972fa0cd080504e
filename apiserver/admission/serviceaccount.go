// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/authz/node"
)

const (
	defaultServiceAccount   = "default"
	tokenVolumePrefix       = "kube-api-access-"
	tokenMountPath          = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenSeconds            = 60*60 + 7 // the number that says: nobody asked for an end, see TokenRequest
	enforceMountableSecrets = "kubernetes.io/enforce-mountable-secrets"
)

// serviceAccount gives each pod a service account, its token, and its pull secrets.
type serviceAccount struct {
	*admission.Handler
	client   kubernetes.Interface
	accounts corelisters.ServiceAccountLister
}

var _ interface {
	admission.MutationInterface
	admission.ValidationInterface
} = (*serviceAccount)(nil)

func newServiceAccount(d *Deps) admission.Interface {
	return &serviceAccount{
		Handler:  admission.NewHandler(admission.Create, admission.Update),
		client:   d.Client,
		accounts: d.Informers.Core().V1().ServiceAccounts().Lister(),
	}
}

func (s *serviceAccount) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok || !isFor(a, pods, "") || a.GetOperation() != admission.Create {
		return nil
	}
	if isMirror(pod) { // the kubelet wants it back as it is
		return s.Validate(ctx, a, o)
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultServiceAccount
		pod.Spec.DeprecatedServiceAccount = defaultServiceAccount //nolint:staticcheck // old clients read it
	}
	sa, err := s.lookup(ctx, a, pod)
	if err != nil {
		return err
	}
	if wantsToken(sa, pod) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(sa.ImagePullSecrets)
	}
	return s.Validate(ctx, a, o)
}

func (s *serviceAccount) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return nil
	}
	ephemeral := a.GetOperation() == admission.Update && isFor(a, pods, "ephemeralcontainers")
	if !ephemeral && (a.GetOperation() != admission.Create || !isFor(a, pods, "")) {
		return nil
	}
	if isMirror(pod) && !ephemeral {
		return forbid(a, mirrorRefers(pod))
	}
	if pod.Spec.ServiceAccountName == "" {
		return forbid(a, fmt.Errorf("no service account specified for pod %s/%s", a.GetNamespace(), pod.Name))
	}
	sa, err := s.lookup(ctx, a, pod)
	if err != nil {
		return err
	}
	if enforce, _ := strconv.ParseBool(sa.Annotations[enforceMountableSecrets]); !enforce {
		return nil
	}
	if ephemeral {
		return forbid(a, checkEphemeralSecrets(sa, pod))
	}
	return forbid(a, checkSecrets(sa, pod))
}

// mirrorRefers finds what a mirror pod may not have: its node could make it up to get at it.
func mirrorRefers(pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return fmt.Errorf("a mirror pod may not reference service accounts")
	}
	if len(node.SecretNames(pod)) > 0 {
		return fmt.Errorf("a mirror pod may not reference secrets")
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(p corev1.VolumeProjection) bool { return p.ServiceAccountToken != nil }) {
			return fmt.Errorf("a mirror pod may not use ServiceAccountToken volume projections")
		}
	}
	return nil
}

// lookup finds the pod's service account. That of a new namespace is just being made, so it is worth
// waiting a second for the default one.
func (s *serviceAccount) lookup(ctx context.Context, a admission.Attributes, pod *corev1.Pod) (*corev1.ServiceAccount, error) {
	namespace, name := a.GetNamespace(), pod.Spec.ServiceAccountName
	if sa, err := s.accounts.ServiceAccounts(namespace).Get(name); err == nil {
		return sa, nil
	}
	tries := wait.Backoff{Steps: 1}
	if name == defaultServiceAccount {
		tries = wait.Backoff{Steps: 8, Duration: 10 * time.Millisecond, Factor: 2, Jitter: 0.5, Cap: 500 * time.Millisecond}
	}
	var sa *corev1.ServiceAccount
	err := wait.ExponentialBackoffWithContext(ctx, tries, func(ctx context.Context) (bool, error) {
		var err error
		sa, err = s.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
	if wait.Interrupted(err) {
		err = apierrors.NewNotFound(corev1.Resource("serviceaccount"), name)
	}
	if err != nil {
		return nil, forbid(a, fmt.Errorf("error looking up service account %s/%s: %w", namespace, name, err))
	}
	return sa, nil
}

func wantsToken(sa *corev1.ServiceAccount, pod *corev1.Pod) bool {
	if pod.Spec.AutomountServiceAccountToken != nil {
		return *pod.Spec.AutomountServiceAccountToken
	}
	return ptr.Deref(sa.AutomountServiceAccountToken, true)
}

// mountToken mounts the token where client libraries look for it, in each container that has nothing there.
func mountToken(pod *corev1.Pod) {
	volume, exists := "", false
	for _, v := range pod.Spec.Volumes {
		if strings.HasPrefix(v.Name, tokenVolumePrefix) {
			volume, exists = v.Name, true
			break
		}
	}
	if !exists {
		volume = names.SimpleNameGenerator.GenerateName(tokenVolumePrefix)
	}
	mounted := false
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			c := &containers[i]
			if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenMountPath }) {
				continue
			}
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: volume, ReadOnly: true, MountPath: tokenMountPath})
			mounted = true
		}
	}
	if mounted && !exists {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{Projected: tokenSource()}})
	}
}

// tokenSource is a token, what it takes to trust the API server, and the namespace.
func tokenSource() *corev1.ProjectedVolumeSource {
	return &corev1.ProjectedVolumeSource{
		DefaultMode: ptr.To(corev1.ProjectedVolumeSourceDefaultMode),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](tokenSeconds)}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}
}

func mountable(sa *corev1.ServiceAccount, name string) bool {
	return slices.ContainsFunc(sa.Secrets, func(ref corev1.ObjectReference) bool { return ref.Name == name })
}

// checkSecrets makes sure that the pod uses only Secrets that its service account lists.
func checkSecrets(sa *corev1.ServiceAccount, pod *corev1.Pod) error {
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil && !mountable(sa, v.Secret.SecretName) {
			return fmt.Errorf("volume with secret.secretName=%q is not allowed because service account %s does not reference that secret", v.Secret.SecretName, sa.Name)
		}
	}
	for _, c := range pod.Spec.InitContainers {
		if err := checkEnvSecrets(sa, "init container", c.Name, c.Env, c.EnvFrom); err != nil {
			return err
		}
	}
	for _, c := range pod.Spec.Containers {
		if err := checkEnvSecrets(sa, "container", c.Name, c.Env, c.EnvFrom); err != nil {
			return err
		}
	}
	for i, ref := range pod.Spec.ImagePullSecrets {
		if !slices.Contains(sa.ImagePullSecrets, ref) {
			return fmt.Errorf("imagePullSecrets[%d].name=%q is not allowed because service account %s does not reference that imagePullSecret", i, ref.Name, sa.Name)
		}
	}
	return nil
}

func checkEphemeralSecrets(sa *corev1.ServiceAccount, pod *corev1.Pod) error {
	for _, c := range pod.Spec.EphemeralContainers {
		if err := checkEnvSecrets(sa, "ephemeral container", c.Name, c.Env, c.EnvFrom); err != nil {
			return err
		}
	}
	return nil
}

func checkEnvSecrets(sa *corev1.ServiceAccount, kind, container string, env []corev1.EnvVar, from []corev1.EnvFromSource) error {
	for _, e := range env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && !mountable(sa, e.ValueFrom.SecretKeyRef.Name) {
			return fmt.Errorf("%s %s with envVar %s referencing secret.secretName=%q is not allowed because service account %s does not reference that secret",
				kind, container, e.Name, e.ValueFrom.SecretKeyRef.Name, sa.Name)
		}
	}
	for _, e := range from {
		if e.SecretRef != nil && !mountable(sa, e.SecretRef.Name) {
			return fmt.Errorf("%s %s with envFrom referencing secret.secretName=%q is not allowed because service account %s does not reference that secret",
				kind, container, e.SecretRef.Name, sa.Name)
		}
	}
	return nil
}
