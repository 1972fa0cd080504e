// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdinformers "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions/apiextensions/v1"
	crdlisters "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistrationhelper "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	apiregistrationv1beta1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1beta1"
	"k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	apiregistrationclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	apiregistrationinformers "k8s.io/kube-aggregator/pkg/client/informers/externalversions/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/controllers/autoregister"
	aggregatoropenapi "k8s.io/kube-aggregator/pkg/generated/openapi"
)

// priority is a group version's place in discovery: higher ones come first, groups before versions.
type priority struct{ group, version int32 }

// priorities are upstream's, for the group versions that are built in.
var priorities = map[schema.GroupVersion]priority{
	{Group: "", Version: "v1"}:                             {18000, 1},
	{Group: "apps", Version: "v1"}:                         {17800, 15},
	{Group: "events.k8s.io", Version: "v1"}:                {17750, 15},
	{Group: "authentication.k8s.io", Version: "v1"}:        {17700, 15},
	{Group: "authorization.k8s.io", Version: "v1"}:         {17600, 15},
	{Group: "autoscaling", Version: "v1"}:                  {17500, 15},
	{Group: "autoscaling", Version: "v2"}:                  {17500, 30},
	{Group: "batch", Version: "v1"}:                        {17400, 15},
	{Group: "certificates.k8s.io", Version: "v1"}:          {17300, 15},
	{Group: "networking.k8s.io", Version: "v1"}:            {17200, 15},
	{Group: "policy", Version: "v1"}:                       {17100, 15},
	{Group: "rbac.authorization.k8s.io", Version: "v1"}:    {17000, 15},
	{Group: "storage.k8s.io", Version: "v1"}:               {16800, 15},
	{Group: "apiextensions.k8s.io", Version: "v1"}:         {16700, 15},
	{Group: "admissionregistration.k8s.io", Version: "v1"}: {16700, 15},
	{Group: "scheduling.k8s.io", Version: "v1"}:            {16600, 15},
	{Group: "coordination.k8s.io", Version: "v1"}:          {16500, 15},
	{Group: "node.k8s.io", Version: "v1"}:                  {16300, 15},
	{Group: "discovery.k8s.io", Version: "v1"}:             {16200, 15},
	{Group: "resource.k8s.io", Version: "v1"}:              {16200, 21},
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}: {16100, 21},
	{Group: "storagemigration.k8s.io", Version: "v1"}:      {15800, 15},
	// Less than any that metrics-server brings along.
	{Group: "metrics.k8s.io", Version: "v1"}:      {100, 100},
	{Group: "metrics.k8s.io", Version: "v1beta1"}: {100, 50},
}

// customPriority is that of group versions which CustomResourceDefinitions define.
var customPriority = priority{1000, 100}

// newAggregator builds the front: it serves APIServices, sends requests for remote ones there, and hands
// all others to local.
//
// Of kube-aggregator's OpenAPI machinery nothing runs (it downloads and merges documents whether anybody
// reads them or not); package openapi merges on request.
func newAggregator(base genericapiserver.Config, cfg Config, local *genericapiserver.GenericAPIServer,
	definitions crdinformers.CustomResourceDefinitionInformer,
) (*apiserver.APIAggregator, error) {
	base.RESTOptionsGetter = storedAs{&cfg, aggregatorscheme.Codecs.LegacyCodec(apiregistrationv1.SchemeGroupVersion, apiregistrationv1beta1.SchemeGroupVersion)}
	base.MergedResourceConfig = apiserver.DefaultAPIResourceConfigSource()
	base.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(aggregatoropenapi.GetOpenAPIDefinitions,
		openapinamer.NewDefinitionNamer(aggregatorscheme.Scheme))
	c := apiserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: base, SharedInformerFactory: cfg.Informers},
		ExtraConfig: apiserver.ExtraConfig{
			ProxyClientCertFile:       cfg.ProxyClientCert.CertFile,
			ProxyClientKeyFile:        cfg.ProxyClientCert.KeyFile,
			ServiceResolver:           cfg.ServiceResolver,
			RejectForwardingRedirects: true,
		},
	}
	if cfg.DialPod != nil {
		c.ExtraConfig.ProxyTransport = &http.Transport{DialContext: cfg.DialPod}
	}
	aggregator, err := c.Complete().NewWithDelegate(local)
	if err != nil {
		return nil, fmt.Errorf("build the API aggregator: %w", err)
	}
	if err := registerLocal(aggregator, cfg, local, definitions); err != nil {
		return nil, err
	}
	return aggregator, nil
}

// registerLocal keeps an APIService for every group version that this process serves.
func registerLocal(aggregator *apiserver.APIAggregator, cfg Config, local *genericapiserver.GenericAPIServer,
	definitions crdinformers.CustomResourceDefinitionInformer,
) error {
	client, err := apiregistrationclient.NewForConfig(cfg.Loopback)
	if err != nil {
		return fmt.Errorf("make the client for APIServices: %w", err)
	}
	informer := aggregator.APIRegistrationInformers.Apiregistration().V1().APIServices()
	controller := autoregister.NewAutoRegisterController(informer, client)
	var builtIn []string
	for _, gv := range servedVersions(local.ListedPaths()) {
		p, ok := priorities[gv]
		if !ok {
			return fmt.Errorf("register %s: it has no place in discovery", gv)
		}
		service := apiService(gv, p)
		controller.AddAPIServiceToSyncOnStart(service)
		builtIn = append(builtIn, service.Name)
		local.AggregatedDiscoveryGroupManager.SetGroupVersionPriority(metav1.GroupVersion(gv), int(p.group), int(p.version))
	}
	custom := &customVersions{crds: definitions.Lister(), registration: controller}
	handled, err := definitions.Informer().AddEventHandler(custom)
	if err != nil {
		return fmt.Errorf("watch CustomResourceDefinitions: %w", err)
	}
	check, err := newRegistered(builtIn, informer)
	if err != nil {
		return err
	}
	front := aggregator.GenericAPIServer
	if err := front.AddBootSequenceHealthChecks(healthz.NamedCheck("autoregister-completion", check.check)); err != nil {
		return fmt.Errorf("watch the registration of APIs: %w", err)
	}
	if err := front.AddPostStartHook("kube-apiserver-autoregistration", func(hook genericapiserver.PostStartHookContext) error {
		go func() {
			// Those that no definition asks for are deleted, so all definitions must be known before.
			if cache.WaitFor(hook.Context, "", handled.HasSyncedChecker()) {
				controller.Run(2, hook.Done())
			}
		}()
		return nil
	}); err != nil {
		return fmt.Errorf("start the registration of APIs: %w", err)
	}
	return nil
}

// servedVersions are the group versions among the paths of a server.
func servedVersions(paths []string) []schema.GroupVersion {
	var out []schema.GroupVersion
	for _, path := range paths {
		if path == "/api/v1" {
			out = append(out, schema.GroupVersion{Version: "v1"})
			continue
		}
		if parts := strings.Split(path, "/"); len(parts) == 4 && parts[1] == "apis" {
			out = append(out, schema.GroupVersion{Group: parts[2], Version: parts[3]})
		}
	}
	return out
}

func apiService(gv schema.GroupVersion, p priority) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: apiServiceName(gv)},
		Spec:       apiregistrationv1.APIServiceSpec{Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: p.group, VersionPriority: p.version},
	}
}

func apiServiceName(gv schema.GroupVersion) string { return gv.Version + "." + gv.Group }

// customVersions registers the group versions of CustomResourceDefinitions as they come and go. It only
// says what shall be; the registration controller does the work.
type customVersions struct {
	crds         crdlisters.CustomResourceDefinitionLister
	registration autoregister.AutoAPIServiceRegistration
}

var _ cache.ResourceEventHandler = (*customVersions)(nil)

// OnAdd implements cache.ResourceEventHandler.
func (c *customVersions) OnAdd(obj any, _ bool) { c.changed(obj) }

// OnUpdate implements cache.ResourceEventHandler.
func (c *customVersions) OnUpdate(before, after any) {
	c.changed(before) // versions that are not served any more
	c.changed(after)
}

// OnDelete implements cache.ResourceEventHandler.
func (c *customVersions) OnDelete(obj any) {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = tombstone.Obj
	}
	c.changed(obj)
}

func (c *customVersions) changed(obj any) {
	crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition)
	if !ok {
		return
	}
	for _, v := range crd.Spec.Versions {
		gv := schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name}
		if c.served(gv) {
			c.registration.AddAPIServiceToSync(apiService(gv, customPriority))
		} else {
			c.registration.RemoveAPIServiceToSync(apiServiceName(gv))
		}
	}
}

// served tells whether any definition serves gv.
func (c *customVersions) served(gv schema.GroupVersion) bool {
	crds, err := c.crds.List(labels.Everything())
	return err == nil && slices.ContainsFunc(crds, func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		return crd.Spec.Group == gv.Group && slices.ContainsFunc(crd.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool {
			return v.Name == gv.Version && v.Served
		})
	})
}

// registered knows which built-in APIServices have been seen available.
type registered struct {
	mu      sync.Mutex
	missing map[string]bool // guarded by mu
}

func newRegistered(names []string, informer apiregistrationinformers.APIServiceInformer) (*registered, error) {
	r := &registered{missing: map[string]bool{}}
	for _, name := range names {
		r.missing[name] = true
	}
	_, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    r.seen,
		UpdateFunc: func(_, obj any) { r.seen(obj) },
	})
	if err != nil {
		return nil, fmt.Errorf("watch APIServices: %w", err)
	}
	return r, nil
}

func (r *registered) seen(obj any) {
	service, ok := obj.(*apiregistrationv1.APIService)
	if ok && apiregistrationhelper.IsAPIServiceConditionTrue(service, apiregistrationv1.Available) {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.missing, service.Name)
	}
}

// check is a health check: it fails until all have been there.
func (r *registered) check(*http.Request) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.missing) == 0 {
		return nil
	}
	var names []string
	for name := range r.missing {
		names = append(names, name)
	}
	slices.Sort(names)
	return fmt.Errorf("missing APIService: %v", names)
}
