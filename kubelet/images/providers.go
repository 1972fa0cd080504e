// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	config "k8s.io/kubelet/config/v1"
	api "k8s.io/kubelet/pkg/apis/credentialprovider/v1"
	"sigs.k8s.io/yaml"
)

// providerTimeout is how long a credential provider may take.
const providerTimeout = time.Minute

// Providers are programs that know credentials of registries (kubelet.config.k8s.io/v1 CredentialProviderConfig).
type Providers []*provider

type provider struct {
	config.CredentialProvider
	dir    string
	client kubernetes.Interface // for tokens of pods' service accounts

	mu     sync.Mutex // guards cached, and is held while the program runs: one question at a time
	cached map[string]answered
}

// answered is what a program said, for as long as it said it is good.
type answered struct {
	auth    map[string]api.AuthConfig
	expires time.Time
}

// LoadProviders reads a CredentialProviderConfig, whose programs lie in dir.
func LoadProviders(path, dir string, client kubernetes.Interface) (Providers, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read credential providers: %w", err)
	}
	var file config.CredentialProviderConfig
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return nil, fmt.Errorf("read credential providers in %s: %w", path, err)
	}
	if file.Kind != "CredentialProviderConfig" || file.APIVersion != config.SchemeGroupVersion.String() {
		return nil, fmt.Errorf("read credential providers in %s: it must be a CredentialProviderConfig of %s", path, config.SchemeGroupVersion)
	}
	var all Providers
	for _, p := range file.Providers {
		program := filepath.Join(dir, p.Name)
		switch {
		case p.Name == "" || p.Name != filepath.Base(p.Name):
			return nil, fmt.Errorf("read credential providers in %s: %q is not the name of a program in %s", path, p.Name, dir)
		case p.APIVersion != api.SchemeGroupVersion.String():
			return nil, fmt.Errorf("read credential providers in %s: %s: apiVersion %q is not %s", path, p.Name, p.APIVersion, api.SchemeGroupVersion)
		case len(p.MatchImages) == 0:
			return nil, fmt.Errorf("read credential providers in %s: %s: at least one item in matchImages is required", path, p.Name)
		case p.DefaultCacheDuration == nil:
			return nil, fmt.Errorf("read credential providers in %s: %s: defaultCacheDuration is required", path, p.Name)
		}
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("credential provider %s: %w", p.Name, err)
		}
		all = append(all, &provider{CredentialProvider: p, dir: dir, client: client, cached: map[string]answered{}})
	}
	return all, nil
}

// credentials asks the programs that know an image's registry. One that fails is left out: another credential may do.
func (all Providers) credentials(ctx context.Context, pod *v1.Pod, image string) (found []credential) {
	for _, p := range all {
		if !slices.ContainsFunc(p.MatchImages, func(m string) bool { return matchesImage(m, image) }) {
			continue
		}
		auth, account, err := p.ask(ctx, pod, image)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Asking a credential provider", "provider", p.Name, "image", image, "pod", klog.KObj(pod))
			continue
		}
		for registry, a := range auth {
			if matchesImage(registry, image) {
				entry := dockerEntry{Username: a.Username, Password: a.Password}
				found = append(found, credential{registry: registry, auth: entry.auth(), account: account})
			}
		}
	}
	return found
}

// ask returns what the program says, or said a while ago; and the service account that it said it for, if for one.
func (p *provider) ask(ctx context.Context, pod *v1.Pod, image string) (map[string]api.AuthConfig, *v1.ServiceAccount, error) {
	request := api.CredentialProviderRequest{TypeMeta: metav1.TypeMeta{APIVersion: p.APIVersion, Kind: "CredentialProviderRequest"}, Image: image}
	account, err := p.identify(ctx, pod, &request)
	if err != nil {
		return nil, nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	scope := ""
	if account != nil {
		scope = account.Namespace + "/" + account.Name + "/" + string(account.UID) + " "
	}
	host, _ := splitImage(image)
	for key, a := range p.cached {
		if time.Now().After(a.expires) {
			delete(p.cached, key)
		}
	}
	for _, key := range []string{scope + image, scope + host, scope} {
		if a, ok := p.cached[key]; ok {
			return a.auth, account, nil
		}
	}
	response, err := p.run(ctx, &request)
	if err != nil {
		return nil, nil, err
	}
	key := scope
	switch response.CacheKeyType {
	case api.ImagePluginCacheKeyType:
		key += image
	case api.RegistryPluginCacheKeyType:
		key += host
	case api.GlobalPluginCacheKeyType:
	default:
		return nil, nil, fmt.Errorf("credential provider %s: invalid cacheKeyType %q", p.Name, response.CacheKeyType)
	}
	good := p.DefaultCacheDuration.Duration
	if response.CacheDuration != nil {
		good = response.CacheDuration.Duration
	}
	if good > 0 {
		p.cached[key] = answered{response.Auth, time.Now().Add(good)}
	}
	return response.Auth, account, nil
}

// identify adds the token of the pod's service account, for a program that wants one.
func (p *provider) identify(ctx context.Context, pod *v1.Pod, request *api.CredentialProviderRequest) (*v1.ServiceAccount, error) {
	want := p.TokenAttributes
	if want == nil || want.ServiceAccountTokenAudience == "" {
		return nil, nil
	}
	if pod.Spec.ServiceAccountName == "" {
		if want.RequireServiceAccount != nil && *want.RequireServiceAccount {
			return nil, fmt.Errorf("credential provider %s: the pod has no service account", p.Name)
		}
		return nil, nil
	}
	accounts := p.client.CoreV1().ServiceAccounts(pod.Namespace)
	account, err := accounts.Get(ctx, pod.Spec.ServiceAccountName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get ServiceAccount: %w", err)
	}
	request.ServiceAccountAnnotations = map[string]string{}
	for _, key := range want.RequiredServiceAccountAnnotationKeys {
		value, ok := account.Annotations[key]
		if !ok {
			return nil, fmt.Errorf("required annotation %s not found", key)
		}
		request.ServiceAccountAnnotations[key] = value
	}
	for _, key := range want.OptionalServiceAccountAnnotationKeys {
		if value, ok := account.Annotations[key]; ok {
			request.ServiceAccountAnnotations[key] = value
		}
	}
	token, err := accounts.CreateToken(ctx, account.Name, &authenticationv1.TokenRequest{
		ObjectMeta: metav1.ObjectMeta{UID: account.UID},
		Spec: authenticationv1.TokenRequestSpec{
			Audiences:      []string{want.ServiceAccountTokenAudience},
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("request token of service account %s: %w", account.Name, err)
	}
	request.ServiceAccountToken = token.Status.Token
	return account, nil
}

func (p *provider) run(ctx context.Context, request *api.CredentialProviderRequest) (*api.CredentialProviderResponse, error) {
	question, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, providerTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.dir, p.Name), p.Args...)
	cmd.Env = os.Environ()
	for _, e := range p.Env {
		cmd.Env = append(cmd.Env, e.Name+"="+e.Value)
	}
	var said bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(question), &said
	answer, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run credential provider %s: %w: %s", p.Name, err, strings.TrimSpace(said.String()))
	}
	response := &api.CredentialProviderResponse{}
	if err := json.Unmarshal(answer, response); err != nil {
		return nil, fmt.Errorf("read answer of credential provider %s: %w", p.Name, err)
	}
	if response.Kind != "CredentialProviderResponse" || response.APIVersion != p.APIVersion {
		return nil, fmt.Errorf("credential provider %s answered with %s of %q", p.Name, response.Kind, response.APIVersion)
	}
	return response, nil
}
