// SPDX-License-Identifier: Apache-2.0

// Package attachdetach has the volumes of CSI drivers attached to the nodes whose pods use them, and detached again.
//
// It looks at one node at a time. What should be attached are the volumes of the pods that are bound to the node and
// have not ended (needs.go); what is attached are the VolumeAttachments, which the drivers' attachers act upon. A node
// has the last word on detaching: as long as its status says that a volume is in use, the VolumeAttachment stays, unless
// the node is out of service, or not ready for so long that nobody waits for it any more. An attachment that this
// controller did not make, which its name tells, is left alone.
// Reference: https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/volume-attachment-v1/
package attachdetach

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "attachdetach-controller"
	Component = "attachdetach-controller"
)

// maxWait is how long a node that is not ready keeps volumes that no pod needs there.
const maxWait = 6 * time.Minute

// Names of the indexes on VolumeAttachments.
const (
	nodeIndex   = "attachmentNode"
	volumeIndex = "attachmentVolume"
)

type controller struct {
	client      kubernetes.Interface
	events      record.EventRecorder
	pods        cache.Indexer
	nodes       corelisters.NodeLister
	claims      corelisters.PersistentVolumeClaimLister
	volumes     corelisters.PersistentVolumeLister
	drivers     storagelisters.CSIDriverLister
	attachments cache.Indexer
	metrics     *metrics.Attachments

	mu sync.Mutex
	// unneeded says since when attachments are not needed; guarded by mu. A restart begins anew.
	unneeded map[types.UID]time.Time
	// told is what pods were told last about a volume that is not attached, by attachment; guarded by mu.
	told map[string]string
}

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.Attachments) (reconcile.Controller, error) {
	core, storage := factory.Core().V1(), factory.Storage().V1()
	pods, attachments := core.Pods().Informer(), storage.VolumeAttachments().Informer()
	if err := podcontrol.IndexByNode(pods); err != nil {
		return reconcile.Controller{}, err
	}
	if err := podcontrol.IndexByClaim(pods); err != nil {
		return reconcile.Controller{}, err
	}
	if err := attachments.AddIndexers(cache.Indexers{
		nodeIndex:   func(obj any) ([]string, error) { return []string{obj.(*storagev1.VolumeAttachment).Spec.NodeName}, nil },
		volumeIndex: func(obj any) ([]string, error) { return []string{volumeOf(obj.(*storagev1.VolumeAttachment))}, nil },
	}); err != nil {
		return reconcile.Controller{}, fmt.Errorf("index VolumeAttachments: %w", err)
	}
	c := &controller{
		client: client, events: events, pods: pods.GetIndexer(), nodes: core.Nodes().Lister(), claims: core.PersistentVolumeClaims().Lister(),
		volumes: core.PersistentVolumes().Lister(), drivers: storage.CSIDrivers().Lister(), attachments: attachments.GetIndexer(),
		metrics: measured, unneeded: map[types.UID]time.Time{}, told: map[string]string{},
	}
	measured.List = c.list
	return reconcile.Controller{
		Name:      "attachdetach",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.OnAny(pods, c.nodeOfPod),
			reconcile.On(core.Nodes().Informer(), c.nodeChanged),
			reconcile.OnAny(core.PersistentVolumeClaims().Informer(), func(q reconcile.Queue, claim *corev1.PersistentVolumeClaim) {
				c.nodesOfClaim(q, reconcile.KeyOf(claim))
			}),
			reconcile.OnAny(attachments, c.nodesOfAttachment),
			reconcile.OnAny(storage.CSIDrivers().Informer(), c.nodesOfDriver),
		},
		Reads: []cache.SharedIndexInformer{core.PersistentVolumes().Informer()},
	}, nil
}

func nodeKey(name string) types.NamespacedName { return types.NamespacedName{Name: name} }

func (c *controller) nodeOfPod(q reconcile.Queue, pod *corev1.Pod) {
	if pod.Spec.NodeName == "" {
		return
	}
	for range podcontrol.Claims(pod) {
		q.Add(nodeKey(pod.Spec.NodeName))
		return
	}
}

// nodeChanged queues nodes that have attachments and have changed what matters to those.
func (c *controller) nodeChanged(q reconcile.Queue, old, new *corev1.Node) {
	if old != nil && new != nil && slices.Equal(old.Status.VolumesInUse, new.Status.VolumesInUse) &&
		slices.Equal(old.Status.VolumesAttached, new.Status.VolumesAttached) && outOfService(old) == outOfService(new) && ready(old) == ready(new) {
		return
	}
	node := new
	if node == nil {
		node = old
	}
	if keys, _ := c.attachments.IndexKeys(nodeIndex, node.Name); len(keys) > 0 { // the index exists
		q.Add(nodeKey(node.Name))
	}
}

func (c *controller) nodesOfClaim(q reconcile.Queue, claim types.NamespacedName) {
	pods, _ := podcontrol.ByClaim(c.pods, claim) // the index exists
	for _, pod := range pods {
		if pod.Spec.NodeName != "" {
			q.Add(nodeKey(pod.Spec.NodeName))
		}
	}
}

// nodesOfAttachment queues the attachment's node, and those that wait for its volume.
func (c *controller) nodesOfAttachment(q reconcile.Queue, a *storagev1.VolumeAttachment) {
	q.Add(nodeKey(a.Spec.NodeName))
	if pv, err := c.volumes.Get(volumeOf(a)); err == nil && pv.Spec.ClaimRef != nil {
		c.nodesOfClaim(q, types.NamespacedName{Namespace: pv.Spec.ClaimRef.Namespace, Name: pv.Spec.ClaimRef.Name})
	}
}

// nodesOfDriver queues the nodes that have attachments of a driver: it may have become one that needs none.
func (c *controller) nodesOfDriver(q reconcile.Queue, driver *storagev1.CSIDriver) {
	for _, obj := range c.attachments.List() {
		if a := obj.(*storagev1.VolumeAttachment); a.Spec.Attacher == driver.Name {
			q.Add(nodeKey(a.Spec.NodeName))
		}
	}
}

func volumeOf(a *storagev1.VolumeAttachment) string {
	return ptr.Deref(a.Spec.Source.PersistentVolumeName, "")
}

// Reconcile brings the attachments of a node to what its pods need, and its status to what is attached.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	node, err := c.nodes.Get(key.Name)
	if apierrors.IsNotFound(err) {
		node, err = nil, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	needs, err := c.needs(key.Name)
	if err != nil {
		return reconcile.Result{}, err
	}
	have, err := c.have(key.Name)
	if err != nil {
		return reconcile.Result{}, err
	}
	if node != nil {
		for name, n := range needs {
			if err := c.attach(ctx, node.Name, name, n, have[name]); err != nil {
				return reconcile.Result{}, err
			}
		}
	}
	done, wait := c.unneededOf(node, needs, have)
	if len(done) > 0 { // the cache is not believed when it says that nobody has them mounted
		if node, err = c.liveNode(ctx, key.Name); err != nil {
			return reconcile.Result{}, err
		}
		done, wait = c.unneededOf(node, needs, have)
	}
	if node != nil { // before they are detached, so that nobody mounts them
		if err := c.report(ctx, node, needs, have, done); err != nil {
			return reconcile.Result{}, err
		}
	}
	for _, a := range done {
		if err := c.detach(ctx, node, a); err != nil {
			return reconcile.Result{}, err
		}
	}
	return reconcile.Result{RequeueAfter: wait}, nil
}

// liveNode returns the Node as the API has it, or nil if there is none.
func (c *controller) liveNode(ctx context.Context, name string) (*corev1.Node, error) {
	node, err := c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read node: %w", err)
	}
	return node, nil
}

// have returns the attachments to a node, by name.
func (c *controller) have(node string) (map[string]*storagev1.VolumeAttachment, error) {
	objs, err := c.attachments.ByIndex(nodeIndex, node)
	if err != nil {
		return nil, err
	}
	have := map[string]*storagev1.VolumeAttachment{}
	for _, obj := range objs {
		a := obj.(*storagev1.VolumeAttachment)
		have[a.Name] = a
	}
	return have, nil
}

// attach makes the attachment, unless another node has the volume to itself, and tells the pods what goes wrong.
func (c *controller) attach(ctx context.Context, node, name string, n need, have *storagev1.VolumeAttachment) error {
	if have != nil {
		if have.Status.Attached {
			c.forget(name)
		} else if e := have.Status.AttachError; e != nil {
			c.tell(name, n, fmt.Sprintf("AttachVolume.Attach failed for volume %q : %s", n.volume.Name, e.Message))
		}
		return nil
	}
	if other := c.elsewhere(n.volume, node); other != "" {
		c.tell(name, n, fmt.Sprintf("Waiting for detach for volume %q %s", n.volume.Name, c.whoHas(n.volume, other, n.pods[0].Namespace)))
		return nil // the end of the other attachment queues the node again
	}
	_, err := c.client.StorageV1().VolumeAttachments().Create(ctx, &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: storagev1.VolumeAttachmentSpec{
			Attacher: n.volume.Spec.CSI.Driver, NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &n.volume.Name},
		},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		c.tell(name, n, fmt.Sprintf("AttachVolume.Attach failed for volume %q : %v", n.volume.Name, err))
		return fmt.Errorf("attach volume %s: %w", n.volume.Name, err)
	}
	return nil
}

// tell sends an event to the pods that need a volume, unless they know.
func (c *controller) tell(attachment string, n need, message string) {
	c.mu.Lock()
	known := c.told[attachment] == message
	c.told[attachment] = message
	c.mu.Unlock()
	if known {
		return
	}
	for _, pod := range n.pods {
		c.events.Event(pod, corev1.EventTypeWarning, "FailedAttachVolume", message)
	}
}

func (c *controller) forget(attachment string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.told, attachment)
}

// unneededOf returns the attachments that can go, and when to look again for those that cannot yet.
func (c *controller) unneededOf(node *corev1.Node, needs map[string]need, have map[string]*storagev1.VolumeAttachment) (done []*storagev1.VolumeAttachment, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, a := range have {
		source := c.source(a) // none once it is being deleted
		if _, needed := needs[name]; needed || source == nil || name != attachmentName(source, a.Spec.NodeName) {
			delete(c.unneeded, a.UID)
			continue
		}
		since, known := c.unneeded[a.UID]
		if !known {
			since = time.Now()
			c.unneeded[a.UID] = since
		}
		if left := mustWait(node, unique(source), since); left == 0 {
			done = append(done, a)
		} else if left > 0 && (wait == 0 || left < wait) {
			wait = left
		}
	}
	return done, wait
}

// source is what an attachment attaches, if it is known and not on its way out.
func (c *controller) source(a *storagev1.VolumeAttachment) *corev1.CSIPersistentVolumeSource {
	if a.DeletionTimestamp != nil {
		return nil
	}
	pv, err := c.volumes.Get(volumeOf(a))
	if err != nil {
		return nil
	}
	return pv.Spec.CSI
}

// mustWait is how long a volume that is not needed must stay attached: 0 for no longer, less for as long as the node
// says so.
func mustWait(node *corev1.Node, volume corev1.UniqueVolumeName, since time.Time) time.Duration {
	switch {
	case node == nil, outOfService(node), !slices.Contains(node.Status.VolumesInUse, volume):
		return 0
	case ready(node):
		return -1
	}
	return max(time.Until(since.Add(maxWait)), 0)
}

// forced says why a volume was detached from a node that may still use it; empty if it does not.
func (c *controller) forced(node *corev1.Node, a *storagev1.VolumeAttachment) (reason string) {
	source := c.source(a)
	switch {
	case node == nil, source == nil, !slices.Contains(node.Status.VolumesInUse, unique(source)):
		return ""
	case outOfService(node):
		return metrics.DetachedOutOfService
	}
	return metrics.DetachedAfterTimeout
}

func outOfService(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func ready(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// report says in the node's status what is attached to it, and to pods that their volume has come.
func (c *controller) report(ctx context.Context, node *corev1.Node, needs map[string]need, have map[string]*storagev1.VolumeAttachment, done []*storagev1.VolumeAttachment) error {
	attached := []corev1.AttachedVolume{}
	var fresh []need
	for name, a := range have {
		source := c.source(a)
		if source == nil || !a.Status.Attached || slices.Contains(done, a) {
			continue
		}
		v := corev1.AttachedVolume{Name: unique(source)}
		attached = append(attached, v)
		if n, needed := needs[name]; needed && !slices.Contains(node.Status.VolumesAttached, v) {
			fresh = append(fresh, n)
		}
	}
	slices.SortFunc(attached, func(a, b corev1.AttachedVolume) int { return cmp.Compare(a.Name, b.Name) })
	if slices.Equal(attached, node.Status.VolumesAttached) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"volumesAttached": attached}})
	if err == nil {
		_, err = c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	if err != nil {
		return fmt.Errorf("report attached volumes: %w", err)
	}
	for _, n := range fresh {
		for _, pod := range n.pods {
			c.events.Eventf(pod, corev1.EventTypeNormal, "SuccessfulAttachVolume", "AttachVolume.Attach succeeded for volume %q ", n.volume.Name)
		}
	}
	return nil
}

func (c *controller) detach(ctx context.Context, node *corev1.Node, a *storagev1.VolumeAttachment) error {
	err := c.client.StorageV1().VolumeAttachments().Delete(ctx, a.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(a.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("detach volume %s: %w", volumeOf(a), err)
	}
	if reason := c.forced(node, a); reason != "" && err == nil {
		c.metrics.Forced.WithLabelValues(reason).Inc()
	}
	c.forget(a.Name)
	return nil
}
