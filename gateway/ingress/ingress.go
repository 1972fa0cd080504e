// SPDX-License-Identifier: Apache-2.0

// Package ingress serves networking/v1 Ingresses: it makes a table of them for the data plane, and tells each of them at which
// addresses it is served.
//
// Ingresses are ours whose class names our controller (class.go). translate.go makes the table, without I/O; certificates.go
// has what belongs to TLS, status.go what is written. Requests go to pods, not through Service addresses.
//
// Every server of a cluster runs a Controller, for its own node: it listens on the node's ports 80 and, once an Ingress asks for
// TLS, 443, and adds the node's addresses to the status. Where a port cannot be had an event says why. Secrets are
// read one by one, those that Ingresses name. There are no annotations that change what is served.
//
// Reference: https://kubernetes.io/docs/concepts/services-networking/ingress/
package ingress

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/gateway/table"
	"github.com/skiff-k8s/skiff/kubelet/objects"
)

// Name is the controller's identity, the source of its events, and whose table it gives to the data plane.
const Name = "ingress-controller"

// DataPlane serves tables. Package proxy has the one.
type DataPlane interface {
	// Set replaces what is served for an owner, and returns the sockets that could not be opened.
	Set(owner string, t *table.Table) map[netip.AddrPort]error
	// Listens says whether a port of this machine is open.
	Listens(port uint16) bool
}

// Config is what a Controller works with.
type Config struct {
	NodeName  string // whose addresses Ingresses get
	HTTP      netip.AddrPort
	HTTPS     netip.AddrPort
	Client    kubernetes.Interface // for the status of Ingresses and for events
	Secrets   kubernetes.Interface // reads single Secrets
	Informers informers.SharedInformerFactory
	DataPlane DataPlane
}

// Controller serves Ingresses on one node.
type Controller struct {
	cfg       Config
	ingresses networkinglisters.IngressLister
	classes   networkinglisters.IngressClassLister
	services  corelisters.ServiceLister
	slices    discoverylisters.EndpointSliceLister
	nodes     corelisters.NodeLister
	secrets   *objects.Cache
	wake      chan struct{} // capacity 1: a Secret has changed

	used atomic.Pointer[map[types.NamespacedName]bool] // Services that the table is made of; nil without Ingresses

	// What follows belongs to Reconcile, which runs once at a time.
	events record.EventRecorder
	memo   *memo
	told   map[types.UID]string // the problems of an Ingress that events have told
	logged string               // the problems with ports that the log has told
}

// New builds a Controller. It serves nothing before Run, and asks for informers that have to be started.
func New(cfg Config) *Controller {
	networking, core := cfg.Informers.Networking().V1(), cfg.Informers.Core().V1()
	c := &Controller{
		cfg:       cfg,
		ingresses: networking.Ingresses().Lister(),
		classes:   networking.IngressClasses().Lister(),
		services:  core.Services().Lister(),
		slices:    cfg.Informers.Discovery().V1().EndpointSlices().Lister(),
		nodes:     core.Nodes().Lister(),
		wake:      make(chan struct{}, 1),
		memo:      newMemo(),
		told:      map[types.UID]string{},
	}
	c.secrets = objects.New(cfg.Secrets, func(types.UID) {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	})
	return c
}

// all is the one key: whom a host and path belong to depends on all Ingresses.
var all = types.NamespacedName{Name: "all"}

// Run serves until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	defer c.cfg.DataPlane.Set(Name, nil)
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.cfg.Client.CoreV1().Events("")})
	c.events = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: Name, Host: c.cfg.NodeName})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.secrets.Run(ctx) })
	group.Go(func() error {
		return (&reconcile.Runner{Controllers: []reconcile.Controller{c.controller()}}).Run(ctx)
	})
	return group.Wait()
}

func (c *Controller) controller() reconcile.Controller {
	networking, core := c.cfg.Informers.Networking().V1(), c.cfg.Informers.Core().V1()
	return reconcile.Controller{
		Name: "ingress", Reconcile: c.Reconcile, Workers: 1, MaxBackoff: time.Minute, Loop: c.followSecrets,
		Watches: []reconcile.Watch{
			reconcile.On(networking.Ingresses().Informer(), func(q reconcile.Queue, old, new *networkingv1.Ingress) {
				if c.isOurs(old) || c.isOurs(new) {
					q.Add(all)
				}
			}),
			reconcile.OnAny(networking.IngressClasses().Informer(), func(q reconcile.Queue, class *networkingv1.IngressClass) {
				if class.Spec.Controller == ControllerName {
					q.Add(all)
				}
			}),
			reconcile.OnAny(core.Services().Informer(), func(q reconcile.Queue, svc *corev1.Service) {
				if c.uses(svc.Namespace, svc.Name) || c.used.Load() != nil && c.isBalanced(svc) {
					q.Add(all)
				}
			}),
			reconcile.OnAny(c.cfg.Informers.Discovery().V1().EndpointSlices().Informer(), func(q reconcile.Queue, slice *discoveryv1.EndpointSlice) {
				if c.uses(slice.Namespace, slice.Labels[discoveryv1.LabelServiceName]) {
					q.Add(all)
				}
			}),
			reconcile.On(core.Nodes().Informer(), func(q reconcile.Queue, old, new *corev1.Node) {
				if c.used.Load() != nil && (old == nil || new == nil || describe(old) != describe(new)) {
					q.Add(all)
				}
			}),
		},
	}
}

// followSecrets wakes Reconcile when a Secret has changed.
func (c *Controller) followSecrets(ctx context.Context, q reconcile.Queue) error {
	for {
		select {
		case <-c.wake:
			q.Add(all)
		case <-ctx.Done():
			return nil
		}
	}
}

// uses says whether the table is made of a Service.
func (c *Controller) uses(namespace, name string) bool {
	used := c.used.Load()
	return used != nil && (*used)[types.NamespacedName{Namespace: namespace, Name: name}]
}

// isBalanced says whether a Service may take one of our ports away, or give it back.
func (c *Controller) isBalanced(svc *corev1.Service) bool {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return false
	}
	for _, p := range svc.Spec.Ports {
		if p.Port == int32(c.cfg.HTTP.Port()) || p.Port == int32(c.cfg.HTTPS.Port()) {
			return true
		}
	}
	return false
}

// Reconcile makes a table of all Ingresses, serves it and says so.
func (c *Controller) Reconcile(ctx context.Context, _ types.NamespacedName) (reconcile.Result, error) {
	ingresses, err := c.ours()
	if err != nil {
		return reconcile.Result{}, err
	}
	if len(ingresses) == 0 {
		c.used.Store(nil)
		c.follow(nil)
		c.memo, c.told = newMemo(), map[types.UID]string{}
		c.cfg.DataPlane.Set(Name, nil)
		return reconcile.Result{}, nil
	}
	c.follow(ingresses)
	used := c.memo.prepare(ingresses)
	c.used.Store(&used) // before anything is looked at: what changes from here on calls us again
	holders, err := c.holders()
	if err != nil {
		return reconcile.Result{}, err
	}
	again := false // nobody tells when a port is free, or a Secret can be read
	r := translate(world{
		ingresses: ingresses, http: c.cfg.HTTP, https: c.cfg.HTTPS, taken: holders,
		service: c.services.Services, slices: c.slices.EndpointSlices,
		secret: func(namespace, name string) (*corev1.Secret, error) {
			secret, err := c.secrets.Secret(ctx, namespace, name)
			again = again || err != nil && !apierrors.IsNotFound(err)
			return secret, err
		},
	}, c.memo)
	failed := c.cfg.DataPlane.Set(Name, r.table)
	again = again || len(failed) > 0
	c.log(ctx, failed)
	own, others, err := c.addresses()
	if err != nil {
		return reconcile.Result{}, err
	}
	var errs []error
	told := map[types.UID]string{}
	for _, in := range ingresses {
		ports := portProblems(in, holders, failed, c.cfg)
		told[in.UID] = c.tell(in, append(ports, r.problems[in.UID]...))
		served := len(ports) < wantedPorts(in)
		errs = append(errs, c.writeStatus(ctx, in, points(in.Status.LoadBalancer.Ingress, own, others, served)))
	}
	c.told = told
	result := reconcile.Result{}
	if again {
		result.RequeueAfter = 10 * time.Second
	}
	return result, errors.Join(errs...)
}

// log tells whoever looks after the machine that somebody else has a port.
func (c *Controller) log(ctx context.Context, failed map[netip.AddrPort]error) {
	text := fmt.Sprint(failed)
	if len(failed) > 0 && text != c.logged {
		klog.FromContext(ctx).Info("Ingresses are not served on all ports (stop what listens there, or set --ingress-http-port and --ingress-https-port)", "errors", text)
	}
	c.logged = text
}

// follow watches the Secrets that Ingresses name, and no others.
func (c *Controller) follow(ingresses []*networkingv1.Ingress) {
	var refs []objects.Ref
	for _, in := range ingresses {
		for _, t := range in.Spec.TLS {
			if t.SecretName != "" {
				refs = append(refs, objects.Ref{Kind: "Secret", NamespacedName: types.NamespacedName{Namespace: in.Namespace, Name: t.SecretName}})
			}
		}
	}
	c.secrets.RegisterRefs(Name, refs...)
}

// tell makes events of an Ingress's problems when they are others than before. It returns what to compare the next ones with.
func (c *Controller) tell(in *networkingv1.Ingress, problems []problem) string {
	var text strings.Builder
	for _, p := range problems {
		text.WriteString(p.reason + p.message + "\n")
	}
	if c.told[in.UID] != text.String() {
		for _, p := range problems {
			c.events.Event(in, corev1.EventTypeWarning, p.reason, p.message)
		}
	}
	return text.String()
}

// Holds tells whether a port of this node is for Ingresses. If they are not served there yet, as after a restart, who had it keeps
// it, by what the status of Ingresses and Services says. Until that is known nobody else may have it.
func (c *Controller) Holds(port uint16) bool {
	if port != c.cfg.HTTP.Port() && port != c.cfg.HTTPS.Port() {
		return false
	}
	if c.cfg.DataPlane.Listens(port) || !c.synced() {
		return true
	}
	holders, err := c.holders()
	if err != nil || holders[port] != "" {
		return false
	}
	ingresses, err := c.ours()
	if err != nil {
		return false
	}
	own, _, err := c.addresses()
	return err == nil && slices.ContainsFunc(ingresses, func(in *networkingv1.Ingress) bool {
		return (port == c.cfg.HTTP.Port() || len(in.Spec.TLS) > 0) && isAt(in, own)
	})
}

// synced tells whether all that Holds looks at is known.
func (c *Controller) synced() bool {
	networking, core := c.cfg.Informers.Networking().V1(), c.cfg.Informers.Core().V1()
	return networking.Ingresses().Informer().HasSynced() && networking.IngressClasses().Informer().HasSynced() &&
		core.Services().Informer().HasSynced() && core.Nodes().Informer().HasSynced()
}

// holders returns which of our ports the Service proxy of this node sends to a Service, and its name. What we listen at is ours: such a
// Service came later, and loses its address again.
func (c *Controller) holders() (map[uint16]string, error) {
	services, err := c.services.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	addresses, _, err := c.addresses()
	if err != nil {
		return nil, err
	}
	own := map[string]bool{}
	for _, ip := range addresses {
		own[ip.String()] = true
	}
	holders := map[uint16]string{}
	for _, svc := range services {
		if !c.isBalanced(svc) {
			continue
		}
		for _, at := range svc.Status.LoadBalancer.Ingress {
			for _, p := range svc.Spec.Ports {
				if own[at.IP] && p.Protocol != corev1.ProtocolUDP && !c.cfg.DataPlane.Listens(uint16(p.Port)) {
					holders[uint16(p.Port)] = svc.Namespace + "/" + svc.Name
				}
			}
		}
	}
	return holders, nil
}

// wantedPorts is how many ports an Ingress is served on.
func wantedPorts(in *networkingv1.Ingress) int { return 1 + min(1, len(in.Spec.TLS)) }

// portProblems returns why an Ingress is not served on one of its ports.
func portProblems(in *networkingv1.Ingress, holders map[uint16]string, failed map[netip.AddrPort]error, cfg Config) []problem {
	var problems []problem
	for _, at := range []netip.AddrPort{cfg.HTTP, cfg.HTTPS}[:wantedPorts(in)] {
		if holder := holders[at.Port()]; holder != "" {
			problems = append(problems, problem{"PortUnavailable", fmt.Sprintf("port %d of node %s belongs to Service %s", at.Port(), cfg.NodeName, holder)})
		} else if err := failed[at]; err != nil {
			problems = append(problems, problem{"PortUnavailable", fmt.Sprintf("on node %s: %v", cfg.NodeName, err)})
		}
	}
	return problems
}
