// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

const tokenReviewTimeout = 10 * time.Second

// TTLs are how long answers of the API server are believed: of who somebody is, that something is allowed, and that it is not.
type TTLs struct{ Token, Allowed, Denied time.Duration }

var reviewBackoff = wait.Backoff{Duration: 500 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 5}

// Delegate returns the authenticator and the authorizer that ask the API server, as the kubelet does by
// default: TokenReview for bearer tokens, SubjectAccessReview for everything. Client certificates are checked
// against the CA right here. The kubelet's user needs the ClusterRole system:auth-delegator or to be a node.
func Delegate(client kubernetes.Interface, clientCA dynamiccertificates.CAContentProvider, ttls TTLs) (authenticator.Request, authorizer.UnconditionalAuthorizer, error) {
	authn, _, err := authenticatorfactory.DelegatingAuthenticatorConfig{
		Anonymous:                          &apiserver.AnonymousAuthConfig{Enabled: false},
		TokenAccessReviewClient:            client.AuthenticationV1(),
		TokenAccessReviewTimeout:           tokenReviewTimeout,
		WebhookRetryBackoff:                &reviewBackoff,
		CacheTTL:                           ttls.Token,
		ClientCertificateCAContentProvider: clientCA,
	}.New()
	if err != nil {
		return nil, nil, fmt.Errorf("make the kubelet's authenticator: %w", err)
	}
	authz, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: client.AuthorizationV1(),
		AllowCacheTTL:             ttls.Allowed,
		DenyCacheTTL:              ttls.Denied,
		WebhookRetryBackoff:       &reviewBackoff,
	}.New()
	if err != nil {
		return nil, nil, fmt.Errorf("make the kubelet's authorizer: %w", err)
	}
	return authn, authz, nil
}

// withAuth lets a request through if its user may access one of the subresources that its path stands for.
func (s *Server) withAuth(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		logger := klog.FromContext(r.Context())
		who, ok, err := s.config.Authenticator.AuthenticateRequest(r)
		if err != nil {
			logger.Info("Cannot authenticate a request to the kubelet", "path", r.URL.Path, "err", err)
		}
		if err != nil || !ok {
			writeError(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		attributes := requestAttributes(s.config.NodeName, who.User, r)
		for _, a := range attributes {
			decision, _, err := s.config.Authorizer.Authorize(r.Context(), a)
			if err != nil {
				logger.Error(err, "Cannot authorize a request to the kubelet", "user", a.User.GetName(), "path", a.Path)
				writeError(w, fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=%s, subresource=%s)",
					a.User.GetName(), a.Verb, a.Resource, a.Subresource), http.StatusInternalServerError)
				return
			}
			if decision == authorizer.DecisionAllow {
				next.ServeHTTP(w, r)
				return
			}
		}
		writeError(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=%s, subresource(s)=%v)\n",
			who.User.GetName(), attributes[0].Verb, attributes[0].Resource, subresources(r.URL.Path)), http.StatusForbidden)
	})
}

var verbs = map[string]string{"POST": "create", "GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}

func requestAttributes(node string, u user.Info, r *http.Request) []authorizer.AttributesRecord {
	var all []authorizer.AttributesRecord
	for _, subresource := range subresources(r.URL.Path) {
		all = append(all, authorizer.AttributesRecord{
			User: u, Verb: verbs[r.Method], APIVersion: "v1", Resource: "nodes", Subresource: subresource,
			Name: node, ResourceRequest: true, Path: r.URL.Path,
		})
	}
	return all
}

// pathSubresources says which subresources of a node a path needs access to, any one of them. All other
// paths, such as /exec, need `proxy`, which is as good as root on the node.
var pathSubresources = []struct {
	path         string
	subresources []string
}{
	{"/stats", []string{"stats"}},
	{"/metrics", []string{"metrics"}},
	{"/logs", []string{"log"}},
	{"/checkpoint", []string{"checkpoint"}},
	{"/statusz", []string{"statusz"}},
	{"/flagz", []string{"configz"}},
	{"/pods", []string{"pods", "proxy"}},
	{"/runningpods", []string{"pods", "proxy"}},
	{"/healthz", []string{"healthz", "proxy"}},
	{"/configz", []string{"configz", "proxy"}},
}

func subresources(path string) []string {
	for _, p := range pathSubresources {
		if path == p.path || strings.HasPrefix(path, p.path+"/") {
			return p.subresources
		}
	}
	return []string{"proxy"}
}
