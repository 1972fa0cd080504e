// SPDX-License-Identifier: Apache-2.0

// Package nodettl annotates nodes with how long their kubelets may believe their copies of Secrets and ConfigMaps: the
// longer, the more nodes there are. A kubelet that watches them needs it not.
//
// The steps overlap, so that a cluster at a boundary does not write all its nodes anew with each that comes and goes.
package nodettl

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity.
const Name = "ttl-controller"

// steps are the time to live in seconds by the number of nodes; a step is left when the number is out of its range.
var steps = []struct{ min, max, seconds int }{
	{0, 100, 0},
	{90, 500, 15},
	{450, 1000, 30},
	{900, 2000, 60},
	{1800, math.MaxInt, 300},
}

type controller struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister

	mu   sync.Mutex
	step int // guarded by mu
}

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory) reconcile.Controller {
	nodes := factory.Core().V1().Nodes()
	c := &controller{client: client, nodes: nodes.Lister()}
	return reconcile.Controller{
		Name:      "ttlcontroller",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			// Each heartbeat of a node is a look at it, so all learn of a new step soon.
			reconcile.On(nodes.Informer(), func(q reconcile.Queue, _, new *corev1.Node) {
				if new != nil && new.Annotations[corev1.ObjectTTLAnnotationKey] != c.current() {
					q.Add(reconcile.KeyOf(new))
				}
			}),
		},
	}
}

// current returns the time to live of now.
func (c *controller) current() string {
	all, err := c.nodes.List(labels.Everything())
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.step = stepFor(len(all), c.step)
	}
	return strconv.Itoa(steps[c.step].seconds)
}

// stepFor returns the step for n nodes if it was that one before.
func stepFor(n, step int) int {
	for n > steps[step].max {
		step++
	}
	for n < steps[step].min {
		step--
	}
	return step
}

// Reconcile annotates a node.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	node, err := c.nodes.Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	ttl := c.current()
	if node.Annotations[corev1.ObjectTTLAnnotationKey] == ttl {
		return reconcile.Result{}, nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{corev1.ObjectTTLAnnotationKey: ttl}}})
	if err != nil {
		return reconcile.Result{}, err
	}
	_, err = c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("annotate node %s: %w", node.Name, err)
	}
	return reconcile.Result{}, nil
}
