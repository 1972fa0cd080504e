// SPDX-License-Identifier: Apache-2.0

// Package daemonset runs one pod on each node that a DaemonSet is for.
//
// The controller decides which nodes these are (placement.go) and makes a pod for each, which only that node
// satisfies; binding it is the scheduler's part. What pods are to be created and deleted is decided without I/O:
// manage.go for nodes that have too many or too few, update.go for a new template. The templates are kept as
// ControllerRevisions: revisions.go.
// Reference: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/
package daemonset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/controllers/history"
	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/owner"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "daemon-set-controller"
	Component = "daemonset-controller"
)

// burst bounds how many pods one call of Reconcile creates or deletes.
const burst = 250

// A pod that failed is deleted, so that another takes its place: at once, and each time it happens again on that
// node twice as much later, up to maxDelay.
const (
	firstDelay = time.Second
	maxDelay   = 15 * time.Minute
)

var kind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

type controller struct {
	client       kubernetes.Interface
	events       record.EventRecorder
	control      *podcontrol.Control
	sets         appslisters.DaemonSetLister
	nodes        corelisters.NodeLister
	pods         cache.Indexer
	history      *history.Store
	expectations *reconcile.Expectations // by UID of the DaemonSet
	backoff      *flowcontrol.Backoff    // of deleting failed pods: see backoffKey
	metrics      *metrics.Daemons
}

// New returns the controller of DaemonSets.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.Daemons) (reconcile.Controller, error) {
	pods := factory.Core().V1().Pods().Informer()
	if err := owner.Index(pods); err != nil {
		return reconcile.Controller{}, err
	}
	revisions, err := history.New(client, factory, kind)
	if err != nil {
		return reconcile.Controller{}, err
	}
	sets, nodes := factory.Apps().V1().DaemonSets(), factory.Core().V1().Nodes()
	c := &controller{
		client:       client,
		events:       events,
		control:      &podcontrol.Control{Client: client, Events: events},
		sets:         sets.Lister(),
		nodes:        nodes.Lister(),
		pods:         pods.GetIndexer(),
		history:      revisions,
		expectations: reconcile.NewExpectations(),
		backoff:      flowcontrol.NewBackOff(firstDelay, maxDelay),
		metrics:      measured,
	}
	adopters := owner.Adopters[*appsv1.DaemonSet]{
		In: func(namespace string) ([]*appsv1.DaemonSet, error) {
			return c.sets.DaemonSets(namespace).List(labels.Everything())
		},
		Selector: func(set *appsv1.DaemonSet) *metav1.LabelSelector { return set.Spec.Selector },
	}
	revisionInformer := factory.Apps().V1().ControllerRevisions().Informer()
	return reconcile.Controller{
		Name:      "daemonset",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(sets.Informer(), c.setChanged),
			reconcile.On(pods, c.observe), // before the next, which queues
			reconcile.OnOwned[*corev1.Pod](pods, kind),
			owner.OnOrphans[*corev1.Pod](pods, adopters),
			reconcile.On(nodes.Informer(), c.nodeChanged),
			// A new revision of its own is no news: the DaemonSet has made it.
			reconcile.OnOwnedButNew[*appsv1.ControllerRevision](revisionInformer, kind),
			owner.OnOrphans[*appsv1.ControllerRevision](revisionInformer, adopters),
		},
	}, nil
}

func (c *controller) setChanged(q reconcile.Queue, old, new *appsv1.DaemonSet) {
	if new == nil {
		c.expectations.Forget(old.UID)
		return
	}
	q.Add(reconcile.KeyOf(new))
}

// observe settles what a DaemonSet expected to see of its pods.
func (c *controller) observe(_ reconcile.Queue, old, new *corev1.Pod) {
	pod := cmp.Or(new, old)
	ref := metav1.GetControllerOfNoCopy(pod)
	switch {
	case ref == nil:
	case new == nil || new.DeletionTimestamp != nil:
		c.expectations.Deleted(ref.UID, reconcile.KeyOf(pod))
	case old == nil:
		c.expectations.Created(ref.UID)
	}
}

// nodeChanged queues all DaemonSets if they may be for other nodes than before.
func (c *controller) nodeChanged(q reconcile.Queue, old, new *corev1.Node) {
	if old != nil && new != nil && maps.Equal(old.Labels, new.Labels) && apiequality.Semantic.DeepEqual(old.Spec.Taints, new.Spec.Taints) {
		return
	}
	sets, err := c.sets.List(labels.Everything())
	if err != nil {
		return
	}
	for _, set := range sets {
		q.Add(reconcile.KeyOf(set))
	}
}

// Reconcile creates and deletes pods, unless earlier creations and deletions are still to be seen, and writes the status.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	cached, err := c.sets.DaemonSets(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	if cached.DeletionTimestamp != nil { // its revisions may be gone already: nothing can be said about its pods
		return reconcile.Result{}, nil
	}
	set := cached.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	switch {
	case err != nil:
		klog.FromContext(ctx).Error(err, "Invalid selector")
		return reconcile.Result{}, nil // an update queues it again
	case selector.Empty():
		c.events.Event(set, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return reconcile.Result{}, nil
	}

	satisfied := c.expectations.Satisfied(set.UID) // asked before the pods are listed
	if !satisfied {
		c.metrics.Skips.OfPods()
	}
	s, err := c.newState(ctx, set, selector)
	if err != nil {
		return reconcile.Result{}, err
	}
	if satisfied {
		err = s.step(ctx)
	}
	if err := errors.Join(err, s.writeStatus(ctx, satisfied)); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: s.nextLook()}, nil
}

// state is what is known of one DaemonSet in one call of Reconcile.
type state struct {
	*controller
	set       *appsv1.DaemonSet
	now       time.Time
	nodes     []*corev1.Node
	placement *placement
	hash      string // of the template: the value of a label of its pods
	old       []*appsv1.ControllerRevision

	pods   []*corev1.Pod            // all
	byNode map[string][]*corev1.Pod // by the node they are on or for, without those that have ended and are deleted; oldest first
	again  time.Duration            // when to look again at pods that failed; 0 if there are none
}

func (c *controller) newState(ctx context.Context, set *appsv1.DaemonSet, selector labels.Selector) (*state, error) {
	live := func(ctx context.Context) (metav1.Object, error) {
		return c.client.AppsV1().DaemonSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	pods, err := c.claim(ctx, set, selector, live)
	if err != nil {
		return nil, err
	}
	s := c.stateOf(set, nodes, pods, time.Now())
	if err := s.resolveRevisions(ctx, selector, live); err != nil {
		return nil, fmt.Errorf("construct revisions of DaemonSet: %w", err)
	}
	return s, nil
}

// stateOf is newState without I/O, and without revisions.
func (c *controller) stateOf(set *appsv1.DaemonSet, nodes []*corev1.Node, pods []*corev1.Pod, now time.Time) *state {
	s := &state{controller: c, set: set, now: now, nodes: nodes, pods: pods, placement: newPlacement(set), byNode: map[string][]*corev1.Pod{}}
	slices.SortFunc(nodes, func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	for _, pod := range pods {
		if podcontrol.Terminal(pod) && pod.DeletionTimestamp != nil {
			continue // nothing to do about it
		}
		if node := nodeOf(pod); node != "" {
			s.byNode[node] = append(s.byNode[node], pod)
		}
	}
	for _, pods := range s.byNode {
		slices.SortFunc(pods, func(a, b *corev1.Pod) int {
			return cmp.Or(boundFirst(a, b), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
		})
	}
	return s
}

func boundFirst(a, b *corev1.Pod) int {
	switch boundA, boundB := a.Spec.NodeName != "", b.Spec.NodeName != ""; {
	case boundA == boundB:
		return 0
	case boundA:
		return -1
	}
	return 1
}

func (c *controller) claim(ctx context.Context, set *appsv1.DaemonSet, selector labels.Selector, live func(context.Context) (metav1.Object, error)) ([]*corev1.Pod, error) {
	candidates, err := owner.Candidates[*corev1.Pod](c.pods, set)
	if err != nil {
		return nil, err
	}
	claimer := owner.Claimer[*corev1.Pod]{Owner: set, Kind: kind, Selector: selector, Live: live, Patch: c.control.Patch}
	return claimer.Claim(ctx, candidates)
}

// step makes the pods right. Pods are updated only where all else is right.
func (s *state) step(ctx context.Context) error {
	p := s.manage()
	if p.empty() && s.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		var err error
		if p, err = s.update(); err != nil {
			return err
		}
	}
	if err := s.do(ctx, p); err != nil {
		return err
	}
	return s.forgetRevisions(ctx)
}

// plan is what to do: nodes to create pods for, and pods to delete.
type plan struct {
	create []string
	delete []*corev1.Pod
}

func (p *plan) empty() bool { return len(p.create)+len(p.delete) == 0 }

// do creates and deletes pods.
func (s *state) do(ctx context.Context, p plan) error {
	create, doomed := p.create[:min(len(p.create), burst)], p.delete[:min(len(p.delete), burst)]
	keys := make([]types.NamespacedName, len(doomed))
	for i, pod := range doomed {
		keys[i] = reconcile.KeyOf(pod)
	}
	s.expectations.Expect(s.set.UID, len(create), keys...)

	created, createErr := podcontrol.SlowStart(len(create), func(i int) error {
		_, err := s.control.Create(ctx, s.set, s.newPod(create[i]))
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // cannot work and need not: the DaemonSet goes as well
		}
		return err
	})
	for range len(create) - created {
		s.expectations.Created(s.set.UID)
	}
	errs := podcontrol.ForEach(doomed, func(pod *corev1.Pod) error {
		err := s.control.Delete(ctx, s.set, pod)
		if err != nil {
			s.expectations.Deleted(s.set.UID, reconcile.KeyOf(pod)) // nothing to wait for
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	return errors.Join(append(errs, createErr)...)
}

// nextLook is when a pod becomes available, or one that failed may be deleted, or no event is waited for any more.
func (s *state) nextLook() time.Duration {
	next := podcontrol.NextAvailable(s.pods, s.set.Spec.MinReadySeconds, s.now)
	return reconcile.Earlier(reconcile.Earlier(next, s.again), s.expectations.Left(s.set.UID))
}
