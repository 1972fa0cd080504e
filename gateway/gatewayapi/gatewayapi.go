// SPDX-License-Identifier: Apache-2.0

// Package gatewayapi serves the Gateway API: Gateways of a class of ours become listeners of the data plane, Routes what these
// do with requests, and all of them are told by their status how they fare.
//
// Read in this order: world.go (what is looked at), decide.go (what follows from it, without I/O), listeners.go, attach.go,
// routes.go, tls.go and grants.go (parts of that), then this file (when that happens), expose.go, sockets.go and status.go
// (what is done about it).
//
// A decision is about everything at once, since who gets a hostname, and which reference may be followed, depends on
// others' objects. It is pure and quick; what has not changed keeps its pointers, and is neither given to the data plane nor
// written to the API again.
//
// Each Gateway has a Service of type LoadBalancer without a selector. The data plane listens on a port of the node for each
// port of a Gateway, and an EndpointSlice leads the Service there. So the first Gateway that wants ports 80 and 443 has those of
// the nodes, like any LoadBalancer Service; further ones are reached at an address of their own in the cluster. Who wants
// several teams' hostnames on the node's ports attaches ListenerSets or Routes to one Gateway.
//
// Secrets and ConfigMaps are read one by one, those that are referred to. Nothing runs before there is a Gateway of ours.
// Reference: https://gateway-api.sigs.k8s.io/
package gatewayapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"
	gatewayinformers "sigs.k8s.io/gateway-api/pkg/client/informers/externalversions"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/gateway/crds"
	"github.com/skiff-k8s/skiff/gateway/table"
	"github.com/skiff-k8s/skiff/kubelet/objects"
)

const (
	// ControllerName is what GatewayClasses of ours name.
	ControllerName gatewayv1.GatewayController = "skiff.io/gateway-controller"
	// ClassName is the GatewayClass that every cluster has.
	ClassName = "skiff"
	// Component is the controller's name in labels, and as whose tables the data plane knows them.
	Component = "gateway-api"
)

// settle is how long events are waited for that belong together.
const settle = 20 * time.Millisecond

// DataPlane serves tables. Package proxy has the one.
type DataPlane interface {
	// Set replaces what is served for an owner, and returns the sockets that could not be opened.
	Set(owner string, t *table.Table) map[netip.AddrPort]error
}

// Config is what a Controller works with. All is required.
type Config struct {
	NodeName string
	NodeIP   netip.Addr // the data plane listens there

	Client    kubernetes.Interface            // for Services and EndpointSlices
	Gateways  gatewayclient.Interface         // for the Gateway API
	Single    kubernetes.Interface            // reads single Secrets and ConfigMaps
	Informers informers.SharedInformerFactory // shared with others
	DataPlane DataPlane

	API crds.API // what there is of the Gateway API
}

// Controller serves the Gateways of one class on this node.
type Controller struct {
	cfg      Config
	gateways gatewayinformers.SharedInformerFactory
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
	spaces   corelisters.NamespaceLister
	named    *objects.Cache
	wake     chan struct{} // capacity 1: a Secret or ConfigMap has changed

	// What follows belongs to Reconcile, which runs once at a time.
	inUse   bool // there has been a Gateway of ours
	memo    *memo
	sockets *sockets
	failed  map[Socket]string // sockets that could not be opened, and why
	refused map[types.NamespacedName]string
	before  *table.Table
	refs    map[objects.Ref]bool // the Secrets and ConfigMaps that are followed
	late    bool                 // the last decision did without some of them, since the API did not answer yet

	mu   sync.Mutex
	uses map[types.NamespacedName]bool // Services that the last decision asked for; guarded by mu
}

// New builds a Controller. It serves nothing before Run.
func New(cfg Config) *Controller {
	c := &Controller{
		cfg: cfg, wake: make(chan struct{}, 1), memo: &memo{}, sockets: newSockets(cfg.NodeIP),
		failed: map[Socket]string{}, refused: map[types.NamespacedName]string{}, uses: map[types.NamespacedName]bool{},
		services: cfg.Informers.Core().V1().Services().Lister(),
		slices:   cfg.Informers.Discovery().V1().EndpointSlices().Lister(),
		spaces:   cfg.Informers.Core().V1().Namespaces().Lister(),
	}
	c.gateways = gatewayinformers.NewSharedInformerFactoryWithOptions(cfg.Gateways, 0, gatewayinformers.WithTransform(dropManagedFields))
	c.named = objects.New(cfg.Single, func(types.UID) {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	})
	return c
}

func dropManagedFields(obj any) (any, error) {
	if m, ok := obj.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	return obj, nil
}

// all is the one key.
var all = types.NamespacedName{Name: "all"}

// Run serves until ctx ends, and then nothing any more. The resources that Config.API knows must be there.
func (c *Controller) Run(ctx context.Context) error {
	defer c.gateways.Shutdown()
	if err := c.ensureClass(ctx); err != nil {
		return err
	}
	if err := c.awaitUse(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	klog.FromContext(ctx).Info("The Gateway API is in use")
	defer c.cfg.DataPlane.Set(Component, &table.Table{})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.named.Run(ctx) })
	group.Go(func() error {
		c.inUse = true
		full := c.full()
		c.gateways.Start(ctx.Done())
		return (&reconcile.Runner{Controllers: []reconcile.Controller{full}}).Run(ctx)
	})
	return group.Wait()
}

// awaitUse returns when there is a Gateway of ours. Until then only GatewayClasses are told how they fare.
func (c *Controller) awaitUse(ctx context.Context) error {
	used, stop := context.WithCancel(ctx)
	defer stop()
	v1 := c.gateways.Gateway().V1()
	look := func(q reconcile.Queue) {
		q.Add(all)
		if c.isNeeded() {
			stop()
		}
	}
	classes := reconcile.Controller{
		Name: "gateway_class", Reconcile: c.Reconcile, Workers: 1,
		Watches: []reconcile.Watch{
			reconcile.OnAny(v1.GatewayClasses().Informer(), func(q reconcile.Queue, _ *gatewayv1.GatewayClass) { look(q) }),
			reconcile.OnAny(v1.Gateways().Informer(), func(q reconcile.Queue, _ *gatewayv1.Gateway) { look(q) }),
		},
	}
	c.gateways.Start(ctx.Done())
	return (&reconcile.Runner{Controllers: []reconcile.Controller{classes}}).Run(used)
}

// isNeeded tells whether a Gateway is of a class of ours.
func (c *Controller) isNeeded() bool {
	classes, err := c.gateways.Gateway().V1().GatewayClasses().Lister().List(labels.Everything())
	if err != nil {
		return false
	}
	gateways, err := c.gateways.Gateway().V1().Gateways().Lister().List(labels.Everything())
	return err == nil && slices.ContainsFunc(gateways, func(gw *gatewayv1.Gateway) bool {
		return slices.ContainsFunc(classes, func(class *gatewayv1.GatewayClass) bool {
			return class.Spec.ControllerName == ControllerName && class.Name == string(gw.Spec.GatewayClassName)
		})
	})
}

// ensureClass makes the GatewayClass unless it is there.
func (c *Controller) ensureClass(ctx context.Context) error {
	class := &gatewayv1.GatewayClass{
		ObjectMeta: metav1.ObjectMeta{Name: ClassName},
		Spec:       gatewayv1.GatewayClassSpec{ControllerName: ControllerName},
	}
	_, err := c.cfg.Gateways.GatewayV1().GatewayClasses().Create(ctx, class, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create GatewayClass %s: %w", ClassName, err)
	}
	return nil
}

// guardClasses keeps classes of ours from being deleted as long as there are Gateways of them.
func (c *Controller) guardClasses(ctx context.Context, classes []*gatewayv1.GatewayClass) error {
	gateways, err := c.gateways.Gateway().V1().Gateways().Lister().List(labels.Everything())
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, gw := range gateways {
		used[string(gw.Spec.GatewayClassName)] = true
	}
	const guard = gatewayv1.GatewayClassFinalizerGatewaysExist
	var errs []error
	for _, class := range classes {
		guarded := slices.Contains(class.Finalizers, guard)
		if class.Spec.ControllerName != ControllerName || used[class.Name] == guarded || used[class.Name] && class.DeletionTimestamp != nil {
			continue
		}
		class = class.DeepCopy()
		if guarded {
			class.Finalizers = slices.DeleteFunc(class.Finalizers, func(f string) bool { return f == guard })
		} else {
			class.Finalizers = append(class.Finalizers, guard)
		}
		_, err := c.cfg.Gateways.GatewayV1().GatewayClasses().Update(ctx, class, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // it will be seen as it is now
			errs = append(errs, fmt.Errorf("guard GatewayClass %s: %w", class.Name, err))
		}
	}
	return errors.Join(errs...)
}

// full is the controller that looks at everything.
func (c *Controller) full() reconcile.Controller {
	v1 := c.gateways.Gateway().V1()
	always := func(informer cache.SharedIndexInformer) reconcile.Watch {
		return reconcile.OnAny(informer, func(q reconcile.Queue, _ metav1.Object) { q.AddAfter(all, settle) })
	}
	core := c.cfg.Informers.Core().V1()
	out := reconcile.Controller{
		Name: "gateway_api", Reconcile: c.Reconcile, Workers: 1, MaxBackoff: time.Minute, Loop: c.followNamed,
		Watches: []reconcile.Watch{
			always(v1.GatewayClasses().Informer()), always(v1.Gateways().Informer()),
			reconcile.OnAny(core.Services().Informer(), func(q reconcile.Queue, svc *corev1.Service) {
				if c.isUsed(reconcile.KeyOf(svc)) || svc.Labels[gatewayv1.GatewayNameLabelKey] != "" {
					q.AddAfter(all, settle)
				}
			}),
			reconcile.OnAny(c.cfg.Informers.Discovery().V1().EndpointSlices().Informer(), func(q reconcile.Queue, slice *discoveryv1.EndpointSlice) {
				service := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
				if c.isUsed(service) || slice.Labels[discoveryv1.LabelManagedBy] == Component {
					q.AddAfter(all, settle)
				}
			}),
			reconcile.On(core.Namespaces().Informer(), func(q reconcile.Queue, old, new *corev1.Namespace) {
				if old == nil || new == nil || !maps.Equal(old.Labels, new.Labels) {
					q.AddAfter(all, settle)
				}
			}),
		},
	}
	for resource, informer := range c.optional() {
		if c.cfg.API.Has(resource) {
			out.Watches = append(out.Watches, always(informer()))
		}
	}
	return out
}

// optional are the resources of which an installed bundle may lack some.
func (c *Controller) optional() map[string]func() cache.SharedIndexInformer {
	v1 := c.gateways.Gateway().V1()
	return map[string]func() cache.SharedIndexInformer{
		"listenersets":       func() cache.SharedIndexInformer { return v1.ListenerSets().Informer() },
		"httproutes":         func() cache.SharedIndexInformer { return v1.HTTPRoutes().Informer() },
		"grpcroutes":         func() cache.SharedIndexInformer { return v1.GRPCRoutes().Informer() },
		"tlsroutes":          func() cache.SharedIndexInformer { return v1.TLSRoutes().Informer() },
		"tcproutes":          func() cache.SharedIndexInformer { return v1.TCPRoutes().Informer() },
		"udproutes":          func() cache.SharedIndexInformer { return v1.UDPRoutes().Informer() },
		"referencegrants":    func() cache.SharedIndexInformer { return v1.ReferenceGrants().Informer() },
		"backendtlspolicies": func() cache.SharedIndexInformer { return v1.BackendTLSPolicies().Informer() },
	}
}

// followNamed wakes Reconcile when a Secret or ConfigMap has changed.
func (c *Controller) followNamed(ctx context.Context, q reconcile.Queue) error {
	for {
		select {
		case <-c.wake:
			q.AddAfter(all, settle)
		case <-ctx.Done():
			return nil
		}
	}
}

// use notes a Service before it is looked at, so that whatever happens to it from then on is noticed.
func (c *Controller) use(service types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uses[service] = true
}

func (c *Controller) isUsed(service types.NamespacedName) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.uses[service]
}

// decide takes a decision, and follows what it was made from.
func (c *Controller) decide(ctx context.Context, world *World) *Outcome {
	v := &view{Controller: c, ctx: ctx, uses: map[types.NamespacedName]bool{}, refs: map[objects.Ref]bool{}}
	w := *world
	w.Objects = v
	outcome := decide(w, metav1.Now(), c.memo, c.cfg.API.Bundle, func(s Socket) string { return c.failed[s] })
	c.mu.Lock()
	c.uses = v.uses
	c.mu.Unlock()
	c.register(v.refs)
	c.late = v.late
	return outcome
}

// user is who follows Secrets and ConfigMaps.
const user types.UID = Component

func (c *Controller) register(refs map[objects.Ref]bool) {
	c.named.RegisterRefs(user, slices.Collect(maps.Keys(refs))...)
	c.refs = refs
}

// serve gives the data plane what was decided. True: other sockets have to be tried.
func (c *Controller) serve(o *Outcome) bool {
	wanted := map[Socket]bool{}
	for _, ports := range o.Expose {
		for _, s := range ports {
			wanted[s] = true
		}
	}
	c.sockets.keep(wanted)
	share(c.before, o.Table)
	failed := c.cfg.DataPlane.Set(Component, o.Table)
	c.before = o.Table
	clear(c.failed)
	for s := range wanted {
		if err := failed[c.sockets.of(s)]; err != nil {
			c.failed[s] = fmt.Sprintf("port %d cannot be served: %v", s.Port, err)
		}
	}
	c.sockets.avoid(failed)
	return len(c.failed) > 0
}

// Reconcile looks at everything and does what follows.
func (c *Controller) Reconcile(ctx context.Context, _ types.NamespacedName) (reconcile.Result, error) {
	world, err := c.world()
	if err != nil {
		return reconcile.Result{}, err
	}
	outcome := c.decide(ctx, world)
	if ctx.Err() != nil {
		return reconcile.Result{}, ctx.Err()
	}
	if c.serve(outcome) { // some sockets could not be opened: others may
		outcome = c.decide(ctx, world)
		c.serve(outcome)
	}
	if c.late { // what was decided is good enough to serve for a moment, but not to be told
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	refused := maps.Clone(c.refused)
	err = c.expose(ctx, world.Gateways, outcome.Expose)
	if !maps.Equal(refused, c.refused) {
		outcome = c.decide(ctx, world)
	}
	err = errors.Join(err, c.writeStatuses(ctx, world, outcome), c.guardClasses(ctx, world.Classes))
	if len(c.failed) > 0 {
		return reconcile.Result{RequeueAfter: 10 * time.Second}, err
	}
	return reconcile.Result{}, err
}

// world is what the informers have seen.
func (c *Controller) world() (*World, error) {
	v1 := c.gateways.Gateway().V1()
	w := &World{}
	var errs []error
	list := func(resource string, fill func() error) {
		if c.inUse && c.cfg.API.Has(resource) {
			errs = append(errs, fill())
		}
	}
	everything := labels.Everything()
	w.Classes, _ = v1.GatewayClasses().Lister().List(everything) // fails for selectors only
	list("gateways", func() (err error) { w.Gateways, err = v1.Gateways().Lister().List(everything); return })
	list("listenersets", func() (err error) { w.ListenerSets, err = v1.ListenerSets().Lister().List(everything); return })
	list("httproutes", func() (err error) { w.HTTPRoutes, err = v1.HTTPRoutes().Lister().List(everything); return })
	list("grpcroutes", func() (err error) { w.GRPCRoutes, err = v1.GRPCRoutes().Lister().List(everything); return })
	list("tlsroutes", func() (err error) { w.TLSRoutes, err = v1.TLSRoutes().Lister().List(everything); return })
	list("tcproutes", func() (err error) { w.TCPRoutes, err = v1.TCPRoutes().Lister().List(everything); return })
	list("udproutes", func() (err error) { w.UDPRoutes, err = v1.UDPRoutes().Lister().List(everything); return })
	list("referencegrants", func() (err error) { w.Grants, err = v1.ReferenceGrants().Lister().List(everything); return })
	list("backendtlspolicies", func() (err error) { w.Policies, err = v1.BackendTLSPolicies().Lister().List(everything); return })
	return w, errors.Join(errs...)
}
