// SPDX-License-Identifier: Apache-2.0

// Package apiserver is the HTTP front of the cluster: apiserver machinery, the handler chain, and every
// resource that registry lists.
//
// New builds it, Run serves until its context ends. Parts of the same process reach it through
// ClientConfig, without a socket. What a resource means is registry's business, where objects lie is
// datastore's, who may do what is authn's, authz's and admission's.
package apiserver

import (
	"context"
	"fmt"
	"net"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/recognizer"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/client-go/informers"
	restclient "k8s.io/client-go/rest"
	basecompatibility "k8s.io/component-base/compatibility"

	"github.com/skiff-k8s/skiff/apiserver/inprocess"
	"github.com/skiff-k8s/skiff/datastore"
	"github.com/skiff-k8s/skiff/registry"
	"github.com/skiff-k8s/skiff/registry/rest"
)

// Config is what an API server is made of. Its values stay owned by the caller.
type Config struct {
	Store     *datastore.Store
	Resources []registry.Definition
	// Reviews are the resources that are answered and not stored, by group version and name ("tokenreviews").
	Reviews map[schema.GroupVersion]map[string]genericrest.Storage

	// Door is where in-process clients wait; New opens it.
	Door *inprocess.Door
	// Loopback is the machinery's own client, privileged.
	Loopback *restclient.Config
	// Listener takes TLS connections (nil: in-process clients only).
	Listener net.Listener
	// ServingCert, ClientCA are required with a Listener. They may change while serving.
	ServingCert dynamiccertificates.CertKeyContentProvider
	ClientCA    dynamiccertificates.CAContentProvider

	Authenticator authenticator.Request
	APIAudiences  authenticator.Audiences
	Authorizer    authorizer.Authorizer
	RuleResolver  authorizer.RuleResolver
	Admission     admission.Interface
	Informers     informers.SharedInformerFactory

	// ExternalAddress is the host:port that clients outside are told.
	ExternalAddress string
	// Version is what /version and the Server header say.
	Version basecompatibility.EffectiveVersion
}

// Server is a built API server.
type Server struct {
	generic *genericapiserver.GenericAPIServer
	stores  map[schema.GroupResource]*rest.Store
	scheme  *runtime.Scheme
}

// New builds the server and opens cfg.Door. Nothing listens until Run.
func New(cfg Config) (*Server, error) {
	scheme, err := registry.NewScheme(cfg.Resources)
	if err != nil {
		return nil, err
	}
	codecs := newCodecs(scheme)
	generic, err := newGeneric(cfg, codecs)
	if err != nil {
		return nil, err
	}
	s := &Server{generic: generic, stores: map[schema.GroupResource]*rest.Store{}, scheme: scheme}
	groups, err := s.buildResources(cfg, codecs)
	if err != nil {
		return nil, err
	}
	for gv, resources := range cfg.Reviews {
		for name, storage := range resources {
			groups.add(gv, name, storage)
		}
	}
	if err := s.install(groups, cfg, codecs); err != nil {
		return nil, err
	}
	return s, nil
}

// Store is the store of a resource, for parts of the API server that work below the API.
func (s *Server) Store(resource schema.GroupResource) *rest.Store { return s.stores[resource] }

// Scheme knows all served types. It must not be changed.
func (s *Server) Scheme() *runtime.Scheme { return s.scheme }

// Generic is the machinery, for what hooks into it (more health checks, handlers, post-start hooks).
func (s *Server) Generic() *genericapiserver.GenericAPIServer { return s.generic }

// Run opens door and serves until ctx ends and requests in flight are answered.
func (s *Server) Run(ctx context.Context, door *inprocess.Door) error {
	prepared := s.generic.PrepareRun()
	door.Open(s.generic.Handler)
	if err := prepared.RunWithContext(ctx); err != nil {
		return fmt.Errorf("serve the API: %w", err)
	}
	return nil
}

// newCodecs is the codec factory of all served types, which streams lists.
func newCodecs(scheme *runtime.Scheme) serializer.CodecFactory {
	return serializer.NewCodecFactory(scheme,
		serializer.WithStreamingCollectionEncodingToJSON(),
		serializer.WithStreamingCollectionEncodingToProtobuf())
}

func newGeneric(cfg Config, codecs serializer.CodecFactory) (*genericapiserver.GenericAPIServer, error) {
	c := genericapiserver.NewConfig(codecs)
	c.EffectiveVersion = cfg.Version
	c.LoopbackClientConfig = cfg.Loopback
	c.ExternalAddress = cfg.ExternalAddress
	c.Authentication.Authenticator = cfg.Authenticator
	c.Authentication.APIAudiences = cfg.APIAudiences
	c.Authorization.Authorizer = cfg.Authorizer
	c.RuleResolver = cfg.RuleResolver
	c.AdmissionControl = cfg.Admission
	c.SkipOpenAPIInstallation = true // the built-in part is made at build time
	c.EnableProfiling = false
	c.MinRequestTimeout = 1800
	c.RequestTimeout = time.Minute
	c.LongRunningFunc = genericfilters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"),
		sets.NewString("attach", "exec", "proxy", "log", "portforward"))
	// Flow control estimates a list's cost with these counts; they cost a poll of every resource.
	c.StorageObjectCountTracker = nil
	c.SecureServing = &genericapiserver.SecureServingInfo{
		Listener: cfg.Listener, Cert: cfg.ServingCert, ClientCA: cfg.ClientCA,
		HTTP2MaxStreamsPerConnection: 1000,
	}
	if cfg.Listener == nil {
		c.SecureServing.Listener = newNoListener()
	}
	completed := c.Complete(cfg.Informers)
	generic, err := completed.New("kube-apiserver", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, fmt.Errorf("build the API server: %w", err)
	}
	return generic, nil
}

// buildResources opens the storage of all resources.
func (s *Server) buildResources(cfg Config, codecs serializer.CodecFactory) (groups, error) {
	protobuf, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !ok {
		return nil, fmt.Errorf("build the API server: no protobuf serializer")
	}
	// What lies in etcd is protobuf, but an upstream server may have stored JSON, so the form is recognized.
	decoder := recognizer.NewDecoder(codecs.UniversalDeserializer(), protobuf.Serializer)
	options := func(resource schema.GroupResource, stored schema.GroupVersion, keyPrefix string) (generic.RESTOptions, error) {
		return cfg.Store.RESTOptions(resource, datastore.Layout{
			Codec:     rest.StorageCodec(s.scheme, protobuf.Serializer, decoder, stored),
			KeyPrefix: keyPrefix,
		}), nil
	}
	out := groups{}
	for _, definition := range cfg.Resources {
		built, err := definition.Build(s.scheme, options)
		if err != nil {
			return nil, err
		}
		s.stores[built.Store.DefaultQualifiedResource] = built.Store
		for _, gv := range built.Versions {
			for name, storage := range built.Storage {
				out.add(gv, name, storage)
			}
		}
	}
	return out, nil
}

// groups holds what is served, by group version and name of the resource.
type groups map[schema.GroupVersion]map[string]genericrest.Storage

func (g groups) add(gv schema.GroupVersion, name string, storage genericrest.Storage) {
	if g[gv] == nil {
		g[gv] = map[string]genericrest.Storage{}
	}
	g[gv][name] = storage
}
