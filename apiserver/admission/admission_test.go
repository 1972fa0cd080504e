// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	utilcompatibility "k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
)

// chain is the whole of admission over a fake API server.
type chain struct {
	t *testing.T
	admission.Interface
	client  *fake.Clientset
	factory informers.SharedInformerFactory
}

// mostThings allows everything but to act for signers, to get tokens for an audience, and to escalate.
func mostThings(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetResource() == "signers" && a.GetName() != "example.com/*" || strings.HasPrefix(a.GetVerb(), "request-") ||
		a.GetVerb() == "escalate" || a.GetVerb() == "bind" {
		return authorizer.DecisionNoOpinion, "", nil
	}
	return authorizer.DecisionAllow, "", nil
}

func newChain(t *testing.T, objects ...runtime.Object) *chain {
	t.Helper()
	objects = append(objects, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "default"}})
	client := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	c, err := New(Deps{
		Client: client, Dynamic: dynamicfake.NewSimpleDynamicClient(scheme.Scheme), Informers: factory,
		Authorizer: authorizer.AuthorizerFunc(mostThings), RESTMapper: meta.NewDefaultRESTMapper(nil),
		Features: utilfeature.DefaultFeatureGate, Version: utilcompatibility.DefaultBuildEffectiveVersion(), Done: ctx.Done(),
	})
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return &chain{t, c, client, factory}
}

// write is a request that changes something.
type write struct {
	op       admission.Operation
	resource string // plural[/subresource]
	obj, old runtime.Object
	user     string
	options  runtime.Object
}

func (c *chain) do(r write) error {
	c.t.Helper()
	if r.op == "" {
		r.op = admission.Create
	}
	u := &user.DefaultInfo{Name: r.user}
	if strings.HasPrefix(r.user, "system:node:") {
		u.Groups = []string{"system:nodes"}
	}
	from := r.obj
	if from == nil {
		from = r.old
	}
	kinds, _, err := scheme.Scheme.ObjectKinds(from)
	if err != nil {
		c.t.Fatal(err)
	}
	object, err := meta.Accessor(from)
	if err != nil {
		c.t.Fatal(err)
	}
	name := object.GetName()
	plural, subresource, _ := strings.Cut(r.resource, "/")
	group := kinds[0].GroupVersion()
	if subresource != "" {
		group = schema.GroupVersion{Version: "v1"}
		if _, ok := from.(*certificatesv1.CertificateSigningRequest); ok {
			group = kinds[0].GroupVersion()
		}
	}
	a := admission.NewAttributesRecord(r.obj, r.old, kinds[0], object.GetNamespace(), name, group.WithResource(plural), subresource, r.op, r.options, false, u)
	o := admission.NewObjectInterfacesFromScheme(scheme.Scheme)
	if m, ok := c.Interface.(admission.MutationInterface); ok && m.Handles(r.op) {
		if err := m.Admit(c.t.Context(), a, o); err != nil {
			return err
		}
	}
	if v, ok := c.Interface.(admission.ValidationInterface); ok && v.Handles(r.op) {
		return v.Validate(c.t.Context(), a, o)
	}
	return nil
}

// want checks an error against a part of its text; "" is no error.
func want(t *testing.T, what string, err error, text string) {
	t.Helper()
	if text == "" && err != nil || text != "" && (err == nil || !strings.Contains(err.Error(), text)) {
		t.Errorf("%s: %v, want %q", what, err, text)
	}
}

func pod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	for _, f := range change {
		f(p)
	}
	return p
}

func TestPodOnCreate(t *testing.T) {
	c := newChain(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "puller"},
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "registry"}}, AutomountServiceAccountToken: ptr.To(false)})
	p := pod()
	want(t, "create", c.do(write{resource: "pods", obj: p}), "")
	if p.Spec.ServiceAccountName != "default" || p.Spec.DeprecatedServiceAccount != "default" { //nolint:staticcheck // what old clients read
		t.Errorf("service account %q", p.Spec.ServiceAccountName)
	}
	v := p.Spec.Volumes[0]
	if !strings.HasPrefix(v.Name, "kube-api-access-") || len(v.Name) != len("kube-api-access-xxxxx") || *v.Projected.DefaultMode != 0o644 ||
		*v.Projected.Sources[0].ServiceAccountToken.ExpirationSeconds != 3607 || v.Projected.Sources[1].ConfigMap.Name != "kube-root-ca.crt" ||
		v.Projected.Sources[2].DownwardAPI.Items[0].FieldRef.FieldPath != "metadata.namespace" {
		t.Errorf("volume %+v", v)
	}
	if m := p.Spec.Containers[0].VolumeMounts[0]; m.Name != v.Name || !m.ReadOnly || m.MountPath != "/var/run/secrets/kubernetes.io/serviceaccount" {
		t.Errorf("mount %+v", m)
	}
	if len(p.Spec.Tolerations) != 2 || *p.Spec.Tolerations[0].TolerationSeconds != 300 {
		t.Errorf("tolerations %+v", p.Spec.Tolerations)
	}
	if p.Spec.Priority == nil || *p.Spec.Priority != 0 || *p.Spec.PreemptionPolicy != corev1.PreemptLowerPriority {
		t.Errorf("priority %v, %v", p.Spec.Priority, p.Spec.PreemptionPolicy)
	}
	again := p.DeepCopy()
	want(t, "create again", c.do(write{resource: "pods", obj: again}), "")
	if len(again.Spec.Volumes) != 1 || len(again.Spec.Tolerations) != 2 {
		t.Error("a second pass adds more")
	}

	p = pod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "puller" })
	want(t, "another account", c.do(write{resource: "pods", obj: p}), "")
	if len(p.Spec.Volumes) != 0 || len(p.Spec.ImagePullSecrets) != 1 {
		t.Errorf("%+v", p.Spec)
	}
	want(t, "no account", c.do(write{resource: "pods", obj: pod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "x" })}),
		`error looking up service account ns/x: serviceaccount "x" not found`)
	want(t, "no namespace", c.do(write{resource: "pods", obj: pod(func(p *corev1.Pod) { p.Namespace = "gone" })}), `namespaces "gone" not found`)
}

// The default account of a new namespace may come a moment after the first pod.
func TestDefaultServiceAccountComesLate(t *testing.T) {
	c := newChain(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "new"}})
	time.AfterFunc(30*time.Millisecond, func() {
		_ = c.client.Tracker().Add(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "new", Name: "default"}})
	})
	want(t, "create", c.do(write{resource: "pods", obj: pod(func(p *corev1.Pod) { p.Namespace = "new" })}), "")
}

func TestMountableSecrets(t *testing.T) {
	c := newChain(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "strict",
		Annotations: map[string]string{enforceMountableSecrets: "true"}}, Secrets: []corev1.ObjectReference{{Name: "mine"}}})
	with := func(secret string) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			p.Spec.ServiceAccountName = "strict"
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: secret}}}}
		})
	}
	want(t, "its own", c.do(write{resource: "pods", obj: with("mine")}), "")
	want(t, "another", c.do(write{resource: "pods", obj: with("yours")}),
		`container c with envFrom referencing secret.secretName="yours" is not allowed because service account strict does not reference that secret`)
}

func TestPriority(t *testing.T) {
	class := func(name string, value int32, global bool) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, GlobalDefault: global, PreemptionPolicy: ptr.To(corev1.PreemptNever)}
	}
	c := newChain(t, class("high", 1000, false), class("usual", 10, true))
	p := pod(func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" })
	want(t, "a class", c.do(write{resource: "pods", obj: p}), "")
	if *p.Spec.Priority != 1000 || *p.Spec.PreemptionPolicy != corev1.PreemptNever {
		t.Errorf("%+v", p.Spec)
	}
	p = pod()
	want(t, "the default", c.do(write{resource: "pods", obj: p}), "")
	if *p.Spec.Priority != 10 || p.Spec.PriorityClassName != "usual" {
		t.Errorf("%+v", p.Spec)
	}
	want(t, "no class", c.do(write{resource: "pods", obj: pod(func(p *corev1.Pod) { p.Spec.PriorityClassName = "x" })}), "no PriorityClass with name x was found")
	want(t, "a number", c.do(write{resource: "pods", obj: pod(func(p *corev1.Pod) { p.Spec.Priority = ptr.To[int32](7) })}), "the integer value of priority (7) must not be provided")
	want(t, "a second default", c.do(write{resource: "priorityclasses", obj: class("new", 1, true)}), "PriorityClass usual is already marked as default")
	want(t, "the same default", c.do(write{op: admission.Update, resource: "priorityclasses", obj: class("usual", 10, true), old: class("usual", 10, true)}), "")
}

func TestNodes(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-uid", Labels: map[string]string{"kubernetes.io/hostname": "n1", "topology.kubernetes.io/zone": "z"}}}
	mine := pod(func(p *corev1.Pod) {
		p.Name, p.UID, p.Spec.NodeName = "mine", "pod-uid", "n1"
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault"}}}}}}}
	})
	other := pod(func(p *corev1.Pod) { p.Name, p.Spec.NodeName = "other", "n2" })
	c := newChain(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}}, node, mine, other)
	change := func(f func(*corev1.Node)) *corev1.Node {
		n := node.DeepCopy()
		f(n)
		return n
	}
	mirror := func(f func(*corev1.Pod)) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			p.Spec.NodeName = "n1"
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "node-uid", Controller: ptr.To(true)}}
			f(p)
		})
	}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data"}}
	grown := claim.DeepCopy() // as an agent sends it
	grown.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"}
	grown.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}
	bound := claim.DeepCopy()
	bound.Status.Phase = corev1.ClaimBound
	token := func(pod, uid string, audiences ...string) *authenticationv1.TokenRequest {
		return &authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "default"}, Spec: authenticationv1.TokenRequestSpec{
			Audiences: audiences, BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod, UID: types.UID(uid)}}}
	}
	lease := func(name, namespace string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	service := func(namespace, name string, f func(*corev1.Service)) *corev1.Service {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		f(s)
		return s
	}
	slice := func(name, service, node string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			Endpoints:  []discoveryv1.Endpoint{{NodeName: &node, Addresses: []string{"10.42.1.1"}}},
		}
	}
	for _, tc := range []struct {
		what string
		r    write
		want string
	}{
		{"DNS service", write{resource: "services", obj: service("kube-system", "kube-dns", func(*corev1.Service) {})}, ""},
		{"another service", write{resource: "services", obj: service("ns", "kube-dns", func(*corev1.Service) {})}, "can only create the Service kube-system/kube-dns"},
		{"DNS service with an address outside", write{resource: "services", obj: service("kube-system", "kube-dns", func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"192.0.2.1"} })}, "of type ClusterIP without selector"},
		{"DNS endpoint", write{resource: "endpointslices", obj: slice("kube-dns-n1", "kube-dns", "n1")}, ""},
		{"another's DNS endpoint", write{resource: "endpointslices", obj: slice("kube-dns-n2", "kube-dns", "n2")}, "its own EndpointSlice"},
		{"endpoint of another service", write{resource: "endpointslices", obj: slice("kube-dns-n1", "metrics-server", "n1")}, "only be an endpoint of the Service kube-dns"},
		{"endpoint elsewhere", write{resource: "endpointslices", obj: slice("kube-dns-n1", "kube-dns", "n2")}, "endpoints on itself"},
		{"its labels", write{op: admission.Update, resource: "nodes", obj: change(func(n *corev1.Node) { n.Labels["example.com/x"] = "y" }), old: node}, ""},
		{"kubelet labels", write{op: admission.Update, resource: "nodes", obj: change(func(n *corev1.Node) { n.Labels["node.kubernetes.io/x"] = "y" }), old: node}, ""},
		{"restricted label", write{op: admission.Update, resource: "nodes", obj: change(func(n *corev1.Node) { n.Labels["node-restriction.kubernetes.io/x"] = "y" }), old: node},
			"is not allowed to modify labels: node-restriction.kubernetes.io/x"},
		{"kubernetes label", write{op: admission.Update, resource: "nodes", obj: change(func(n *corev1.Node) { n.Labels["node-role.kubernetes.io/x"] = "y" }), old: node},
			"is not allowed to modify labels: node-role.kubernetes.io/x"},
		{"taints", write{op: admission.Update, resource: "nodes", obj: change(func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "x"}} }), old: node},
			`node "n1" is not allowed to modify taints`},
		{"owner", write{op: admission.Update, resource: "nodes", obj: change(func(n *corev1.Node) { n.OwnerReferences = []metav1.OwnerReference{{Name: "x"}} }), old: node},
			`node "n1" is not allowed to modify ownerReferences`},
		{"another node", write{op: admission.Update, resource: "nodes", obj: change(func(n *corev1.Node) { n.Name = "n2" }), old: node},
			`node "n1" is not allowed to modify node "n2"`},
		{"mirror pod", write{resource: "pods", obj: mirror(func(*corev1.Pod) {})}, ""},
		{"any pod", write{resource: "pods", obj: pod(func(p *corev1.Pod) { p.Spec.NodeName = "n1" })}, `can only create mirror pods`},
		{"mirror pod elsewhere", write{resource: "pods", obj: mirror(func(p *corev1.Pod) { p.Spec.NodeName = "n2" })}, "spec.nodeName set to itself"},
		{"mirror pod without owner", write{resource: "pods", obj: mirror(func(p *corev1.Pod) { p.OwnerReferences = nil })}, "an owner reference set to itself"},
		{"mirror pod of a former node", write{resource: "pods", obj: mirror(func(p *corev1.Pod) { p.OwnerReferences[0].UID = "x" })}, "UID mismatch"},
		{"mirror pod with a secret", write{resource: "pods", obj: mirror(func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "x"}}}}
		})}, "a mirror pod may not reference secrets"},
		{"mirror pod with a claim", write{resource: "pods", obj: mirror(func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "x"}}}}
		})}, `can not create pods that reference persistentvolumeclaims`},
		{"delete", write{op: admission.Delete, resource: "pods", old: mine}, ""},
		{"delete another's", write{op: admission.Delete, resource: "pods", old: other}, `node "n1" can only delete pods`},
		{"status", write{op: admission.Update, resource: "pods/status", obj: mine.DeepCopy(), old: mine}, ""},
		{"another's status", write{op: admission.Update, resource: "pods/status", obj: other.DeepCopy(), old: other}, "can only update pod status for pods"},
		{"labels by status", write{op: admission.Update, resource: "pods/status", obj: pod(func(p *corev1.Pod) {
			mine.DeepCopyInto(p)
			p.Labels = map[string]string{"a": "b"}
		}), old: mine}, "cannot update labels through pod status"},
		{"token", write{resource: "serviceaccounts/token", obj: token("mine", "pod-uid", "vault")}, ""},
		{"token for another audience", write{resource: "serviceaccounts/token", obj: token("mine", "pod-uid", "db")}, `is not authorized to request tokens for audience "db"`},
		{"token without a UID", write{resource: "serviceaccounts/token", obj: token("mine", "", "vault")}, "without a uid"},
		{"token for another's pod", write{resource: "serviceaccounts/token", obj: token("other", "x", "vault")}, "does not match the UID in record"},
		{"lease", write{resource: "leases", obj: lease("n1", "kube-node-lease")}, `namespaces "kube-node-lease" not found`},
		{"lease elsewhere", write{resource: "leases", obj: lease("n1", "ns")}, `can only access leases in the "kube-node-lease" system namespace`},
		{"csinode", write{resource: "csinodes", obj: &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}}, ""},
		{"claim grows", write{op: admission.Update, resource: "persistentvolumeclaims/status", obj: grown, old: claim}, ""},
		{"claim is bound", write{op: admission.Update, resource: "persistentvolumeclaims/status", obj: bound, old: claim}, "is not allowed to update fields other than status.quantity and status.conditions"},
		{"claim", write{op: admission.Update, resource: "persistentvolumeclaims", obj: grown, old: claim}, "may only update PVC status"},
		{"another's csinode", write{resource: "csinodes", obj: &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}}, "can only access CSINode with the same name"},
	} {
		tc.r.user = "system:node:n1"
		want(t, tc.what, c.do(tc.r), tc.want)
		tc.r.user = "system:node:"
		if tc.want == "" {
			want(t, tc.what+" of a node without name", c.do(tc.r), `could not determine node from user "system:node:"`)
		}
	}

	fresh := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: node.Labels}}
	want(t, "register", c.do(write{resource: "nodes", obj: fresh, user: "system:node:n1"}), "")
	if len(fresh.Spec.Taints) != 1 || fresh.Spec.Taints[0].Key != "node.kubernetes.io/not-ready" {
		t.Errorf("taints of a new node: %v", fresh.Spec.Taints)
	}
	bind := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
	want(t, "bind", c.do(write{resource: "pods/binding", obj: bind}), "")
	if bind.Labels["topology.kubernetes.io/zone"] != "z" {
		t.Errorf("labels of the binding: %v", bind.Labels)
	}
}

func TestLimitRanger(t *testing.T) {
	q := func(s string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(s)}
	}
	c := newChain(t, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "l"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
		{Type: corev1.LimitTypeContainer, Default: q("200m"), DefaultRequest: q("100m"), Min: q("50m"), Max: q("1"), MaxLimitRequestRatio: q("4")},
		{Type: corev1.LimitTypePod, Max: q("1500m")},
		{Type: corev1.LimitTypePersistentVolumeClaim, Max: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}})
	p := pod()
	want(t, "defaults", c.do(write{resource: "pods", obj: p}), "")
	if r := p.Spec.Containers[0].Resources; r.Requests.Cpu().String() != "100m" || r.Limits.Cpu().String() != "200m" ||
		p.Annotations[limitRangerAnnotation] != "LimitRanger plugin set: cpu request for container c; cpu limit for container c" {
		t.Errorf("%+v, %v", r, p.Annotations)
	}
	sized := func(request, limit string, n int) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			one := p.Spec.Containers[0]
			one.Resources = corev1.ResourceRequirements{Requests: q(request), Limits: q(limit)}
			p.Spec.Containers = nil
			for range n {
				p.Spec.Containers = append(p.Spec.Containers, one)
			}
		})
	}
	want(t, "small", c.do(write{resource: "pods", obj: sized("10m", "40m", 1)}), "minimum cpu usage per Container is 50m, but request is 10m")
	want(t, "large", c.do(write{resource: "pods", obj: sized("1", "2", 1)}), "maximum cpu usage per Container is 1, but limit is 2")
	want(t, "ratio", c.do(write{resource: "pods", obj: sized("100m", "800m", 1)}), "cpu max limit to request ratio per Container is 4, but provided ratio is 8.000000")
	want(t, "many", c.do(write{resource: "pods", obj: sized("1", "1", 2)}), "maximum cpu usage per Pod is 1500m, but limit is 2")
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}}}}
	want(t, "claim", c.do(write{resource: "persistentvolumeclaims", obj: claim}), "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi")
}

func TestStorageAndIngress(t *testing.T) {
	at := func(s int64) metav1.Time { return metav1.Unix(s, 0) }
	isDefault := map[string]string{defaultStorageClassAnnotation: "true"}
	c := newChain(t,
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "old", CreationTimestamp: at(1), Annotations: isDefault}},
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "new", CreationTimestamp: at(2), Annotations: isDefault}, AllowVolumeExpansion: ptr.To(true)},
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "newest", CreationTimestamp: at(3)}},
		&networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "ing", Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}}},
	)
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}}
	want(t, "claim", c.do(write{resource: "persistentvolumeclaims", obj: claim}), "")
	if *claim.Spec.StorageClassName != "new" || claim.Finalizers[0] != "kubernetes.io/pvc-protection" {
		t.Errorf("%+v", claim)
	}
	sized := func(class, size string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
		p := claim.DeepCopy()
		p.Spec.StorageClassName = &class
		p.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
		p.Status.Phase = phase
		return p
	}
	resize := func(class string, phase corev1.PersistentVolumeClaimPhase) error {
		return c.do(write{op: admission.Update, resource: "persistentvolumeclaims", obj: sized(class, "2Gi", phase), old: sized(class, "1Gi", phase)})
	}
	want(t, "resize", resize("new", corev1.ClaimBound), "")
	want(t, "resize of an unbound claim", resize("new", corev1.ClaimPending), "Only bound persistent volume claims can be expanded")
	want(t, "resize without support", resize("old", corev1.ClaimBound), "the storageclass that provisions the pvc must support resize")
	ingress := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "i"}}
	want(t, "ingress", c.do(write{resource: "ingresses", obj: ingress}), "")
	if ptr.Deref(ingress.Spec.IngressClassName, "") != "ing" {
		t.Errorf("%+v", ingress.Spec)
	}
}

// External IPs are denied when they are new, unless the cluster allows them.
func TestServiceExternalIPs(t *testing.T) {
	c := newChain(t)
	service := func(ips ...string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: corev1.ServiceSpec{ExternalIPs: ips}}
	}
	const denied = "Use of external IPs is denied by admission control"
	want(t, "none", c.do(write{resource: "services", obj: service()}), "")
	want(t, "create", c.do(write{resource: "services", obj: service("203.0.113.1")}), denied)
	update := func(old, now *corev1.Service) error {
		return c.do(write{op: admission.Update, resource: "services", obj: now, old: old})
	}
	want(t, "add one", update(service("203.0.113.1"), service("203.0.113.1", "203.0.113.2")), denied)
	want(t, "keep one of two", update(service("203.0.113.1", "203.0.113.2"), service("203.0.113.2")), "")
	want(t, "status", c.do(write{op: admission.Update, resource: "services/status", obj: service("203.0.113.1"), old: service()}), "")
	allowed := newDenyServiceExternalIPs(&Deps{ExternalIPs: true})
	c.Interface = allowed
	want(t, "allowed", c.do(write{resource: "services", obj: service("203.0.113.1")}), "")
}

func TestPodSecurity(t *testing.T) {
	c := newChain(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "safe", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "safe", Name: "default"}})
	privileged := pod(func(p *corev1.Pod) {
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
	})
	want(t, "elsewhere", c.do(write{resource: "pods", obj: privileged.DeepCopy()}), "")
	privileged.Namespace = "safe"
	want(t, "in a safe namespace", c.do(write{resource: "pods", obj: privileged}),
		`violates PodSecurity "baseline:latest": privileged (container "c" must not set securityContext.privileged=true)`)
}

func TestRuntimeClass(t *testing.T) {
	c := newChain(t, &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "vm"}, Handler: "kata",
		Overhead:   &nodev1.Overhead{PodFixed: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("100Mi")}},
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"vm": "yes"}, Tolerations: []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpExists}}}})
	p := pod(func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr.To("vm") })
	want(t, "create", c.do(write{resource: "pods", obj: p}), "")
	if p.Spec.Overhead.Memory().String() != "100Mi" || p.Spec.NodeSelector["vm"] != "yes" || len(p.Spec.Tolerations) != 3 {
		t.Errorf("%+v", p.Spec)
	}
	want(t, "no class", c.do(write{resource: "pods", obj: pod(func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr.To("x") })}), `RuntimeClass "x" not found`)
	want(t, "own overhead", c.do(write{resource: "pods", obj: pod(func(p *corev1.Pod) {
		p.Spec.Overhead = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
	})}), "Pod Overhead set without corresponding RuntimeClass")
}

func TestCertificates(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr := func(signer, cn string, orgs ...string) *certificatesv1.CertificateSigningRequest {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn, Organization: orgs}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: signer, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}}
	}
	const resource = "certificatesigningrequests"
	client := certificatesv1.KubeAPIServerClientSignerName
	c := newChain(t)
	want(t, "a user", c.do(write{resource: resource, obj: csr(client, "ann", "dev")}), "")
	want(t, "a master", c.do(write{resource: resource, obj: csr(client, "ann", "system:masters")}), "with system:masters group is not allowed")
	kubelet := certificatesv1.KubeAPIServerClientKubeletSignerName
	want(t, "own node", c.do(write{resource: resource, user: "system:node:n1", obj: csr(kubelet, "system:node:n1", "system:nodes")}), "")
	want(t, "another node", c.do(write{resource: resource, user: "system:node:n1", obj: csr(kubelet, "system:node:n2", "system:nodes")}), "CN=system:node:n1")
	approve := func(signer string) error {
		r := csr(signer, "ann")
		return c.do(write{op: admission.Update, resource: resource + "/approval", obj: r.DeepCopy(), old: r})
	}
	want(t, "approve", approve("example.com/x"), "")
	want(t, "approve for another", approve(client), `user not permitted to approve requests with signerName "kubernetes.io/kube-apiserver-client"`)
	unsigned := csr(client, "ann")
	signed := unsigned.DeepCopy()
	signed.Status.Certificate = bytes.Repeat([]byte("x"), 3)
	want(t, "sign", c.do(write{op: admission.Update, resource: resource + "/status", obj: signed, old: unsigned}), "user not permitted to sign requests")
}

func TestResourceQuota(t *testing.T) {
	hard := corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1"), corev1.ResourceRequestsCPU: resource.MustParse("1")}
	used := corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0"), corev1.ResourceRequestsCPU: resource.MustParse("0")}
	c := newChain(t, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard},
		Status: corev1.ResourceQuotaStatus{Hard: hard, Used: used}})
	sized := func(name, cpu string) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			p.Name = name
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
		})
	}
	want(t, "no request", c.do(write{resource: "pods", obj: pod()}), "failed quota: q: must specify requests.cpu for: c")
	want(t, "too large", c.do(write{resource: "pods", obj: sized("a", "2")}), "exceeded quota: q, requested: requests.cpu=2, used: requests.cpu=0, limited: requests.cpu=1")
	want(t, "fits", c.do(write{resource: "pods", obj: sized("a", "500m")}), "")
	// The fake API server takes a stale update, a real one would not; so wait until the count is known.
	err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) {
		q, err := c.factory.Core().V1().ResourceQuotas().Lister().ResourceQuotas("ns").Get("q")
		return err == nil && q.Status.Used.Pods().Value() == 1, err
	})
	want(t, "count", err, "")
	want(t, "one too many", c.do(write{resource: "pods", obj: sized("b", "100m")}), "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1")
}

// A claim of devices is refused by a quota of the extended resource that its class offers.
func TestResourceQuotaOfDevices(t *testing.T) {
	const gpus = "requests.example.com/gpu"
	hard, used := corev1.ResourceList{gpus: resource.MustParse("3")}, corev1.ResourceList{gpus: resource.MustParse("1")}
	c := newChain(t,
		&corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}, Status: corev1.ResourceQuotaStatus{Hard: hard, Used: used}},
		&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: ptr.To("example.com/gpu")}},
	)
	claim := func(class string, devices int64) error {
		return c.do(write{resource: "resourceclaims", obj: &resourcev1.ResourceClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint(class, devices)},
			Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
				Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: devices},
			}}}},
		}})
	}
	want(t, "too many", claim("gpu", 3), "exceeded quota: q, requested: requests.example.com/gpu=3, used: requests.example.com/gpu=1, limited: requests.example.com/gpu=3")
	want(t, "of another class", claim("nic", 3), "")
	want(t, "fits", claim("gpu", 2), "")
}

// A policy works as soon as it exists, though nothing was built before.
func TestValidatingAdmissionPolicy(t *testing.T) {
	c := newChain(t,
		&admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: ptr.To(admissionregistrationv1.Fail),
			MatchConstraints: &admissionregistrationv1.MatchResources{
				MatchPolicy:       ptr.To(admissionregistrationv1.Equivalent),
				NamespaceSelector: &metav1.LabelSelector{}, ObjectSelector: &metav1.LabelSelector{},
				ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
					Operations: []admissionregistrationv1.OperationType{"CREATE"},
					Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}, Scope: ptr.To(admissionregistrationv1.AllScopes)}}}}},
			Validations: []admissionregistrationv1.Validation{{Expression: "object.metadata.name != 'bad'", Message: "a bad name"}},
		}},
		&admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: "p", ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny}}},
	)
	want(t, "good", c.do(write{resource: "pods", obj: pod()}), "")
	want(t, "bad", c.do(write{resource: "pods", obj: pod(func(p *corev1.Pod) { p.Name = "bad" })}), "a bad name")
}

func TestOrder(t *testing.T) {
	var names []string
	for _, p := range plugins() {
		names = append(names, p.name)
	}
	// The order in which plugins act is part of the API: what one fills in, the next one checks.
	const upstream = "NamespaceLifecycle LimitRanger ServiceAccount NodeRestriction TaintNodesByCondition PodSecurity Priority " +
		"DefaultTolerationSeconds DefaultStorageClass StorageObjectInUseProtection PersistentVolumeClaimResize RuntimeClass CertificateApproval " +
		"CertificateSigning ClusterTrustBundleAttest CertificateSubjectRestriction DefaultIngressClass DenyServiceExternalIPs PodTopologyLabels NodeDeclaredFeatureValidator PodResizeValidator RoleEscalation " +
		"MutatingAdmissionPolicy MutatingAdmissionWebhook ValidatingAdmissionPolicy ValidatingAdmissionWebhook ResourceQuota"
	if got := strings.Join(names, " "); got != upstream {
		t.Errorf("order: %s", got)
	}
}

// A resize is checked against all that the node has, and against what it can do.
func TestResize(t *testing.T) {
	sized := func(cpu string, generation int64) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			p.Spec.NodeName, p.Generation = "n1", generation
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
		})
	}
	c := newChain(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi")}}})
	resize := func(cpu string) error {
		return c.do(write{op: admission.Update, resource: "pods/resize", obj: sized(cpu, 2), old: sized("1", 1)})
	}
	want(t, "within", resize("2"), "")
	want(t, "beyond", resize("3"), "node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000")
}

func TestRoleEscalation(t *testing.T) {
	read := []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}
	reader := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, Rules: read}
	root := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "root"},
		Rules: []rbacv1.PolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}}}
	binding := func(name, role, user string) *rbacv1.ClusterRoleBinding {
		return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: user}}}
	}
	c := newChain(t, reader, root, binding("b", "reader", "ann"))
	const missing = "is attempting to grant RBAC permissions not currently held"
	want(t, "a role of what she has", c.do(write{resource: "roles", user: "ann", obj: &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r"}, Rules: read}}), "")
	want(t, "a role of more", c.do(write{resource: "roles", user: "ann", obj: &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r"}, Rules: root.Rules}}), missing)
	want(t, "a role that grows", c.do(write{op: admission.Update, resource: "clusterroles", user: "ann",
		obj: &rbacv1.ClusterRole{ObjectMeta: reader.ObjectMeta, Rules: root.Rules}, old: reader}), missing)
	want(t, "bind what she has", c.do(write{resource: "clusterrolebindings", user: "ann", obj: binding("x", "reader", "bob")}), "")
	want(t, "bind more", c.do(write{resource: "clusterrolebindings", user: "ann", obj: binding("x", "root", "ann")}), missing)
}
