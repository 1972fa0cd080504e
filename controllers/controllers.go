// SPDX-License-Identifier: Apache-2.0

// Package controllers is the list of all controllers and what runs them.
//
// Each controller lives in a folder of its own and knows only the Kubernetes API: a client under its own
// identity, and the shared informers. Package reconcile turns events into calls of their Reconcile functions.
//
// New asks the informer factory for what the controllers need, so it must be called before the factory is
// started. Run acts; it is called while this process is the leader, and may be called again after it returned.
package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/addons"
	"github.com/skiff-k8s/skiff/controllers/attachdetach"
	"github.com/skiff-k8s/skiff/controllers/bootstraptoken"
	"github.com/skiff-k8s/skiff/controllers/clusterroleaggregation"
	"github.com/skiff-k8s/skiff/controllers/clustertrustbundle"
	"github.com/skiff-k8s/skiff/controllers/cronjob"
	"github.com/skiff-k8s/skiff/controllers/csrapproving"
	"github.com/skiff-k8s/skiff/controllers/csrcleaner"
	"github.com/skiff-k8s/skiff/controllers/csrsigning"
	"github.com/skiff-k8s/skiff/controllers/daemonset"
	"github.com/skiff-k8s/skiff/controllers/deployment"
	"github.com/skiff-k8s/skiff/controllers/devicetainteviction"
	"github.com/skiff-k8s/skiff/controllers/disruption"
	"github.com/skiff-k8s/skiff/controllers/endpoints"
	"github.com/skiff-k8s/skiff/controllers/endpointslice"
	"github.com/skiff-k8s/skiff/controllers/endpointslicemirroring"
	"github.com/skiff-k8s/skiff/controllers/ephemeralvolume"
	"github.com/skiff-k8s/skiff/controllers/garbagecollector"
	"github.com/skiff-k8s/skiff/controllers/ipaddress"
	"github.com/skiff-k8s/skiff/controllers/job"
	"github.com/skiff-k8s/skiff/controllers/loadbalancerpool"
	"github.com/skiff-k8s/skiff/controllers/localpath"
	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/namespace"
	"github.com/skiff-k8s/skiff/controllers/nodeipam"
	"github.com/skiff-k8s/skiff/controllers/nodelifecycle"
	"github.com/skiff-k8s/skiff/controllers/nodettl"
	"github.com/skiff-k8s/skiff/controllers/persistentvolume"
	"github.com/skiff-k8s/skiff/controllers/podautoscaler"
	"github.com/skiff-k8s/skiff/controllers/podcertificatecleaner"
	"github.com/skiff-k8s/skiff/controllers/podgc"
	"github.com/skiff-k8s/skiff/controllers/pvcprotection"
	"github.com/skiff-k8s/skiff/controllers/pvprotection"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/controllers/replicaset"
	"github.com/skiff-k8s/skiff/controllers/replicationcontroller"
	"github.com/skiff-k8s/skiff/controllers/resourceclaim"
	"github.com/skiff-k8s/skiff/controllers/resourcequota"
	"github.com/skiff-k8s/skiff/controllers/rootcacertpublisher"
	"github.com/skiff-k8s/skiff/controllers/serviceaccount"
	"github.com/skiff-k8s/skiff/controllers/serviceaccounttoken"
	"github.com/skiff-k8s/skiff/controllers/servicecidr"
	"github.com/skiff-k8s/skiff/controllers/servicelb"
	"github.com/skiff-k8s/skiff/controllers/statefulset"
	"github.com/skiff-k8s/skiff/controllers/storageversionmigration"
	"github.com/skiff-k8s/skiff/controllers/tainteviction"
	"github.com/skiff-k8s/skiff/controllers/ttlafterfinished"
	"github.com/skiff-k8s/skiff/controllers/validatingadmissionpolicystatus"
	"github.com/skiff-k8s/skiff/controllers/volumeattributesclassprotection"
	"github.com/skiff-k8s/skiff/controllers/volumeexpand"
	"github.com/skiff-k8s/skiff/internal/restmapping"
	"github.com/skiff-k8s/skiff/internal/wallclock"
	"github.com/skiff-k8s/skiff/network/addresspool"
)

// Deps is what the controllers work with.
type Deps struct {
	// ClientFor returns a client that acts as the controller of that name, which is the user
	// system:serviceaccount:kube-system:<name>.
	ClientFor func(name string) kubernetes.Interface
	Informers informers.SharedInformerFactory

	// MetadataFor is ClientFor for clients that see only the metadata of objects.
	MetadataFor func(name string) metadata.Interface
	// ConfigFor is ClientFor for clients of other kinds.
	ConfigFor func(name string) *restclient.Config
	Discovery discovery.DiscoveryInterface

	// ManagerClient acts as system:kube-controller-manager.
	ManagerClient kubernetes.Interface
	// APIServerClient acts as the API server itself.
	APIServerClient kubernetes.Interface
	// IssueToken makes the token that belongs into a Secret of a ServiceAccount.
	IssueToken func(*corev1.ServiceAccount, *corev1.Secret) (string, error)

	// AddOns says where add-ons are; nil means nowhere.
	AddOns *AddOns

	// PodRanges are the pod addresses that nodes get their share of: one range, or one per IP family.
	PodRanges []nodeipam.Range
	// KeepEndedPods is how many ended pods are kept; 0 means podgc.DefaultThreshold, less than 0 means all.
	KeepEndedPods int
	// RootCA is what kube-root-ca.crt says: PEM certificates by which pods verify the API server.
	RootCA []byte
	// LocalVolumes is how the nodes' directories for local-path volumes are made; nil: by their kubelets.
	LocalVolumes localpath.Nodes
	// ServiceLB is what the addresses of LoadBalancer Services are made of; nil: they come from elsewhere.
	ServiceLB *servicelb.Config
	// LoadBalancerPool is where they come from instead, if there is any.
	LoadBalancerPool addresspool.Pool
	// Signers sign certificate requests.
	Signers csrsigning.Authorities
	// Metrics shows what controllers measure; nil: nobody does.
	Metrics metrics.Registry
}

// AddOns are manifests that are applied.
type AddOns struct {
	Dir, Server string
	Disabled    []string
	// Config is of a client that may do whatever a manifest may ask for.
	Config *restclient.Config
}

// Manager runs all controllers.
type Manager struct {
	deps    Deps
	mapper  meta.ResettableRESTMapper
	events  *eventSources
	metrics *metrics.Set
	runner  reconcile.Runner
}

// New makes all controllers.
func New(deps Deps) (*Manager, error) {
	m := &Manager{deps: deps, mapper: restmapping.New(deps.Discovery), events: newEventSources(), metrics: metrics.New(), runner: reconcile.Runner{ClockJumps: wallclock.Follow}}
	if deps.Metrics != nil {
		if err := m.metrics.Register(deps.Metrics); err != nil {
			return nil, fmt.Errorf("show metrics of controllers: %w", err)
		}
	}
	for _, build := range all {
		c, err := build(m)
		if err != nil {
			return nil, fmt.Errorf("set up controllers: %w", err)
		}
		if c.Name == "" {
			continue // it is turned off
		}
		m.runner.Controllers = append(m.runner.Controllers, c)
	}
	if deps.Metrics != nil {
		m.count()
		if err := deps.Metrics.CustomRegister(m.metrics.Counts); err != nil {
			return nil, fmt.Errorf("show numbers of objects: %w", err)
		}
	}
	return m, nil
}

// count says where objects are that are counted in metrics.
func (m *Manager) count() {
	core, resource := m.deps.Informers.Core().V1(), m.deps.Informers.Resource().V1()
	volumes, claims, devices := core.PersistentVolumes().Lister(), core.PersistentVolumeClaims().Lister(), resource.ResourceClaims().Lister()
	m.metrics.Counts.Volumes = listed(volumes.List)
	m.metrics.Counts.Claims = listed(claims.List)
	m.metrics.Counts.ResourceClaims = listed(devices.List)
}

// listed lists all that a lister has, which fails for none of those that read a cache.
func listed[T any](list func(labels.Selector) ([]T, error)) func() []T {
	return func() []T {
		objects, _ := list(labels.Everything())
		return objects
	}
}

// Run runs the controllers until ctx ends. The informer factory must have been started.
func (m *Manager) Run(ctx context.Context) error {
	stop := m.events.start(ctx)
	defer stop()
	return m.runner.Run(ctx)
}

// all is the list of all controllers.
var all = []func(*Manager) (reconcile.Controller, error){
	withEvents(deployment.Name, deployment.Component, deployment.New),
	withMetrics(replicaset.Name, replicaset.Component, replicaset.New, func(s *metrics.Set) *metrics.Replicas { return s.Replicas }),
	withMetrics(replicationcontroller.Name, replicationcontroller.Component, replicationcontroller.New, func(s *metrics.Set) *metrics.Replicas { return s.Replicas }),
	withMetrics(statefulset.Name, statefulset.Component, statefulset.New, func(s *metrics.Set) *metrics.Stateful { return s.Stateful }),
	withMetrics(daemonset.Name, daemonset.Component, daemonset.New, func(s *metrics.Set) *metrics.Daemons { return s.Daemons }),
	withMetrics(job.Name, job.Component, job.New, func(s *metrics.Set) *metrics.Job { return s.Job }),
	func(m *Manager) (reconcile.Controller, error) {
		return job.NewOrphans(m.deps.ClientFor(job.Name), m.deps.Informers)
	},
	withMetrics(cronjob.Name, cronjob.Component, cronjob.New, func(s *metrics.Set) *metrics.CronJob { return s.CronJob }),
	withEvents(disruption.Name, disruption.Component, disruption.New),
	func(m *Manager) (reconcile.Controller, error) {
		return disruption.NewStaleConditions(m.deps.ClientFor(disruption.Name), m.deps.Informers), nil
	},
	withEvents(endpointslice.Name, endpointslice.Component, endpointslice.New),
	withEvents(endpoints.Name, endpoints.Component, endpoints.New),
	withMetrics(persistentvolume.Name, persistentvolume.Component, persistentvolume.NewClaims, func(s *metrics.Set) *metrics.Volumes { return s.Volumes }),
	withMetrics(persistentvolume.Name, persistentvolume.Component, persistentvolume.NewVolumes, func(s *metrics.Set) *metrics.Volumes { return s.Volumes }),
	withMetrics(attachdetach.Name, attachdetach.Component, attachdetach.New, func(s *metrics.Set) *metrics.Attachments { return s.Attachment }),
	withEvents(volumeexpand.Name, volumeexpand.Component, volumeexpand.New),
	withMetrics(ephemeralvolume.Name, ephemeralvolume.Component, ephemeralvolume.New, func(s *metrics.Set) *metrics.Ephemeral { return s.Ephemeral }),
	func(m *Manager) (reconcile.Controller, error) {
		return pvcprotection.New(m.deps.ClientFor(pvcprotection.Name), m.deps.Informers)
	},
	func(m *Manager) (reconcile.Controller, error) {
		return pvprotection.New(m.deps.ClientFor(pvprotection.Name), m.deps.Informers), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return volumeattributesclassprotection.New(m.deps.ClientFor(volumeattributesclassprotection.Name), m.deps.Informers)
	},
	withLocalPath(localpath.NewClaims),
	withLocalPath(localpath.NewVolumes),
	withMetrics(endpointslicemirroring.Name, endpointslicemirroring.Component, endpointslicemirroring.New, func(s *metrics.Set) *metrics.Mirroring { return s.Mirroring }),
	withEvents(servicecidr.Name, servicecidr.Component, servicecidr.New),
	func(m *Manager) (reconcile.Controller, error) {
		client := m.deps.APIServerClient
		return ipaddress.New(client, m.deps.Informers, m.events.source(ipaddress.Component, client))
	},
	newServiceLB,
	newLoadBalancerPool,
	withMetrics(nodelifecycle.Name, nodelifecycle.Component, nodelifecycle.New, func(s *metrics.Set) *metrics.Nodes { return s.Nodes }),
	withMetrics(tainteviction.Name, tainteviction.Component, tainteviction.New, func(s *metrics.Set) *metrics.Eviction { return s.Taints }),
	withMetrics(devicetainteviction.Name, devicetainteviction.Component, devicetainteviction.New, func(s *metrics.Set) *metrics.Eviction { return s.Devices }),
	func(m *Manager) (reconcile.Controller, error) {
		return nodettl.New(m.deps.ClientFor(nodettl.Name), m.deps.Informers), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		if len(m.deps.PodRanges) == 0 { // nodes get their addresses elsewhere
			return reconcile.Controller{Name: nodeipam.Name}, nil
		}
		client := m.deps.ClientFor(nodeipam.Name)
		return nodeipam.New(client, m.deps.Informers, m.events.source(nodeipam.Component, client), m.metrics.Blocks, m.deps.PodRanges)
	},
	func(m *Manager) (reconcile.Controller, error) {
		keep := m.deps.KeepEndedPods
		if keep == 0 {
			keep = podgc.DefaultThreshold
		}
		return podgc.New(m.deps.ClientFor(podgc.Name), m.deps.Informers, keep, m.metrics.PodGC)
	},
	func(m *Manager) (reconcile.Controller, error) {
		client := m.deps.ClientFor(garbagecollector.Name)
		events := m.events.source(garbagecollector.Component, client)
		return garbagecollector.New(m.deps.MetadataFor(garbagecollector.Name), m.deps.Discovery, m.deps.Informers, events, m.metrics.Garbage), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return namespace.New(m.deps.ClientFor(namespace.Name), m.deps.MetadataFor(namespace.Name), m.deps.Discovery, m.deps.Informers), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return resourcequota.New(m.deps.ClientFor(resourcequota.Name), m.deps.MetadataFor(resourcequota.Name), m.deps.Discovery, m.deps.Informers)
	},
	newPodAutoscaler,
	newAddOns,
	func(m *Manager) (reconcile.Controller, error) {
		crds, err := apiextensionsclient.NewForConfig(m.deps.ConfigFor(storageversionmigration.Name))
		if err != nil {
			return reconcile.Controller{}, err
		}
		return storageversionmigration.New(storageversionmigration.Deps{
			Client: m.deps.ClientFor(storageversionmigration.Name), Metadata: m.deps.MetadataFor(storageversionmigration.Name),
			CRDs: crds.CustomResourceDefinitions(), Discovery: m.deps.Discovery, Mapper: m.mapper,
		}, m.deps.Informers), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		client := m.deps.ClientFor(validatingadmissionpolicystatus.Name)
		return validatingadmissionpolicystatus.New(client, m.deps.Discovery, m.mapper, m.deps.Informers), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return clusterroleaggregation.New(m.deps.ClientFor(clusterroleaggregation.Name), m.deps.Informers), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return ttlafterfinished.New(m.deps.ClientFor(ttlafterfinished.Name), m.deps.Informers, m.metrics.TTL), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return serviceaccount.New(m.deps.ClientFor(serviceaccount.Name), m.deps.Informers), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return serviceaccounttoken.New(serviceaccounttoken.Deps{
			Client: m.deps.ManagerClient, Cleaner: m.deps.ClientFor(serviceaccounttoken.CleanerName), Issue: m.deps.IssueToken, RootCA: m.deps.RootCA,
		}, m.deps.Informers), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		if len(m.deps.RootCA) == 0 { // there is no anchor to trust
			return reconcile.Controller{Name: clustertrustbundle.Name}, nil
		}
		return clustertrustbundle.New(m.deps.ClientFor(clustertrustbundle.Name), m.deps.Informers, m.deps.RootCA, m.metrics.Bundles), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return podcertificatecleaner.New(m.deps.ClientFor(podcertificatecleaner.Name), m.deps.Informers), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return rootcacertpublisher.New(m.deps.ClientFor(rootcacertpublisher.Name), m.deps.Informers, m.deps.RootCA, m.metrics.RootCA), nil
	},
	withEvents(resourceclaim.Name, resourceclaim.Component, resourceclaim.NewForPods),
	func(m *Manager) (reconcile.Controller, error) {
		return resourceclaim.New(m.deps.ClientFor(resourceclaim.Name), m.deps.Informers), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return csrapproving.New(m.deps.ClientFor(csrapproving.Name), m.deps.Informers), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return csrsigning.New(m.deps.ClientFor(csrsigning.Name), m.deps.Informers, m.deps.Signers), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return csrcleaner.New(m.deps.ClientFor(csrcleaner.Name), m.deps.Informers), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return bootstraptoken.New(m.deps.ClientFor(bootstraptoken.CleanerName), m.deps.ClientFor(bootstraptoken.SignerName), m.deps.Informers), nil
	},
}

func newPodAutoscaler(m *Manager) (reconcile.Controller, error) {
	client, config := m.deps.ClientFor(podautoscaler.Name), m.deps.ConfigFor(podautoscaler.Name)
	scales, err := scale.NewForConfig(config, m.mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(m.deps.Discovery))
	if err != nil {
		return reconcile.Controller{}, err
	}
	values, err := podautoscaler.NewMetrics(config, m.deps.Discovery, m.mapper)
	if err != nil {
		return reconcile.Controller{}, err
	}
	return podautoscaler.New(podautoscaler.Deps{
		Client: client, Scales: scales, Mapper: m.mapper, Metrics: values, Events: m.events.source(podautoscaler.Component, client),
		Measured: m.metrics.Autoscaler,
	}, m.deps.Informers), nil
}

func newAddOns(m *Manager) (reconcile.Controller, error) {
	a := m.deps.AddOns
	if a == nil {
		return reconcile.Controller{Name: addons.Component}, nil
	}
	client, err := kubernetes.NewForConfig(a.Config)
	if err != nil {
		return reconcile.Controller{}, err
	}
	objects, err := dynamic.NewForConfig(a.Config)
	if err != nil {
		return reconcile.Controller{}, err
	}
	// Its own, since add-ons may find what controllers do not: groups that are installed when they are used.
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
	return addons.New(addons.Config{
		Dir: a.Dir, Server: a.Server, Disabled: a.Disabled,
		Client: client, Dynamic: objects, Mapper: mapper, Events: m.events.source(addons.Component, client),
	}), nil
}

// withEvents is for controllers that need just a client, the informers and a place for their events.
func withEvents(
	name, component string,
	build func(kubernetes.Interface, informers.SharedInformerFactory, record.EventRecorder) (reconcile.Controller, error),
) func(*Manager) (reconcile.Controller, error) {
	return func(m *Manager) (reconcile.Controller, error) {
		client := m.deps.ClientFor(name)
		return build(client, m.deps.Informers, m.events.source(component, client))
	}
}

// withMetrics is withEvents for controllers that measure something: their part of all metrics.
func withMetrics[M any](
	name, component string,
	build func(kubernetes.Interface, informers.SharedInformerFactory, record.EventRecorder, M) (reconcile.Controller, error),
	part func(*metrics.Set) M,
) func(*Manager) (reconcile.Controller, error) {
	return func(m *Manager) (reconcile.Controller, error) {
		client := m.deps.ClientFor(name)
		return build(client, m.deps.Informers, m.events.source(component, client), part(m.metrics))
	}
}

func newServiceLB(m *Manager) (reconcile.Controller, error) {
	if m.deps.ServiceLB == nil {
		return reconcile.Controller{}, nil
	}
	client := m.deps.ClientFor(servicelb.Name)
	return servicelb.New(*m.deps.ServiceLB, client, m.deps.Informers, m.events.source(servicelb.Name, client)), nil
}

func newLoadBalancerPool(m *Manager) (reconcile.Controller, error) {
	if len(m.deps.LoadBalancerPool) == 0 {
		return reconcile.Controller{}, nil
	}
	client := m.deps.ClientFor(loadbalancerpool.Name)
	return loadbalancerpool.New(m.deps.LoadBalancerPool, client, m.deps.Informers, m.events.source(loadbalancerpool.Name, client)), nil
}

// withLocalPath is for the controllers of local-path volumes.
func withLocalPath(
	build func(kubernetes.Interface, informers.SharedInformerFactory, record.EventRecorder, localpath.Nodes) reconcile.Controller,
) func(*Manager) (reconcile.Controller, error) {
	return func(m *Manager) (reconcile.Controller, error) {
		client := m.deps.ClientFor(localpath.Name)
		nodes := m.deps.LocalVolumes
		if nodes == nil {
			nodes = localpath.Kubelets(client)
		}
		return build(client, m.deps.Informers, m.events.source(localpath.Component, client), nodes), nil
	}
}
