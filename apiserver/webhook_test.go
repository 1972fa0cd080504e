// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/util/cert"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistration "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/inprocess"
	"github.com/skiff-k8s/skiff/datastore"
	"github.com/skiff-k8s/skiff/registry"
	"github.com/skiff-k8s/skiff/version"
)

// startFull serves with the admission chain; all Services are at address.
func startFull(t *testing.T, address string, proxy apiserver.CertFiles) *restclient.Config {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	store, err := datastore.Open(ctx, datastore.Config{Dir: t.TempDir(), TickMs: 5, UnsafeNoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	door := inprocess.NewDoor()
	config := door.ClientConfig(&user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}})
	client := kubernetes.NewForConfigOrDie(config)
	factory := informers.NewSharedInformerFactory(client, 0)
	authorizer := authorizerfactory.NewAlwaysAllowAuthorizer()
	requests := make(chan struct{})
	chain, err := admission.New(admission.Deps{
		Client: client, Dynamic: dynamic.NewForConfigOrDie(config), Informers: factory, Authorizer: authorizer,
		RESTMapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery())),
		Features:   utilfeature.DefaultFeatureGate, Version: version.Effective(), Done: requests,
		ServiceResolver: resolveTo(address), WebhookAuth: apiserver.WebhookAuth(config, nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	server, err := apiserver.New(ctx, apiserver.Config{
		Store: store, Resources: registry.All(registry.Deps{}), Door: door, Loopback: config, Informers: factory,
		Authenticator: inprocess.Authenticator(), Authorizer: authorizer, Admission: chain, ServiceResolver: resolveTo(address), WebhookAuth: apiserver.WebhookAuth(config, nil),
		ProxyClientCert: proxy, ExternalAddress: "127.0.0.1:6443", Version: version.Effective(),
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, door) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		close(requests)
		_ = store.Close()
	})
	eventually(t, "namespace default", func() error {
		_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	return config
}

// resolveTo finds every Service at the same address.
type resolveTo string

func (r resolveTo) ResolveEndpoint(string, string, int32) (*url.URL, error) {
	return &url.URL{Scheme: "https", Host: string(r)}, nil
}

// reviewer is a webhook. It paints every ConfigMap, refuses those that are named bad, and is slow about those
// that are named slow.
func reviewer(t *testing.T) (address string, ca []byte) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		response := &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		switch {
		case review.Request.Name == "slow":
			<-r.Context().Done()
			return
		case r.URL.Path == "/mutate":
			response.PatchType = ptr.To(admissionv1.PatchTypeJSONPatch)
			response.Patch = []byte(`[{"op":"add","path":"/metadata/labels","value":{"painted":"yes"}}]`)
		case review.Request.Name == "bad":
			response.Allowed = false
			response.Result = &metav1.Status{Message: "the name is bad", Code: http.StatusForbidden}
		}
		review.Response = response
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

func TestWebhooksChangeAndRefuse(t *testing.T) {
	ctx := t.Context()
	address, ca := reviewer(t)
	config := startFull(t, address, apiserver.CertFiles{})
	client := kubernetes.NewForConfigOrDie(config)
	rules := []admissionregistrationv1.RuleWithOperations{{
		Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
	}}
	at := func(path string) admissionregistrationv1.WebhookClientConfig {
		return admissionregistrationv1.WebhookClientConfig{URL: ptr.To("https://" + address + path), CABundle: ca}
	}
	none := ptr.To(admissionregistrationv1.SideEffectClassNone)
	_, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(ctx, &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "painter"},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "painter.example.com", ClientConfig: at("/mutate"), Rules: rules, SideEffects: none, AdmissionReviewVersions: []string{"v1"},
			FailurePolicy: ptr.To(admissionregistrationv1.Ignore), TimeoutSeconds: ptr.To[int32](1),
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "critic"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "critic.example.com", ClientConfig: at("/validate"), Rules: rules, SideEffects: none, AdmissionReviewVersions: []string{"v1"},
			FailurePolicy: ptr.To(admissionregistrationv1.Fail), TimeoutSeconds: ptr.To[int32](1),
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	create := func(name string) (*corev1.ConfigMap, error) {
		return client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	}
	n := 0
	eventually(t, "the webhooks are known", func() error {
		n++
		cm, err := create(fmt.Sprintf("probe%d", n))
		if err == nil && cm.Labels["painted"] != "yes" {
			err = fmt.Errorf("labels %v", cm.Labels)
		}
		return err
	})
	eventually(t, "the validating webhook refuses", func() error {
		_, err := create("bad")
		if err == nil {
			_ = client.CoreV1().ConfigMaps("default").Delete(ctx, "bad", metav1.DeleteOptions{})
			return fmt.Errorf("it was created")
		}
		const want = `admission webhook "critic.example.com" denied the request: the name is bad`
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want) {
			return fmt.Errorf("%w, want Forbidden: %s", err, want)
		}
		return nil
	})
	// The painter's time-out is ignored; the critic's is not.
	_, err = create("slow")
	if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), `failed calling webhook "critic.example.com"`) {
		t.Errorf("create slow = %v, want the critic's time-out", err)
	}
}

// An APIService's requests go to its server, under the name of who asked, with the proxy's certificate.
func TestAggregationProxiesAsTheUser(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	certPEM, keyPEM, err := cert.GenerateSelfSignedCertKey("front-proxy-client", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	proxy := apiserver.CertFiles{CertFile: filepath.Join(dir, "proxy.crt"), KeyFile: filepath.Join(dir, "proxy.key")}
	for path, content := range map[string][]byte{proxy.CertFile: certPEM, proxy.KeyFile: keyPEM} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	remote := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/apis/metrics.example.com/v1":
			fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"metrics.example.com/v1","resources":[{"name":"samples","namespaced":false,"kind":"Sample","verbs":["get"]}]}`)
		case "/openapi/v2":
			fmt.Fprint(w, remoteOpenAPIv2)
		case "/openapi/v3":
			fmt.Fprint(w, `{"paths":{"apis/metrics.example.com/v1":{"serverRelativeURL":"/openapi/v3/apis/metrics.example.com/v1?hash=1"},"apis/other":{"serverRelativeURL":"/other"}}}`)
		case "/openapi/v3/apis/metrics.example.com/v1":
			fmt.Fprintf(w, `{"openapi":"3.0.0","info":{"title":"remote","version":"1"},"paths":{"/apis/metrics.example.com/v1/samples":{"get":{"description":"for %s"}}}}`, r.Header.Get("X-Remote-User"))
		case "/apis/metrics.example.com/v1/reviews":
			var review admissionv1.AdmissionReview
			if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Result: &metav1.Status{
				Message: "asked by " + r.Header.Get("X-Remote-User"), Code: http.StatusForbidden,
			}}
			_ = json.NewEncoder(w).Encode(review)
		case "/apis/metrics.example.com/v1/samples/a":
			peer := ""
			if len(r.TLS.PeerCertificates) > 0 {
				peer = r.TLS.PeerCertificates[0].Subject.CommonName
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"user": r.Header.Get("X-Remote-User"), "proxied": strings.Contains(peer, "front-proxy-client")})
		default:
			http.NotFound(w, r)
		}
	}))
	remote.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, ClientCAs: x509.NewCertPool()}
	remote.StartTLS()
	t.Cleanup(remote.Close)
	config := startFull(t, remote.Listener.Addr().String(), proxy)
	client := kubernetes.NewForConfigOrDie(config)

	ports := []corev1.ServicePort{{Port: 443}}
	if _, err := client.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "samples"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeExternalName, ExternalName: "samples.example.com", Ports: ports,
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	services := apiregistration.NewForConfigOrDie(config).ApiregistrationV1().APIServices()
	if _, err := services.Create(ctx, &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: "v1.metrics.example.com"},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: "metrics.example.com", Version: "v1", GroupPriorityMinimum: 100, VersionPriority: 100, InsecureSkipTLSVerify: true,
			Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "samples"},
		},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var got struct {
		User    string
		Proxied bool
	}
	eventually(t, "an answer from the remote server", func() error {
		raw, err := client.RESTClient().Get().AbsPath("/apis/metrics.example.com/v1/samples/a").DoRaw(ctx)
		if err != nil {
			return err
		}
		return json.Unmarshal(raw, &got)
	})
	if got.User != "admin" || !got.Proxied {
		t.Errorf("the remote server saw user %q, proxy %v; want admin through the proxy", got.User, got.Proxied)
	}
	eventually(t, "the remote group in discovery", func() error {
		list, err := discovery.NewDiscoveryClientForConfigOrDie(config).ServerResourcesForGroupVersion("metrics.example.com/v1")
		if err == nil && (len(list.APIResources) != 1 || list.APIResources[0].Name != "samples") {
			err = fmt.Errorf("resources %v", list.APIResources)
		}
		return err
	})
	eventually(t, "the APIService available", func() error {
		service, err := services.Get(ctx, "v1.metrics.example.com", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range service.Status.Conditions {
			if c.Type == apiregistrationv1.Available && c.Status == apiregistrationv1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", service.Status.Conditions)
	})
	// The remote server's description is part of ours.
	ask := func(path string) (string, error) {
		raw, err := client.RESTClient().Get().RequestURI(path).SetHeader("Accept", "application/json").DoRaw(ctx)
		return string(raw), err
	}
	v2, err := ask("/openapi/v2")
	if err != nil {
		t.Fatal(err)
	}
	var document spec.Swagger
	if err := json.Unmarshal([]byte(v2), &document); err != nil {
		t.Fatalf("OpenAPI v2 is not well formed: %v", err)
	}
	if samples, ok := document.Paths.Paths["/apis/metrics.example.com/v1/samples"]; !ok || samples.Get.Parameters[0].Name != "p" || document.Paths.Paths["/version/"].Get == nil {
		t.Error("OpenAPI v2 lacks the remote server's paths, or those that are built in")
	}
	if _, ok := document.Paths.Paths["/apis/elsewhere.example.com/v1/others"]; ok {
		t.Error("OpenAPI v2 has a path that the APIService does not serve")
	}
	if _, ok := document.Definitions["com.example.Sample"]; !ok || document.Definitions["com.example.Other"].Type != nil {
		t.Error("OpenAPI v2 lacks the remote server's model, or has one that is not needed")
	}
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	raw, err := ask("/openapi/v3")
	if err == nil {
		err = json.Unmarshal([]byte(raw), &index)
	}
	if err != nil {
		t.Fatal(err)
	}
	v3, err := ask(index.Paths["apis/metrics.example.com/v1"].ServerRelativeURL)
	if err != nil || !strings.Contains(v3, "for system:aggregator") {
		t.Errorf("OpenAPI v3 of the remote group: %s, %v; want what it tells system:aggregator", v3, err)
	}
	if _, ok := index.Paths["apis/other"]; ok {
		t.Error("OpenAPI v3 has a group version that the APIService does not serve")
	}

	// A webhook that the API server is said to serve itself is reached without a socket or certificate.
	_, err = client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "own"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "own.example.com", SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
			ClientConfig: admissionregistrationv1.WebhookClientConfig{CABundle: certPEM, Service: &admissionregistrationv1.ServiceReference{
				Namespace: "default", Name: "kubernetes", Path: ptr.To("/apis/metrics.example.com/v1/reviews"),
			}},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
			}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "our own webhook refuses", func() error {
		_, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "c"}}, metav1.CreateOptions{})
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "asked by admin") {
			return fmt.Errorf("create = %w, want the webhook's word", err)
		}
		return nil
	})

	// What is built in is there all the same, and says so.
	list, err := services.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) < 20 {
		t.Errorf("APIServices: %d, %v; want one for each group version", len(list.Items), err)
	}
}

// remoteOpenAPIv2 describes one path of the APIService, with what it needs, and one that is none of its.
const remoteOpenAPIv2 = `{"swagger":"2.0","info":{"title":"remote","version":"1"},
"paths":{
 "/apis/metrics.example.com/v1/samples":{"get":{"parameters":[{"$ref":"#/parameters/p"}],"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/com.example.Sample"}}}}},
 "/apis/elsewhere.example.com/v1/others":{"get":{"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/com.example.Other"}}}}}},
"definitions":{"com.example.Sample":{"type":"object"},"com.example.Other":{"type":"object"}},
"parameters":{"p":{"name":"p","in":"query","type":"string"}}}`
