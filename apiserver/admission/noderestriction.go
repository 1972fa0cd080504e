// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	kubeletapis "k8s.io/kubelet/pkg/apis"

	"github.com/skiff-k8s/skiff/apiserver/authz/node"
)

// nodeRestriction looks at what kubelets write: only what is about their own node, and nothing that
// would draw other people's pods to it. The node authorizer sees only the request, this the contents.
type nodeRestriction struct {
	*admission.Handler
	client     kubernetes.Interface
	authorizer authorizer.UnconditionalAuthorizer
	pods       corelisters.PodLister
	nodes      corelisters.NodeLister
	accounts   corelisters.ServiceAccountLister
}

var _ admission.MutationInterface = (*nodeRestriction)(nil)

func newNodeRestriction(d *Deps) admission.Interface {
	v1 := d.Informers.Core().V1()
	return &nodeRestriction{
		Handler:    admission.NewHandler(admission.Create, admission.Update, admission.Delete),
		client:     d.Client,
		authorizer: d.Authorizer,
		pods:       v1.Pods().Lister(),
		nodes:      v1.Nodes().Lister(),
		accounts:   v1.ServiceAccounts().Lister(),
	}
}

func (n *nodeRestriction) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	name, isNode := node.Name(a.GetUserInfo())
	if !isNode {
		return nil
	}
	if name == "" {
		return forbid(a, fmt.Errorf("could not determine node from user %q", a.GetUserInfo().GetName()))
	}
	return forbid(a, n.check(ctx, name, a))
}

// check is nil if the node may do it. An error of the API is passed on as it is, others forbid.
func (n *nodeRestriction) check(ctx context.Context, name string, a admission.Attributes) error {
	switch a.GetResource().GroupResource() {
	case pods:
		return n.checkPod(name, a)
	case nodes:
		return checkNode(name, a)
	case claims:
		return checkClaim(name, a)
	case corev1.Resource("serviceaccounts"):
		return n.checkToken(ctx, name, a)
	case schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}:
		if a.GetNamespace() != corev1.NamespaceNodeLease {
			return fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
		}
		if nameOf(a) != name {
			return errors.New("can only access node lease with the same name as the requesting node")
		}
	case schema.GroupResource{Group: "storage.k8s.io", Resource: "csinodes"}:
		if nameOf(a) != name {
			return errors.New("can only access CSINode with the same name as the requesting node")
		}
	case schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceslices"}:
		return checkResourceSlice(name, a)
	case corev1.Resource("services"):
		return checkNodeService(name, a)
	case schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"}:
		return checkNodeEndpointSlice(name, a)
	case certificateRequests:
		return checkCertificateRequest(name, a)
	case schema.GroupResource{Group: "certificates.k8s.io", Resource: "podcertificaterequests"}:
		return n.checkPodCertificateRequest(ctx, name, a)
	}
	return nil
}

// nameOf is the name of the object, which a create has in the object only.
func nameOf(a admission.Attributes) string {
	if a.GetOperation() == admission.Create {
		if o, err := meta.Accessor(a.GetObject()); err == nil {
			return o.GetName()
		}
	}
	return a.GetName()
}

func (n *nodeRestriction) checkPod(name string, a admission.Attributes) error {
	switch a.GetSubresource() {
	case "":
		switch a.GetOperation() {
		case admission.Create:
			return n.checkMirrorPod(name, a)
		case admission.Delete:
			return n.checkOwnPod(a, a.GetName(), name, fmt.Errorf("node %q can only delete pods with spec.nodeName set to itself", name))
		}
		return fmt.Errorf("unexpected operation %q, node %q can only create and delete mirror pods", a.GetOperation(), name)
	case "status":
		return checkPodStatus(name, a)
	case "eviction":
		return n.checkEviction(name, a)
	}
	return fmt.Errorf("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.GetSubresource())
}

// checkOwnPod returns otherwise if the pod is another node's.
func (n *nodeRestriction) checkOwnPod(a admission.Attributes, pod, name string, otherwise error) error {
	existing, err := n.pods.Pods(a.GetNamespace()).Get(pod)
	if err != nil {
		return err
	}
	if existing.Spec.NodeName != name {
		return otherwise
	}
	return nil
}

func (n *nodeRestriction) checkMirrorPod(name string, a admission.Attributes) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetObject())
	}
	if !isMirror(pod) {
		return fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, name)
	}
	if pod.Spec.NodeName != name {
		return fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", name)
	}
	if err := n.checkOwner(name, pod.OwnerReferences); err != nil {
		return err
	}
	resource, err := apiReference(pod)
	if err != nil {
		return fmt.Errorf("error checking mirror pod for API references: %w", err)
	}
	if resource != "" {
		return fmt.Errorf("node %q can not create pods that reference %s", name, resource)
	}
	return nil
}

// checkOwner makes sure that a mirror pod goes away with its node.
func (n *nodeRestriction) checkOwner(name string, owners []metav1.OwnerReference) error {
	if len(owners) > 1 {
		return fmt.Errorf("node %q can only create pods with a single owner reference set to itself", name)
	}
	if len(owners) == 0 || owners[0].APIVersion != "v1" || owners[0].Kind != "Node" || owners[0].Name != name {
		return fmt.Errorf("node %q can only create pods with an owner reference set to itself", name)
	}
	owner := owners[0]
	if owner.Controller == nil || !*owner.Controller {
		return fmt.Errorf("node %q can only create pods with a controller owner reference set to itself", name)
	}
	if owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion {
		return fmt.Errorf("node %q must not set blockOwnerDeletion on an owner reference", name)
	}
	existing, err := n.nodes.Get(name)
	if err != nil {
		return err
	}
	if owner.UID != existing.UID {
		return fmt.Errorf("node %s UID mismatch: expected %s got %s", name, owner.UID, existing.UID)
	}
	return nil
}

func checkPodStatus(name string, a admission.Attributes) error {
	if a.GetOperation() != admission.Update {
		return fmt.Errorf("unexpected operation %q", a.GetOperation())
	}
	old, ok := a.GetOldObject().(*corev1.Pod)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetOldObject())
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetObject())
	}
	equal := equality.Semantic.DeepEqual
	switch {
	case old.Spec.NodeName != name:
		return fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", name)
	case !labels.Equals(old.Labels, pod.Labels):
		return fmt.Errorf("node %q cannot update labels through pod status", name)
	case !equal(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses):
		return fmt.Errorf("node %q cannot update resource claim statues", name)
	case !equal(old.Status.ExtendedResourceClaimStatus, pod.Status.ExtendedResourceClaimStatus):
		return fmt.Errorf("node %q cannot update extended resource claim status", name)
	case !equal(old.Status.NodeAllocatableResourceClaimStatuses, pod.Status.NodeAllocatableResourceClaimStatuses):
		return fmt.Errorf("node %q cannot update node allocatable resource claim statuses", name)
	}
	return nil
}

func (n *nodeRestriction) checkEviction(name string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create {
		return fmt.Errorf("unexpected operation %s", a.GetOperation())
	}
	eviction, ok := a.GetObject().(*policyv1.Eviction)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetObject())
	}
	pod := a.GetName()
	if pod == "" {
		pod = eviction.Name
	}
	if pod == "" {
		return errors.New("could not determine pod from request data")
	}
	return n.checkOwnPod(a, pod, name, fmt.Errorf("node %s can only evict pods with spec.nodeName set to itself", name))
}

func checkNode(name string, a admission.Attributes) error {
	if a.GetName() != name {
		return fmt.Errorf("node %q is not allowed to modify node %q", name, a.GetName())
	}
	object, _ := a.GetObject().(*corev1.Node)
	switch a.GetOperation() {
	case admission.Create:
		if object == nil {
			return fmt.Errorf("unexpected type %T", a.GetObject())
		}
		if object.Spec.ConfigSource != nil {
			return fmt.Errorf("node %q is not allowed to create pods with a non-nil configSource", name)
		}
		if bad := forbiddenLabels(object.Labels, nil); len(bad) > 0 {
			return fmt.Errorf("node %q is not allowed to set the following labels: %s", name, strings.Join(bad, ", "))
		}
	case admission.Update:
		old, ok := a.GetOldObject().(*corev1.Node)
		if object == nil || !ok {
			return fmt.Errorf("unexpected type %T", a.GetObject())
		}
		return checkNodeUpdate(name, object, old)
	}
	return nil
}

func checkNodeUpdate(name string, object, old *corev1.Node) error {
	equal := equality.Semantic.DeepEqual
	switch {
	case object.Spec.ConfigSource != nil && !equal(object.Spec.ConfigSource, old.Spec.ConfigSource):
		return fmt.Errorf("node %q is not allowed to update configSource to a new non-nil configSource", name)
	case !equal(object.Spec.Taints, old.Spec.Taints):
		return fmt.Errorf("node %q is not allowed to modify taints", name)
	case !equal(object.OwnerReferences, old.OwnerReferences):
		return fmt.Errorf("node %q is not allowed to modify ownerReferences", name)
	}
	if bad := forbiddenLabels(object.Labels, old.Labels); len(bad) > 0 {
		return fmt.Errorf("is not allowed to modify labels: %s", strings.Join(bad, ", "))
	}
	return nil
}

// forbiddenLabels are the labels that differ and that a kubelet may not touch.
func forbiddenLabels(a, b map[string]string) []string {
	forbidden := sets.New[string]()
	for _, m := range []map[string]string{a, b} {
		for key := range m {
			va, ina := a[key]
			vb, inb := b[key]
			if (ina != inb || va != vb) && !mayLabel(key) {
				forbidden.Insert(key)
			}
		}
	}
	return sets.List(forbidden)
}

func mayLabel(key string) bool {
	domain, _, found := strings.Cut(key, "/")
	if !found {
		return true
	}
	in := func(parent string) bool { return domain == parent || strings.HasSuffix(domain, "."+parent) }
	if in(corev1.LabelNamespaceNodeRestriction) {
		return false
	}
	return !in("kubernetes.io") && !in("k8s.io") || kubeletapis.IsKubeletLabel(key)
}

func checkClaim(name string, a admission.Attributes) error {
	if a.GetSubresource() != "status" {
		return errors.New("may only update PVC status")
	}
	if a.GetOperation() != admission.Update {
		return fmt.Errorf("unexpected operation %q", a.GetOperation())
	}
	old, ok := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetOldObject())
	}
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetObject())
	}
	// A copy of each without what may change must be the same.
	without := func(c *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
		c = c.DeepCopy()
		c.TypeMeta = metav1.TypeMeta{} // what comes over the network has it, what comes from the store has not
		c.ResourceVersion, c.ManagedFields = "", nil
		c.Status.Capacity, c.Status.Conditions = nil, nil
		c.Status.AllocatedResources, c.Status.AllocatedResourceStatuses = nil, nil
		return c
	}
	if before, after := without(old), without(claim); !equality.Semantic.DeepEqual(before, after) {
		return fmt.Errorf("node %q is not allowed to update fields other than status.quantity and status.conditions: %v", name, diff.Diff(before, after))
	}
	return nil
}

// checkToken allows tokens for pods of the node, and for an audience that the pod wants.
func (n *nodeRestriction) checkToken(ctx context.Context, name string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create || a.GetSubresource() != "token" {
		return nil
	}
	req, ok := a.GetObject().(*authenticationv1.TokenRequest)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetObject())
	}
	ref := req.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return errors.New("node requested token not bound to a pod")
	}
	if ref.UID == "" {
		return errors.New("node requested token with a pod binding without a uid")
	}
	pod, err := n.boundPod(ctx, a.GetNamespace(), ref.Name)
	if err != nil {
		return err
	}
	if ref.UID != pod.UID {
		return fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	}
	if pod.Spec.NodeName != name {
		return errors.New("node requested token bound to a pod scheduled on a different node")
	}
	return n.checkAudience(ctx, a, req, pod)
}

// boundPod is a pod as its node knows it: a node may hear of a binding a moment before the informer here does, and to
// refuse it then would cost the pod a warning and a pause.
func (n *nodeRestriction) boundPod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod, err := n.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && pod.Spec.NodeName == "" {
		return n.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	}
	return pod, err
}

func (n *nodeRestriction) checkAudience(ctx context.Context, a admission.Attributes, req *authenticationv1.TokenRequest, pod *corev1.Pod) error {
	audience := ""
	switch len(req.Spec.Audiences) {
	case 0:
	case 1:
		audience = req.Spec.Audiences[0]
	default:
		return errors.New("node may only request 0 or 1 audiences")
	}
	wanted, err := n.wantsAudience(ctx, pod, audience)
	if err != nil {
		return fmt.Errorf("error validating audience %q: %w", audience, err)
	}
	if wanted {
		return nil
	}
	allowed, err := n.allows(ctx, a, "request-serviceaccounts-token-audience", audience, a.GetName())
	switch {
	case allowed:
		return nil
	case err != nil:
		return fmt.Errorf("error authorizing %s to request tokens for audience %q: %w", a.GetUserInfo().GetName(), audience, err)
	}
	return fmt.Errorf("%s is not authorized to request tokens for audience %q", a.GetUserInfo().GetName(), audience)
}

// wantsAudience tells whether a volume of the pod needs a token for the audience: a projected one, or
// one of a CSI driver that asks for such tokens.
func (n *nodeRestriction) wantsAudience(ctx context.Context, pod *corev1.Pod, audience string) (bool, error) {
	var errs []error
	for _, v := range pod.Spec.Volumes {
		if v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
			return s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience
		}) {
			return true, nil
		}
	}
	for _, v := range pod.Spec.Volumes {
		wants, err := n.driverWants(ctx, pod, &v, audience)
		if wants {
			return true, nil
		}
		errs = append(errs, err)
	}
	return false, errors.Join(errs...)
}

func (n *nodeRestriction) driverWants(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, audience string) (bool, error) {
	name, err := "", error(nil)
	switch {
	case v.CSI != nil:
		name = v.CSI.Driver
	case v.PersistentVolumeClaim != nil:
		name, err = n.driverOfClaim(ctx, pod.Namespace, v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil:
		name, err = n.driverOfClaim(ctx, pod.Namespace, ephemeral.VolumeClaimName(pod, v))
	}
	if err != nil || name == "" {
		return false, err
	}
	driver, err := n.client.StorageV1().CSIDrivers().Get(ctx, name, fromCache)
	if err != nil {
		return false, err
	}
	for _, r := range driver.Spec.TokenRequests {
		if r.Audience == audience {
			return true, nil
		}
	}
	return false, nil
}

func (n *nodeRestriction) driverOfClaim(ctx context.Context, namespace, name string) (string, error) {
	claim, err := n.client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, fromCache)
	if err != nil {
		return "", err
	}
	volume, err := n.client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, fromCache)
	if err != nil || volume.Spec.CSI == nil {
		return "", err
	}
	return volume.Spec.CSI.Driver, nil
}

func (n *nodeRestriction) allows(ctx context.Context, a admission.Attributes, verb, resource, name string) (bool, error) {
	decision, _, err := n.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: verb, APIGroup: a.GetResource().Group, APIVersion: a.GetResource().Version,
		Resource: resource, Namespace: a.GetNamespace(), Name: name, ResourceRequest: true,
	})
	return decision == authorizer.DecisionAllow, err
}

func checkResourceSlice(name string, a admission.Attributes) error {
	object, doing := a.GetObject(), "create"
	switch a.GetOperation() {
	case admission.Create:
	case admission.Delete:
		object, doing = a.GetOldObject(), "delete"
	default:
		return nil
	}
	slice, ok := object.(*resourcev1.ResourceSlice)
	if !ok {
		return fmt.Errorf("unexpected type %T", object)
	}
	if slice.Spec.NodeName == nil || *slice.Spec.NodeName != name {
		return fmt.Errorf("can only %s ResourceSlice with the same NodeName as the requesting node", doing)
	}
	return nil
}

func checkCertificateRequest(name string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create {
		return nil
	}
	csr, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetObject())
	}
	if csr.Spec.SignerName != certificatesv1.KubeletServingSignerName && csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	parsed, err := parseCertificateRequest(csr.Spec.Request)
	if err != nil {
		return fmt.Errorf("unable to parse csr: %w", err)
	}
	if parsed.Subject.CommonName != "system:node:"+name {
		return fmt.Errorf("can only create a node CSR with CN=system:node:%s", name)
	}
	return nil
}

func parseCertificateRequest(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

// checkPodCertificateRequest compares the request with the node, pod and service account it names.
// What may just not have arrived here yet is an error that says to try again, not Forbidden.
func (n *nodeRestriction) checkPodCertificateRequest(ctx context.Context, name string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create {
		return fmt.Errorf("unexpected operation %v", a.GetOperation())
	}
	if a.GetSubresource() != "" {
		return fmt.Errorf("unexpected subresource %v", a.GetSubresource())
	}
	req, ok := a.GetObject().(*certificatesv1.PodCertificateRequest)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetObject())
	}
	spec, namespace := req.Spec, a.GetNamespace()
	podName := namespace + "/" + spec.PodName
	if string(spec.NodeName) != name {
		return fmt.Errorf("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", spec.NodeName, name)
	}
	existing, err := n.nodes.Get(name)
	if err != nil {
		return late(fmt.Errorf("while retrieving node %q named in the PodCertificateRequest: %w", name, err))
	}
	if existing.UID != spec.NodeUID {
		return late(fmt.Errorf("PodCertificateRequest for pod %q names node UID %q, inconsistent with the running node (%q)", podName, spec.NodeUID, existing.UID))
	}
	pod, err := n.pods.Pods(namespace).Get(spec.PodName)
	if err != nil {
		return late(fmt.Errorf("while retrieving pod %q named in the PodCertificateRequest: %w", podName, err))
	}
	switch {
	case spec.PodUID != pod.UID:
		return late(fmt.Errorf("PodCertificateRequest for pod %q contains pod UID (%q) which differs from running pod %q", podName, spec.PodUID, pod.UID))
	case pod.Spec.NodeName != name:
		return fmt.Errorf("pod %q is not running on node %q named in the PodCertificateRequest", podName, name)
	case isMirror(pod):
		return fmt.Errorf("pod %q is a mirror pod", podName)
	case spec.ServiceAccountName != pod.Spec.ServiceAccountName:
		return fmt.Errorf("PodCertificateRequest for pod %q contains serviceAccountName (%q) that differs from running pod (%q)", podName, spec.ServiceAccountName, pod.Spec.ServiceAccountName)
	}
	sa, err := n.accounts.ServiceAccounts(namespace).Get(spec.ServiceAccountName)
	if err != nil {
		return late(fmt.Errorf("while retrieving service account %q named in the PodCertificateRequest: %w", namespace+"/"+spec.ServiceAccountName, err))
	}
	if spec.ServiceAccountUID != sa.UID {
		return late(fmt.Errorf("PodCertificateRequest for pod %q names service account UID %q, which differs from the running service account (%q)", podName, spec.ServiceAccountUID, sa.UID))
	}
	return n.checkSigner(ctx, a, pod, &spec)
}

func (n *nodeRestriction) checkSigner(ctx context.Context, a admission.Attributes, pod *corev1.Pod, spec *certificatesv1.PodCertificateRequestSpec) error {
	for _, v := range pod.Spec.Volumes {
		if v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
			return s.PodCertificate != nil && s.PodCertificate.SignerName == spec.SignerName
		}) {
			return nil
		}
	}
	// A resource in a rule cannot have a slash.
	signer := strings.ReplaceAll(spec.SignerName, "/", ":")
	allowed, err := n.allows(ctx, a, "request-serviceaccounts-podcertificate-signer", signer, spec.ServiceAccountName)
	switch {
	case allowed:
		return nil
	case err != nil:
		return fmt.Errorf("error authorizing %s to request podcertificaterequests for signer %q: %w", a.GetUserInfo().GetName(), spec.SignerName, err)
	}
	return fmt.Errorf("pod %q does not mount a podCertificate projected volume for signer %q", a.GetNamespace()+"/"+spec.PodName, spec.SignerName)
}

// late is for what a moment later may be right.
func late(err error) error { return apierrors.NewInternalError(err) }

// apiReference names a kind of object that the pod needs from the API; "" is none.
func apiReference(pod *corev1.Pod) (string, error) {
	switch {
	case pod.Spec.ServiceAccountName != "":
		return "serviceaccounts", nil
	case len(node.SecretNames(pod)) > 0:
		return "secrets", nil
	case len(node.ConfigMapNames(pod)) > 0:
		return "configmaps", nil
	case len(pod.Spec.ResourceClaims) > 0:
		return "resourceclaims", nil
	}
	for _, v := range pod.Spec.Volumes {
		switch s := v.VolumeSource; {
		case s.CSI != nil:
			return "csidrivers (via CSI volumes)", nil
		case s.Glusterfs != nil:
			return "endpoints (via glusterFS volumes)", nil
		case s.PersistentVolumeClaim != nil:
			return "persistentvolumeclaims", nil
		case s.Ephemeral != nil:
			return "persistentvolumeclaims (via ephemeral volumes)", nil
		case s.Projected != nil:
			if resource, err := projectionReference(&v); resource != "" || err != nil {
				return resource, err
			}
		case s == corev1.VolumeSource{}:
			return "", fmt.Errorf("unknown volume type for volume %q", v.Name)
		}
	}
	return "", nil
}

func projectionReference(v *corev1.Volume) (string, error) {
	for _, s := range v.Projected.Sources {
		switch {
		case s.ServiceAccountToken != nil:
			return "serviceaccounts (via projected volumes)", nil
		case s.ClusterTrustBundle != nil:
			return "clustertrustbundles", nil
		case s.PodCertificate != nil:
			return "podcertificates", nil
		case s.DownwardAPI == nil:
			return "", fmt.Errorf("unknown source for projected volume %q", v.Name)
		}
	}
	return "", nil
}
