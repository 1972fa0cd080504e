// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

func testPod(name, node string, change func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: "sa-" + name}}
	if change != nil {
		change(pod)
	}
	return pod
}

func newAuthz(t *testing.T) *Authz {
	t.Helper()
	node1 := "node-1"
	client := fake.NewClientset(
		&storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "va"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: node1}},
		&resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "slice"}, Spec: resourcev1.ResourceSliceSpec{NodeName: &node1}},
	)
	factory := informers.NewSharedInformerFactory(client, 0)
	a, err := New(factory, client)
	if err != nil {
		t.Fatal(err)
	}
	volume := func(name string, source corev1.VolumeSource) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: source}
	}
	for _, pod := range []*corev1.Pod{
		testPod("web", node1, func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{
				volume("a", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "volume"}}),
				volume("b", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}),
				volume("c", corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}),
				volume("d", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}},
					{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "projected"}}},
				}}}),
			}
			p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
			p.Spec.InitContainers = []corev1.Container{{EnvFrom: []corev1.EnvFromSource{
				{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}}}}}}
			claim := "device"
			p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "x", ResourceClaimName: &claim}}
		}),
		testPod("far", "node-2", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{volume("a", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "far"}})}
		}),
		testPod("mirror", node1, func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			p.Spec.Volumes = []corev1.Volume{volume("a", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "mirrored"}})}
		}),
	} {
		if err := client.Tracker().Add(pod); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Tracker().Add(&corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv"},
		Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "claim"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				NodePublishSecretRef: &corev1.SecretReference{Namespace: "storage", Name: "csi"}}},
		},
	}); err != nil {
		t.Fatal(err)
	}
	for _, role := range a.Policy.ClusterRoles {
		if err := client.Tracker().Add(role); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range a.Policy.ClusterRoleBindings {
		if err := client.Tracker().Add(b); err != nil {
			t.Fatal(err)
		}
	}
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	return a
}

// A server that has just started makes those wait whom it does not know yet, and refuses nobody.
func TestBeforeSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := &user.DefaultInfo{Name: "system:node:node-1", Groups: []string{"system:nodes"}}
		pod := testPod("web", "node-1", func(p *corev1.Pod) {
			p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
		})
		role := &rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "nodes"},
			Rules:      []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}},
		}
		binding := &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "nodes"},
			RoleRef:    rbacv1.RoleRef{Kind: "Role", Name: "nodes"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.GroupKind, Name: "system:nodes"}},
		}
		client := fake.NewClientset(pod, role, binding)
		factory := informers.NewSharedInformerFactory(client, 0)
		a, err := New(factory, client)
		if err != nil {
			t.Fatal(err)
		}
		if decision, _, err := a.Authorize(t.Context(), ask(node, "update kube-node-lease/leases.coordination.k8s.io/node-1")); decision != authorizer.DecisionAllow || err != nil {
			t.Errorf("what needs no informer = %v, %v", decision, err)
		}
		question := ask(node, "get ns/secrets/pull")
		if decision, _, err := a.Authorize(t.Context(), question); decision != authorizer.DecisionNoOpinion || err == nil {
			t.Errorf("without informers for long = %v, %v; want an error", decision, err)
		}
		ctx, end := context.WithCancel(t.Context())
		time.AfterFunc(syncTimeout/2, func() { factory.Start(ctx.Done()) })
		for _, question := range []string{"get ns/secrets/pull", "get kube-system/configmaps/cluster"} {
			if decision, reason, err := a.Authorize(t.Context(), ask(node, question)); decision != authorizer.DecisionAllow || err != nil {
				t.Errorf("%s as the server starts = %v, %q, %v", question, decision, reason, err)
			}
		}
		if decision, _, err := a.Authorize(t.Context(), ask(node, "get ns/secrets/other")); decision != authorizer.DecisionNoOpinion || err != nil {
			t.Errorf("another's secret = %v, %v", decision, err)
		}
		end()
		factory.Shutdown()
	})
}

// ask turns "get ns/secrets/name", "list nodes" or "create ns/pods/name/eviction" into attributes.
func ask(u user.Info, question string) authorizer.AttributesRecord {
	verb, what, _ := strings.Cut(question, " ")
	what, selector, _ := strings.Cut(what, "?")
	if strings.HasPrefix(what, "/") {
		return authorizer.AttributesRecord{User: u, Verb: verb, Path: what}
	}
	parts := append(strings.Split(what, "/"), "", "", "")
	resource, group, _ := strings.Cut(parts[1], ".")
	a := authorizer.AttributesRecord{User: u, Verb: verb, Namespace: parts[0], Resource: resource, APIGroup: group,
		Name: parts[2], Subresource: parts[3], ResourceRequest: true}
	if selector != "" {
		a.FieldSelectorRequirements = fields.ParseSelectorOrDie(selector).Requirements()
	}
	return a
}

func TestNodes(t *testing.T) {
	a := newAuthz(t)
	node := &user.DefaultInfo{Name: "system:node:node-1", Groups: []string{"system:nodes", "system:authenticated"}}
	for question, allowed := range map[string]bool{
		"get ns/secrets/volume": true, "watch ns/secrets/volume": true, "get ns/secrets/projected": true, "get ns/secrets/pull": true,
		"get ns/secrets/env": true, "get storage/secrets/csi": true,
		"get ns/secrets/csi": false, "get ns/secrets/far": false, "get ns/secrets/mirrored": false, "get other/secrets/volume": false,
		"update ns/secrets/volume": false, "list ns/secrets": false, "list /secrets": false,
		"get ns/configmaps/kube-root-ca.crt": true, "get ns/configmaps/other": false,
		"get ns/serviceaccounts/sa-web": true, "create ns/serviceaccounts/sa-web/token": true,
		"create ns/serviceaccounts/sa-far/token": false, "create ns/serviceaccounts": false,
		"get ns/persistentvolumeclaims/claim": true, "patch ns/persistentvolumeclaims/claim/status": true, "get ns/persistentvolumeclaims/web-c": true,
		"patch ns/persistentvolumeclaims/claim": false, "get ns/persistentvolumeclaims/x": false,
		"get /persistentvolumes/pv": true, "get /persistentvolumes/x": false, "list /persistentvolumes": false,
		"get ns/resourceclaims.resource.k8s.io/device": true, "get ns/resourceclaims.resource.k8s.io/x": false,
		"get /volumeattachments.storage.k8s.io/va": true, "get /volumeattachments.storage.k8s.io/x": false,
		"update /resourceslices.resource.k8s.io/slice": true, "update /resourceslices.resource.k8s.io/x": false,
		"list /resourceslices.resource.k8s.io?spec.nodeName=node-1": true, "list /resourceslices.resource.k8s.io": false,
		"update kube-node-lease/leases.coordination.k8s.io/node-1": true, "update kube-node-lease/leases.coordination.k8s.io/node-2": false,
		"create kube-node-lease/leases.coordination.k8s.io": true, "update ns/leases.coordination.k8s.io/node-1": false,
		"get /csinodes.storage.k8s.io/node-1": true, "get /csinodes.storage.k8s.io/node-2": false,
		"get /nodes/node-1": true, "get /nodes/node-2": false, "watch /nodes/node-1": true, "patch /nodes/node-1/status": true,
		"delete /nodes/node-1": false,
		// The pod network of a node looks at all of them, in the process of its kubelet: the role skiff:node.
		"list /nodes":                     true,
		"list /pods?spec.nodeName=node-1": true, "list /pods": true, // of all nodes: NetworkPolicies select them
		"get ns/pods/web": true, "get ns/pods/mirror": true, "get ns/pods/far": false, "patch ns/pods/web/status": true, "create ns/pods/web/eviction": true,
		"update ns/pods/web": false, "create ns/pods/web/exec": false,
		"list /services": true, "create ns/events": true, "list /runtimeclasses.node.k8s.io": true, "list ns/deployments.apps": false,
	} {
		question = strings.Replace(question, " /", " \x00/", 1) // cluster-wide, not a path
		attrs := ask(node, question)
		attrs.Namespace = strings.TrimPrefix(attrs.Namespace, "\x00")
		decision, reason, err := a.Authorize(t.Context(), attrs)
		if (decision == authorizer.DecisionAllow) != allowed || err != nil {
			t.Errorf("%s: %v (%s), %v, want allowed=%v", question, decision, reason, err, allowed)
		}
	}
	unknown := &user.DefaultInfo{Name: "system:node:", Groups: []string{"system:nodes"}}
	if _, reason, _ := a.Authorize(t.Context(), ask(unknown, "get ns/pods/web")); !strings.Contains(reason, `unknown node for user "system:node:"`) {
		t.Errorf("a node without a name: %q", reason)
	}
	impostor := &user.DefaultInfo{Name: "system:node:node-1"}
	if d, _, _ := a.Authorize(t.Context(), ask(impostor, "get ns/secrets/volume")); d == authorizer.DecisionAllow {
		t.Error("a user with the name of a node, but not of the group, is a node")
	}
}

// What upstream's roles give, through the whole chain.
func TestDefaultRoles(t *testing.T) {
	a := newAuthz(t)
	for _, tc := range []struct {
		user, group, question string
		allowed               bool
	}{
		{"root", "system:masters", "delete /nodes", true},
		{"root", "system:masters", "post /anything", true},
		{"system:kube-scheduler", "", "create ns/pods/x/binding", true},
		{"system:kube-scheduler", "", "delete ns/secrets/x", false},
		{"system:serviceaccount:kube-system:deployment-controller", "", "update ns/replicasets.apps/x", true},
		{"system:serviceaccount:kube-system:deployment-controller", "", "delete ns/secrets/x", false},
		{"ann", "system:authenticated", "get /apis/apps/v1", true},
		{"ann", "system:authenticated", "create \x00/selfsubjectaccessreviews.authorization.k8s.io", true},
		{"ann", "system:authenticated", "get ns/pods/x", false},
		{"system:anonymous", "system:unauthenticated", "get /healthz", true},
		{"system:anonymous", "system:unauthenticated", "get /apis", false},
		{"system:serviceaccount:ns:x", "system:serviceaccounts", "get /openid/v1/jwks", true},
	} {
		attrs := ask(&user.DefaultInfo{Name: tc.user, Groups: []string{tc.group}}, tc.question)
		attrs.Namespace = strings.TrimPrefix(attrs.Namespace, "\x00")
		if d, reason, err := a.Authorize(t.Context(), attrs); (d == authorizer.DecisionAllow) != tc.allowed || err != nil {
			t.Errorf("%s: %s: %v (%s), %v", tc.user, tc.question, d, reason, err)
		}
	}
}
