// SPDX-License-Identifier: Apache-2.0

// Package node decides what kubelets may do: read what the pods on their own node need, and write
// what is about that node.
//
// A kubelet may read a Secret, ConfigMap, claim or volume only if a pod on its node refers to it.
// There is no graph of such relations in memory; the pods of one node are few, so each question
// looks through them, by an index on the shared Pod informer. What a rule cannot see in a
// request (the contents of a create) the admission plugin NodeRestriction checks.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/node/
package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/apiserver/authz/rbac"
)

const userPrefix = "system:node:"

// Name is the node that the user is; empty if it is some node, but does not say which.
func Name(u user.Info) (name string, isNode bool) {
	if u == nil || !slices.Contains(u.GetGroups(), user.NodesGroup) || !strings.HasPrefix(u.GetName(), userPrefix) {
		return "", false
	}
	return strings.TrimPrefix(u.GetName(), userPrefix), true
}

// podsByNode is the index of this package on the shared Pod informer.
const podsByNode = "authz/node"

// Authorizer has an opinion on kubelets only.
type Authorizer struct {
	client  kubernetes.Interface
	rules   []rbacv1.PolicyRule
	pods    cache.Indexer
	volumes corelisters.PersistentVolumeLister
}

var (
	_ authorizer.Authorizer   = (*Authorizer)(nil)
	_ authorizer.RuleResolver = (*Authorizer)(nil)
)

// New allows nodes what rules allow (those of the ClusterRole system:node), except for resources of
// which a node may see only its own. It must be called before the informers start.
func New(factory informers.SharedInformerFactory, client kubernetes.Interface, rules []rbacv1.PolicyRule) (*Authorizer, error) {
	pods := factory.Core().V1().Pods().Informer()
	err := pods.AddIndexers(cache.Indexers{podsByNode: func(obj any) ([]string, error) {
		if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
			return []string{pod.Spec.NodeName}, nil
		}
		return nil, nil
	}})
	if err != nil {
		return nil, fmt.Errorf("index pods by node: %w", err)
	}
	return &Authorizer{
		client:  client,
		rules:   rules,
		pods:    pods.GetIndexer(),
		volumes: factory.Core().V1().PersistentVolumes().Lister(),
	}, nil
}

// ConditionsAwareAuthorize is Authorize: there are no conditions.
func (a *Authorizer) ConditionsAwareAuthorize(ctx context.Context, attrs authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(a.Authorize(ctx, attrs))
}

// EvaluateConditions is never asked for.
func (a *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// RulesFor cannot list what a node may do.
func (a *Authorizer) RulesFor(_ context.Context, u user.Info, _ string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	if _, isNode := Name(u); isNode {
		return nil, nil, true, errors.New("node authorizer does not support user rule resolution")
	}
	return nil, nil, false, nil
}

// request is a node's request for a resource.
type request struct {
	authorizer.Attributes
	node string
}

// verdict is empty if the request is allowed, and otherwise says why not.
type verdict string

const (
	allow     verdict = ""
	noComment verdict = "-" // not allowed, and nothing to say about it
)

// Authorize asks the rule of the resource.
func (a *Authorizer) Authorize(ctx context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	name, isNode := Name(attrs.GetUser())
	if !isNode {
		return authorizer.DecisionNoOpinion, "", nil
	}
	if name == "" {
		return authorizer.DecisionNoOpinion, fmt.Sprintf("unknown node for user %q", attrs.GetUser().GetName()), nil
	}
	v := noComment
	if check := a.checkFor(attrs); check != nil {
		v = check(ctx, request{attrs, name})
	} else if rbac.Allows(a.rules, attrs) {
		v = allow
	}
	switch v {
	case allow:
		return authorizer.DecisionAllow, "", nil
	case noComment:
		return authorizer.DecisionNoOpinion, "", nil
	}
	return authorizer.DecisionNoOpinion, string(v), nil
}

// checkFor is the list of resources of which a node may not see all.
func (a *Authorizer) checkFor(attrs authorizer.Attributes) func(context.Context, request) verdict {
	if !attrs.IsResourceRequest() {
		return nil
	}
	switch (schema.GroupResource{Group: attrs.GetAPIGroup(), Resource: attrs.GetResource()}) {
	case schema.GroupResource{Resource: "secrets"}:
		return a.reads(a.secret)
	case schema.GroupResource{Resource: "configmaps"}:
		return a.reads(inPod(refersToConfigMap).related(a))
	case schema.GroupResource{Resource: "serviceaccounts"}:
		return a.serviceAccounts
	case schema.GroupResource{Resource: "persistentvolumeclaims"}:
		return a.claims
	case schema.GroupResource{Resource: "persistentvolumes"}:
		return gets(a.volume)
	case schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceclaims"}:
		return gets(inPod(refersToResourceClaim).related(a))
	case schema.GroupResource{Group: "storage.k8s.io", Resource: "volumeattachments"}:
		return gets(a.volumeAttachment)
	case schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}:
		return leases
	case schema.GroupResource{Group: "storage.k8s.io", Resource: "csinodes"}:
		return csiNodes
	case schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceslices"}:
		return a.resourceSlices
	case schema.GroupResource{Group: "certificates.k8s.io", Resource: "podcertificaterequests"}:
		return a.podCertificateRequests
	case schema.GroupResource{Resource: "nodes"}:
		return nodes
	case schema.GroupResource{Resource: "pods"}:
		return a.podRequests
	}
	return nil
}

// relation tells whether the object that the request names is the node's business.
type relation func(context.Context, request) bool

func (rel relation) check(ctx context.Context, r request) verdict {
	switch {
	case r.GetName() == "":
		return "No Object name found"
	case !rel(ctx, r):
		return verdict(fmt.Sprintf("no relationship found between node '%s' and this object", r.node))
	}
	return allow
}

// gets allows to get related objects.
func gets(rel relation) func(context.Context, request) verdict {
	return func(ctx context.Context, r request) verdict {
		switch {
		case r.GetVerb() != "get":
			return "can only get individual resources of this type"
		case r.GetSubresource() != "":
			return "cannot get subresource"
		}
		return rel.check(ctx, r)
	}
}

// reads allows to get, and to list and watch single, related objects in a namespace.
func (a *Authorizer) reads(rel relation) func(context.Context, request) verdict {
	return func(ctx context.Context, r request) verdict {
		switch {
		case !slices.Contains([]string{"get", "list", "watch"}, r.GetVerb()):
			return "can only read resources of this type"
		case r.GetSubresource() != "":
			return "cannot read subresource"
		case r.GetNamespace() == "":
			return "can only read namespaced object of this type"
		}
		return rel.check(ctx, r)
	}
}

func (a *Authorizer) serviceAccounts(ctx context.Context, r request) verdict {
	related := inPod(usesServiceAccount).related(a)
	switch {
	case r.GetVerb() == "get" && r.GetSubresource() == "":
		return a.reads(related)(ctx, r)
	case r.GetVerb() != "create" || r.GetName() == "":
		return "can only create tokens for individual service accounts"
	case r.GetSubresource() != "token":
		return "can only create token subresource of serviceaccount"
	}
	return related.check(ctx, r)
}

func (a *Authorizer) claims(ctx context.Context, r request) verdict {
	related := inPod(mountsClaim).related(a)
	if r.GetSubresource() != "status" {
		return gets(related)(ctx, r)
	}
	if !slices.Contains([]string{"update", "patch"}, r.GetVerb()) {
		return "can only get/update/patch this type"
	}
	return related.check(ctx, r)
}

func leases(_ context.Context, r request) verdict {
	switch {
	case !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, r.GetVerb()):
		return "can only get, create, update, patch, or delete a node lease"
	case r.GetNamespace() != corev1.NamespaceNodeLease:
		return verdict(fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease))
	case r.GetVerb() != "create" && r.GetName() != r.node:
		return "can only access node lease with the same name as the requesting node"
	}
	return allow
}

func csiNodes(_ context.Context, r request) verdict {
	switch {
	case r.GetSubresource() != "":
		return "cannot authorize CSINode subresources"
	case !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, r.GetVerb()):
		return "can only get, create, update, patch, or delete a CSINode"
	case r.GetVerb() != "create" && r.GetName() != r.node:
		return "can only access CSINode with the same name as the requesting node"
	}
	return allow
}

func (a *Authorizer) resourceSlices(ctx context.Context, r request) verdict {
	if r.GetSubresource() != "" {
		return "cannot authorize ResourceSlice subresources"
	}
	switch r.GetVerb() {
	case "create": // NodeRestriction looks whose it is
		return allow
	case "get", "update", "patch", "delete":
		return relation(a.resourceSlice).check(ctx, r)
	case "watch", "list", "deletecollection":
		if r.selects("spec.nodeName") {
			return allow
		}
		return "can only list/watch/deletecollection resourceslices with nodeName field selector"
	}
	return "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection"
}

func (a *Authorizer) podCertificateRequests(ctx context.Context, r request) verdict {
	if r.GetSubresource() != "" {
		return "nodes may not access the status subresource of PodCertificateRequests"
	}
	switch r.GetVerb() {
	case "create": // NodeRestriction looks for which pod it is
		return allow
	case "get":
		return relation(a.podCertificateRequest).check(ctx, r)
	case "list", "watch":
		if r.selects("spec.nodeName") {
			return allow
		}
		return "can only list/watch podcertificaterequests with nodeName field selector"
	}
	return verdict(fmt.Sprintf("nodes may not %s podcertificaterequests", r.GetVerb()))
}

// nodes lets a kubelet write any Node as far as this package goes; NodeRestriction allows its own.
func nodes(_ context.Context, r request) verdict {
	switch r.GetSubresource() + "/" + r.GetVerb() {
	case "/create", "/update", "/patch", "status/update", "status/patch":
		return allow
	case "/get", "/list", "/watch":
		switch r.GetName() {
		case r.node:
			return allow
		case "":
			return verdict(fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", r.node))
		}
		return verdict(fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", r.node, r.GetName()))
	}
	return noComment
}

// podRequests leaves it to NodeRestriction which pods may be written.
func (a *Authorizer) podRequests(ctx context.Context, r request) verdict {
	own := inPod(isPod).related(a)
	switch r.GetSubresource() + "/" + r.GetVerb() {
	case "/create", "/delete", "status/update", "status/patch", "eviction/create":
		return allow
	case "/get":
		return own.check(ctx, r)
	case "/list", "/watch":
		switch {
		case r.selects("spec.nodeName"):
			return allow
		case r.GetName() != "":
			return own.check(ctx, r)
		}
		return "can only list/watch pods with spec.nodeName field selector"
	}
	return noComment
}

// selects tells whether a field selector narrows the request to the node.
func (r request) selects(field string) bool {
	requirements, _ := r.GetFieldSelector()
	for _, s := range requirements {
		if s.Field == field && s.Operator == selection.Equals && s.Value == r.node {
			return true
		}
	}
	return false
}

// related is the relation that some pod on the node has to the object.
func (refers inPod) related(a *Authorizer) relation {
	return func(_ context.Context, r request) bool {
		return a.anyPod(r.node, r.GetNamespace(), func(pod *corev1.Pod) bool { return refers(pod, r.GetName()) })
	}
}

// anyPod looks through the pods of a namespace on a node.
func (a *Authorizer) anyPod(node, namespace string, match func(*corev1.Pod) bool) bool {
	objs, err := a.pods.ByIndex(podsByNode, node)
	if err != nil {
		return false
	}
	for _, obj := range objs {
		if pod, ok := obj.(*corev1.Pod); ok && pod.Namespace == namespace && match(pod) {
			return true
		}
	}
	return false
}

// secret is related by a pod, or by a volume that a pod mounts.
func (a *Authorizer) secret(ctx context.Context, r request) bool {
	if inPod(refersToSecret).related(a)(ctx, r) {
		return true
	}
	volumes, err := a.volumes.List(labels.Everything())
	if err != nil {
		return false
	}
	return slices.ContainsFunc(volumes, func(pv *corev1.PersistentVolume) bool {
		return volumeNeedsSecret(pv, r.GetNamespace(), r.GetName()) && a.mounted(pv, r.node)
	})
}

func (a *Authorizer) volume(_ context.Context, r request) bool {
	pv, err := a.volumes.Get(r.GetName())
	return err == nil && a.mounted(pv, r.node)
}

// mounted tells whether a pod on the node mounts the claim that the volume is bound to.
func (a *Authorizer) mounted(pv *corev1.PersistentVolume, node string) bool {
	claim := pv.Spec.ClaimRef
	return claim != nil && a.anyPod(node, claim.Namespace, func(pod *corev1.Pod) bool { return mountsClaim(pod, claim.Name) })
}

// The rest is rare, so it is read from the API server's own cache instead of one more informer.
var fromCache = metav1.GetOptions{ResourceVersion: "0"}

func (a *Authorizer) volumeAttachment(ctx context.Context, r request) bool {
	va, err := a.client.StorageV1().VolumeAttachments().Get(ctx, r.GetName(), fromCache)
	return err == nil && va.Spec.NodeName == r.node
}

func (a *Authorizer) resourceSlice(ctx context.Context, r request) bool {
	slice, err := a.client.ResourceV1().ResourceSlices().Get(ctx, r.GetName(), fromCache)
	return err == nil && slice.Spec.NodeName != nil && *slice.Spec.NodeName == r.node
}

func (a *Authorizer) podCertificateRequest(ctx context.Context, r request) bool {
	pcr, err := a.client.CertificatesV1().PodCertificateRequests(r.GetNamespace()).Get(ctx, r.GetName(), fromCache)
	return err == nil && string(pcr.Spec.NodeName) == r.node
}
