// SPDX-License-Identifier: Apache-2.0

package resourceclaim

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// fieldManager owns the names of claims in pods' statuses.
const fieldManager = "ResourceClaimController"

// generator makes claims for pods.
type generator struct {
	client    kubernetes.Interface
	events    record.EventRecorder
	claims    resourcelisters.ResourceClaimLister
	templates resourcelisters.ResourceClaimTemplateLister
	pods      corelisters.PodLister
	users     cache.Indexer // the same pods, by claimIndex
}

// claimIndex finds the pods that use a claim.
const claimIndex = "podResourceClaim"

// NewForPods returns the controller that gives pods the claims that they have templates for.
func NewForPods(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder) (reconcile.Controller, error) {
	claims, templates, pods := factory.Resource().V1().ResourceClaims(), factory.Resource().V1().ResourceClaimTemplates(), factory.Core().V1().Pods()
	if err := reconcile.AddIndex(pods.Informer(), claimIndex, func(obj any) ([]string, error) {
		pod, _ := obj.(*corev1.Pod)
		var keys []string
		for name := range resourceclaim.PodClaims(pod) {
			keys = append(keys, pod.Namespace+"/"+name)
		}
		return keys, nil
	}); err != nil {
		return reconcile.Controller{}, err
	}
	g := &generator{
		client: client, events: events, claims: claims.Lister(), templates: templates.Lister(), pods: pods.Lister(), users: pods.Informer().GetIndexer(),
	}
	return reconcile.Controller{
		Name:      "resource_claim_pods",
		Reconcile: g.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.OnAny(pods.Informer(), func(q reconcile.Queue, pod *corev1.Pod) {
				if len(pod.Spec.ResourceClaims) > 0 && !done(pod) {
					q.Add(reconcile.KeyOf(pod))
				}
			}),
			reconcile.On(claims.Informer(), g.claimChanged),
			reconcile.On(templates.Informer(), g.templateChanged),
		},
	}, nil
}

// claimChanged queues the pod of a claim that is gone, which may have to be made again, and pods that a claim may now be reserved for.
func (g *generator) claimChanged(q reconcile.Queue, old, now *resourcev1.ResourceClaim) {
	if now == nil {
		if owner := metav1.GetControllerOf(old); owner != nil && owner.Kind == "Pod" {
			q.Add(types.NamespacedName{Namespace: old.Namespace, Name: owner.Name})
		}
		return
	}
	pods, _ := reconcile.ByIndex[*corev1.Pod](g.users, claimIndex, reconcile.KeyOf(now).String()) // the index exists
	for _, pod := range pods {
		if lacks(pod, now) {
			q.Add(reconcile.KeyOf(pod))
		}
	}
}

// lacks tells whether the claim can and must be reserved for a pod that is on its node already.
func lacks(pod *corev1.Pod, claim *resourcev1.ResourceClaim) bool {
	return pod.Spec.NodeName != "" && claim.Status.Allocation != nil && !resourceclaim.IsReservedForPod(pod, claim, false) && resourceclaim.CanBeReserved(claim)
}

// templateChanged queues the pods that wait for a template that is new.
func (g *generator) templateChanged(q reconcile.Queue, old, now *resourcev1.ResourceClaimTemplate) {
	if old != nil {
		return
	}
	pods, _ := g.pods.Pods(now.Namespace).List(labels.Everything()) // reads memory; does not fail
	for _, pod := range pods {
		if slices.ContainsFunc(pod.Spec.ResourceClaims, func(r corev1.PodResourceClaim) bool {
			return r.ResourceClaimTemplateName != nil && *r.ResourceClaimTemplateName == now.Name
		}) {
			q.Add(reconcile.KeyOf(pod))
		}
	}
}

// Reconcile makes the claims of a pod that are missing, writes down their names, and reserves them if the pod has its node already.
func (g *generator) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	pod, err := g.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil || pod.DeletionTimestamp != nil || done(pod) {
		return reconcile.Result{}, err
	}
	made := make(map[string]string)
	for i := range pod.Spec.ResourceClaims {
		ref := &pod.Spec.ResourceClaims[i]
		name, err := g.ensure(ctx, pod, ref)
		if err != nil {
			err = fmt.Errorf("PodResourceClaim %s: %w", ref.Name, err)
			g.events.Event(pod, corev1.EventTypeWarning, "FailedResourceClaimCreation", err.Error())
			return reconcile.Result{}, err
		}
		if name != "" {
			made[ref.Name] = name
		}
	}
	if err := g.record(ctx, pod, made); err != nil || pod.Spec.NodeName == "" || len(made) > 0 {
		return reconcile.Result{}, err // the update of the status queues the pod again
	}
	return reconcile.Result{}, g.reserve(ctx, pod)
}

// ensure returns the name of a claim that is to be written down; "" if there is none.
func (g *generator) ensure(ctx context.Context, pod *corev1.Pod, ref *corev1.PodResourceClaim) (string, error) {
	if ref.ResourceClaimTemplateName == nil {
		return "", nil
	}
	switch name, _, err := resourceclaim.Name(pod, ref); {
	case errors.Is(err, resourceclaim.ErrClaimNotFound):
	case err != nil:
		return "", err
	case name == nil:
		return "", nil // not needed, says who looks after the template
	default:
		if claim, err := g.claims.ResourceClaims(pod.Namespace).Get(*name); err == nil && metav1.IsControlledBy(claim, pod) {
			return "", nil
		}
	}
	if name := g.made(pod, ref); name != "" {
		return name, nil
	}
	template, err := g.templates.ResourceClaimTemplates(pod.Namespace).Get(*ref.ResourceClaimTemplateName)
	if err != nil {
		return "", fmt.Errorf("resource claim template %q: %w", *ref.ResourceClaimTemplateName, err)
	}
	claim := newClaim(pod, ref, template)
	api := g.client.ResourceV1().ResourceClaims(pod.Namespace)
	_, err = api.Create(ctx, claim, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		have, getErr := api.Get(ctx, claim.Name, metav1.GetOptions{})
		if getErr == nil && metav1.IsControlledBy(have, pod) {
			err = nil // made by us, before we could write it down
		}
	}
	metrics.ClaimCreated(claim, err)
	if err != nil {
		return "", fmt.Errorf("create ResourceClaim %s: %w", claim.Name, err)
	}
	return claim.Name, nil
}

// made returns the name of a claim that was made for the pod before, and not written down yet.
func (g *generator) made(pod *corev1.Pod, ref *corev1.PodResourceClaim) string {
	all, _ := g.claims.ResourceClaims(pod.Namespace).List(labels.Everything()) // reads memory; does not fail
	for _, claim := range all {
		if metav1.IsControlledBy(claim, pod) && claim.Annotations[resourcev1.PodResourceClaimAnnotation] == ref.Name && claim.DeletionTimestamp == nil {
			return claim.Name
		}
	}
	return ""
}

// newClaim is the claim that a template makes for a pod. The same pod always gets the same name, which looks like a generated one, so that
// no pod is ever given two.
func newClaim(pod *corev1.Pod, ref *corev1.PodResourceClaim, template *resourcev1.ResourceClaimTemplate) *resourcev1.ResourceClaim {
	annotations := maps.Clone(template.Spec.Annotations)
	if annotations == nil {
		annotations = make(map[string]string, 1)
	}
	annotations[resourcev1.PodResourceClaimAnnotation] = ref.Name
	prefix := namePrefix(pod.Name, ref.Name)
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Name: prefix + suffix(pod.UID, ref.Name), GenerateName: prefix,
			Labels: maps.Clone(template.Spec.Labels), Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: *template.Spec.Spec.DeepCopy(),
	}
}

// maxPrefix leaves room for the suffix in a name of 63 characters.
const maxPrefix = 57

// namePrefix shortens both names alike if they are too long together.
func namePrefix(pod, claim string) string {
	prefix := pod + "-" + claim + "-"
	if n := len(prefix); n > maxPrefix {
		return pod[:len(pod)*maxPrefix/n] + "-" + claim[:len(claim)*maxPrefix/n]
	}
	return prefix
}

func suffix(pod types.UID, claim string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(string(pod) + "/" + claim)) // never fails
	return rand.SafeEncodeString(fmt.Sprintf("%05x", h.Sum64()&0xfffff))
}

// record writes the names of the claims into the pod's status.
func (g *generator) record(ctx context.Context, pod *corev1.Pod, made map[string]string) error {
	if len(made) == 0 {
		return nil
	}
	for _, s := range pod.Status.ResourceClaimStatuses {
		if _, again := made[s.Name]; !again && s.ResourceClaimName != nil {
			made[s.Name] = *s.ResourceClaimName
		}
	}
	status := applycorev1.PodStatus()
	for _, name := range slices.Sorted(maps.Keys(made)) {
		status.WithResourceClaimStatuses(applycorev1.PodResourceClaimStatus().WithName(name).WithResourceClaimName(made[name]))
	}
	apply := applycorev1.Pod(pod.Name, pod.Namespace).WithUID(pod.UID).WithStatus(status)
	_, err := g.client.CoreV1().Pods(pod.Namespace).ApplyStatus(ctx, apply, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("write the names of the pod's claims: %w", err)
	}
	return nil
}

// reserve reserves allocated claims for a pod that came to its node without a scheduler.
func (g *generator) reserve(ctx context.Context, pod *corev1.Pod) error {
	for i := range pod.Spec.ResourceClaims {
		name, mustOwn, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil || name == nil {
			continue
		}
		claim, err := g.claims.ResourceClaims(pod.Namespace).Get(*name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil && mustOwn {
			err = resourceclaim.IsForPod(pod, claim, false)
		}
		if err != nil {
			return err
		}
		if !lacks(pod, claim) {
			continue
		}
		next := claim.DeepCopy()
		next.Status.ReservedFor = append(next.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
		if _, err := g.client.ResourceV1().ResourceClaims(pod.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("reserve ResourceClaim %s: %w", *name, err)
		}
	}
	return nil
}
