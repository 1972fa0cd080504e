// SPDX-License-Identifier: Apache-2.0

package images

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"path"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	config "k8s.io/kubelet/config/v1beta1"
)

// dockerEntry is one registry in a docker config file.
type dockerEntry struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// credential is one that fits an image, and whose it is: of a pull secret, of a service account, or else of the node.
type credential struct {
	registry string
	auth     *runtimeapi.AuthConfig
	secret   *v1.Secret
	account  *v1.ServiceAccount
}

func (c *credential) secretRecord() *config.ImagePullSecret {
	if c == nil || c.secret == nil {
		return nil
	}
	said := strings.Join([]string{c.auth.Username, c.auth.Password, c.auth.IdentityToken, c.auth.RegistryToken, c.registry}, "\x00")
	return &config.ImagePullSecret{UID: string(c.secret.UID), Namespace: c.secret.Namespace, Name: c.secret.Name, CredentialHash: hashed(said)}
}

func (c *credential) accountRecord() *config.ImagePullServiceAccount {
	if c == nil || c.account == nil {
		return nil
	}
	return &config.ImagePullServiceAccount{UID: string(c.account.UID), Namespace: c.account.Namespace, Name: c.account.Name}
}

// credentials returns what the pod's pull secrets, the node's credential providers and the node's own file have for an
// image, the most specific first; missing are secrets that could not be read.
func (p *Puller) credentials(ctx context.Context, pod *v1.Pod, image string) (found []credential, missing []string) {
	for _, ref := range pod.Spec.ImagePullSecrets {
		if ref.Name == "" {
			continue
		}
		secret, err := p.secrets.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			klog.FromContext(ctx).V(2).Info("Pull secret is missing; the image may still be public", "secret", klog.KRef(pod.Namespace, ref.Name), "err", err)
			missing = append(missing, ref.Name)
			continue
		}
		for registry, entry := range entries(secret) {
			if matchesImage(registry, image) {
				found = append(found, credential{registry: registry, auth: entry.auth(), secret: secret})
			}
		}
	}
	found = append(found, p.cfg.Providers.credentials(ctx, pod, image)...)
	for registry, entry := range p.cfg.Registries {
		if matchesImage(registry, image) {
			found = append(found, credential{registry: registry, auth: dockerEntry(entry).auth()})
		}
	}
	slices.SortStableFunc(found, func(a, b credential) int { return cmp.Compare(b.registry, a.registry) })
	return found, missing
}

func entries(secret *v1.Secret) map[string]dockerEntry {
	switch secret.Type {
	case v1.SecretTypeDockerConfigJson:
		var config struct {
			Auths map[string]dockerEntry `json:"auths"`
		}
		if json.Unmarshal(secret.Data[v1.DockerConfigJsonKey], &config) == nil {
			return config.Auths
		}
	case v1.SecretTypeDockercfg:
		var config map[string]dockerEntry
		if json.Unmarshal(secret.Data[v1.DockerConfigKey], &config) == nil {
			return config
		}
	}
	return nil
}

// auth says no server's address: containerd would compare it with the host that asks, which a mirror is not, nor docker.io's registry.
func (e dockerEntry) auth() *runtimeapi.AuthConfig {
	user, password := e.Username, e.Password
	if decoded, err := base64.StdEncoding.DecodeString(e.Auth); e.Auth != "" && err == nil {
		user, password, _ = strings.Cut(string(decoded), ":")
	}
	return &runtimeapi.AuthConfig{
		Username: user, Password: password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken,
	}
}

// matchesImage says whether a registry entry, which may hold globs and a path, covers an image.
func matchesImage(registry, image string) bool {
	host, folder := splitRegistry(registry)
	imageHost, imagePath := splitImage(image)
	want, got := strings.Split(host, "."), strings.Split(imageHost, ".")
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], got[i]); err != nil || !ok {
			return false
		}
	}
	return strings.HasPrefix(imagePath, folder)
}

func splitRegistry(registry string) (host, folder string) {
	if !strings.Contains(registry, "://") {
		registry = "https://" + registry
	}
	u, err := url.Parse(registry)
	if err != nil {
		return "", ""
	}
	host, folder = u.Host, u.Path
	for _, version := range []string{"/v1", "/v2"} { // old config files name an API version
		if folder == version || strings.HasPrefix(folder, version+"/") {
			folder = strings.TrimPrefix(folder, version)
		}
	}
	return dockerHub(host), strings.TrimSuffix(folder, "/")
}

func splitImage(image string) (host, folder string) {
	first, rest, more := strings.Cut(image, "/")
	if !more || !strings.ContainsAny(first, ".:") && first != "localhost" {
		return "docker.io", "/" + image
	}
	return dockerHub(first), "/" + rest
}

func dockerHub(host string) string {
	if host == "index.docker.io" {
		return "docker.io"
	}
	return host
}
