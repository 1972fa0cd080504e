// SPDX-License-Identifier: Apache-2.0

// Package admission is the chain of checks and changes between authorization and storage.
//
// The list is what upstream has on by default, in upstream's order: one type per plugin, most
// of them here, some of k8s.io/apiserver. Plugins see the v1 types that the registry stores. They
// read the shared informers, which may not have synced yet when the first requests come: a plugin
// that must not miss anything waits for them.
//
// What nobody uses costs nothing: admission policies (CEL) are built when the first one exists.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/
package admission

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	admissionmetrics "k8s.io/apiserver/pkg/admission/metrics"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/compatibility"
	"k8s.io/component-base/featuregate"
)

// Deps is what plugins work with.
type Deps struct {
	Client     kubernetes.Interface
	Dynamic    dynamic.Interface // parameters of admission policies
	Informers  informers.SharedInformerFactory
	Authorizer authorizer.Authorizer
	RESTMapper meta.RESTMapper

	Features featuregate.FeatureGate
	Version  compatibility.EffectiveVersion
	// Done is closed when no request is in flight any more and none will come.
	Done <-chan struct{}

	// ExternalIPs lets Services have spec.externalIPs.
	ExternalIPs bool

	// Disabled are the names of plugins to leave out.
	Disabled []string

	ServiceResolver webhook.ServiceResolver                   // where webhooks' Services are; DNS if nil
	WebhookAuth     webhook.AuthenticationInfoResolverWrapper // may be nil
}

// plugin is a name, which clients see in messages, and how to make it.
type plugin struct {
	name string
	make func(*Deps) admission.Interface
}

// plugins is the chain.
func plugins() []plugin {
	return []plugin{
		{"NamespaceLifecycle", newNamespaceLifecycle},
		{"LimitRanger", newLimitRanger},
		{"ServiceAccount", newServiceAccount},
		{"NodeRestriction", newNodeRestriction},
		{"TaintNodesByCondition", newTaintNodesByCondition},
		{"PodSecurity", newPodSecurity},
		{"Priority", newPriority},
		{"DefaultTolerationSeconds", newDefaultTolerationSeconds},
		{"DefaultStorageClass", newDefaultStorageClass},
		{"StorageObjectInUseProtection", newStorageObjectInUseProtection},
		{"PersistentVolumeClaimResize", newClaimResize},
		{"RuntimeClass", newRuntimeClass},
		{"CertificateApproval", newCertificateApproval},
		{"CertificateSigning", newCertificateSigning},
		{"ClusterTrustBundleAttest", newClusterTrustBundleAttest},
		{"CertificateSubjectRestriction", newCertificateSubjectRestriction},
		{"DefaultIngressClass", newDefaultIngressClass},
		{"DenyServiceExternalIPs", newDenyServiceExternalIPs}, // in upstream off by default
		{"PodTopologyLabels", newPodTopologyLabels},
		{"NodeDeclaredFeatureValidator", newDeclaredFeatures},
		{"PodResizeValidator", newPodResize},
		{"RoleEscalation", newRoleEscalation}, // in upstream part of the storage
		// What users configure comes after all that is built in, and counting comes last.
		{"MutatingAdmissionPolicy", newMutatingPolicies},
		{"MutatingAdmissionWebhook", newMutatingWebhooks},
		{"ValidatingAdmissionPolicy", newValidatingPolicies},
		{"ValidatingAdmissionWebhook", newValidatingWebhooks},
		{"ResourceQuota", newResourceQuota},
	}
}

// New makes the chain. It must be called before the informers start.
func New(d Deps) (admission.Interface, error) {
	if d.Client == nil || d.Informers == nil || d.Authorizer == nil || d.Features == nil || d.Version == nil || d.Done == nil {
		return nil, errors.New("admission: client, informers, authorizer, features, version and done are needed")
	}
	registered := admission.NewPlugins()
	var names []string
	all := plugins()
	for _, name := range d.Disabled {
		if !slices.ContainsFunc(all, func(p plugin) bool { return p.name == name }) {
			return nil, fmt.Errorf("admission: there is no plugin %q to leave out", name)
		}
	}
	for _, p := range all {
		if slices.Contains(d.Disabled, p.name) {
			continue
		}
		names = append(names, p.name)
		registered.Register(p.name, func(io.Reader) (admission.Interface, error) {
			made := p.make(&d)
			if failed, ok := made.(failed); ok {
				return nil, failed.err
			}
			return made, nil
		})
	}
	return registered.NewFromPlugins(names, noConfig{}, d.initializers(), admission.DecoratorFunc(admissionmetrics.WithControllerMetrics))
}

// noConfig is the configuration file that no plugin has.
type noConfig struct{}

func (noConfig) ConfigFor(string) (io.Reader, error) { return nil, nil }

// initializers hand their dependencies to the plugins of k8s.io/apiserver.
func (d *Deps) initializers() admission.PluginInitializers {
	return admission.PluginInitializers{
		webhookinit.NewPluginInitializer(d.WebhookAuth, d.serviceResolver()),
		initializer.New(d.Client, d.Dynamic, d.Informers, d.Authorizer, d.Features, d.Version, d.Done, d.RESTMapper),
		excluded{},
	}
}

func (d *Deps) serviceResolver() webhook.ServiceResolver {
	if d.ServiceResolver != nil {
		return d.ServiceResolver
	}
	return webhook.NewDefaultServiceResolver()
}

// excluded keeps webhooks and policies from questions about identity and rights: whoever got such a
// rule wrong could not repair it any more.
type excluded struct{}

func (excluded) Initialize(p admission.Interface) {
	if p, ok := p.(initializer.WantsExcludedAdmissionResources); ok {
		p.SetExcludedAdmissionResources([]schema.GroupResource{
			{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"},
			{Group: "authentication.k8s.io", Resource: "tokenreviews"},
			{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"},
			{Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"},
			{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"},
			{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"},
		})
	}
}

// failed is a plugin that could not be made.
type failed struct {
	admission.Interface
	err error
}

func made(p admission.Interface, err error) admission.Interface {
	if err != nil {
		return failed{err: err}
	}
	return p
}

func newNamespaceLifecycle(*Deps) admission.Interface {
	return made(lifecycle.NewLifecycle(sets.New(metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic)))
}

func newMutatingWebhooks(*Deps) admission.Interface {
	return made(mutatingwebhook.NewMutatingWebhook(nil))
}

func newValidatingWebhooks(*Deps) admission.Interface {
	return made(validatingwebhook.NewValidatingAdmissionWebhook(nil))
}

var (
	pods                = corev1.Resource("pods")
	nodes               = corev1.Resource("nodes")
	services            = corev1.Resource("services")
	claims              = corev1.Resource("persistentvolumeclaims")
	certificateRequests = schema.GroupResource{Group: "certificates.k8s.io", Resource: "certificatesigningrequests"}

	podCertificateRequests = schema.GroupResource{Group: "certificates.k8s.io", Resource: "podcertificaterequests"}

	// fromCache reads what is rare from the API server's own cache instead of one more informer.
	fromCache = metav1.GetOptions{ResourceVersion: "0"}
)

func isFor(a admission.Attributes, resource schema.GroupResource, subresource string) bool {
	return a.GetResource().GroupResource() == resource && a.GetSubresource() == subresource
}

func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// forbid turns an error into Forbidden, except for one that already is an answer of the API.
func forbid(a admission.Attributes, err error) error {
	if err == nil {
		return nil
	}
	if _, isAnswer := err.(apierrors.APIStatus); isAnswer { //nolint:errorlint // one that is wrapped is a reason, not the answer
		return err
	}
	return admission.NewForbidden(a, err)
}

// synced lets a request wait until an informer knows what there is.
type synced struct{ done <-chan struct{} }

func waitFor(informer cache.SharedIndexInformer) synced {
	return synced{informer.HasSyncedChecker().Done()}
}

// syncTimeout is how long a request waits; a client tries again after the answer.
const syncTimeout = 10 * time.Second

func (s synced) wait(ctx context.Context, a admission.Attributes) error {
	select {
	case <-s.done:
		return nil
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return admission.NewForbidden(a, fmt.Errorf("not yet ready to handle request"))
	}
}
