// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	restclient "k8s.io/client-go/rest"
	"k8s.io/component-base/compatibility"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/inprocess"
	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controllers/csrsigning"
	"github.com/skiff-k8s/skiff/controllers/nodeipam"
	"github.com/skiff-k8s/skiff/datastore"
	"github.com/skiff-k8s/skiff/pki"
	"github.com/skiff-k8s/skiff/registry"
	"github.com/skiff-k8s/skiff/registry/authorization"
	"github.com/skiff-k8s/skiff/registry/core"
)

// cluster is the real API server, mostly with all controllers, and neither scheduler nor kubelet.
type cluster struct {
	kubernetes.Interface
	t    testing.TB
	as   func(user.Info) kubernetes.Interface
	keys *pki.PKI
	door *inprocess.Door

	directories *directories
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	return newClusterWith(t, func(*controllers.Deps) {})
}

// newClusterWith is newCluster with a change of what the controllers work with.
func newClusterWith(t *testing.T, change func(*controllers.Deps)) *cluster {
	t.Helper()
	c := serve(t)
	deps := c.deps()
	change(&deps)
	t.Cleanup(c.control(deps))
	return c
}

// serve starts the API server, without controllers.
func serve(t testing.TB, change ...func(kubernetes.Interface, *apiserver.Config)) *cluster {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	store, err := datastore.Open(ctx, datastore.Config{Dir: t.TempDir(), TickMs: 5, UnsafeNoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	door := inprocess.NewDoor()
	admin := door.ClientConfig(&user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}})
	client := kubernetes.NewForConfigOrDie(admin)
	cfg := apiserver.Config{
		Store: store, Resources: registry.All(registry.Deps{Core: core.Deps{Budgets: client.PolicyV1()}}), Door: door, Loopback: admin,
		Authenticator: inprocess.Authenticator(), Authorizer: authorizerfactory.NewAlwaysAllowAuthorizer(),
		Reviews: map[schema.GroupVersion]map[string]genericrest.Storage{
			authorizationv1.SchemeGroupVersion: authorization.Storages(authorization.Deps{Authorizer: joiners{}}),
		},
		ExternalAddress: "127.0.0.1:6443", Version: compatibility.NewEffectiveVersionFromString("1.37.2", "1.37", "1.37"),
	}
	for _, c := range change {
		c(client, &cfg)
	}
	server, err := apiserver.New(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := pki.New(pki.Config{Dir: t.TempDir(), NodeName: "server"})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Run(ctx, door) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		_ = store.Close()
	})
	return &cluster{
		Interface: client, t: t, keys: keys, directories: &directories{}, door: door,
		as: func(u user.Info) kubernetes.Interface { return kubernetes.NewForConfigOrDie(door.ClientConfig(u)) },
	}
}

// deps is what controllers work with, informers included that have not started.
func (c *cluster) deps() controllers.Deps {
	return c.depsWith(func(_ string, next http.RoundTripper) http.RoundTripper { return next })
}

// depsWith is deps with something between the controllers, each of which has an identity, and the API server.
func (c *cluster) depsWith(wrap func(identity string, next http.RoundTripper) http.RoundTripper) controllers.Deps {
	wrapped := func(u user.Info, identity string) *restclient.Config {
		config := c.door.ClientConfig(u)
		config.Wrap(func(next http.RoundTripper) http.RoundTripper { return wrap(identity, next) })
		return config
	}
	as := func(name string) *restclient.Config {
		return wrapped(&user.DefaultInfo{Name: "system:serviceaccount:kube-system:" + name}, name)
	}
	admin := &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}
	return controllers.Deps{
		ClientFor:   func(name string) kubernetes.Interface { return kubernetes.NewForConfigOrDie(as(name)) },
		MetadataFor: func(name string) metadata.Interface { return metadata.NewForConfigOrDie(as(name)) },
		ConfigFor:   as,
		Discovery:   c.Discovery(),
		Informers:   informers.NewSharedInformerFactory(kubernetes.NewForConfigOrDie(wrapped(admin, "informers")), 0),
		PodRanges:   []nodeipam.Range{{Cluster: netip.MustParsePrefix("10.42.0.0/16"), NodeBits: 24}},
		RootCA:      []byte("the CA"),
		Signers:     csrsigning.Authorities{Client: c.keys.ClientCA, KubeletServer: c.keys.KubeletCA, Legacy: c.keys.ServerCA},

		LocalVolumes: c.directories,

		ManagerClient:   kubernetes.NewForConfigOrDie(wrapped(&user.DefaultInfo{Name: "system:kube-controller-manager"}, "system:kube-controller-manager")),
		APIServerClient: kubernetes.NewForConfigOrDie(wrapped(admin, "system:apiserver")),
		IssueToken: func(sa *corev1.ServiceAccount, secret *corev1.Secret) (string, error) {
			return "token of " + sa.Name + " in " + secret.Name, nil
		},
	}
}

// control starts all controllers and returns how to stop them.
func (c *cluster) control(deps controllers.Deps) (stop func()) {
	c.t.Helper()
	manager, err := controllers.New(deps)
	if err != nil {
		c.t.Fatal(err)
	}
	managed := make(chan error, 1)
	ctx, cancel := context.WithCancel(c.t.Context())
	go func() {
		deps.Informers.StartWithContext(ctx)
		managed <- manager.Run(ctx)
	}()
	return func() {
		cancel()
		if err := <-managed; err != nil {
			c.t.Errorf("controllers: %v", err)
		}
		deps.Informers.Shutdown()
	}
}

// patience is how long a test waits for what must come. A machine that runs other tests as well can be slow.
const patience = 2 * time.Minute

// eventually waits until check returns nil.
func (c *cluster) eventually(what string, check func(ctx context.Context) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	start := time.Now()
	var last error
	for {
		err := check(ctx)
		if ctx.Err() == nil {
			last = err
		}
		if err == nil {
			c.t.Logf("%s after %v", what, time.Since(start).Round(time.Millisecond))
			return
		}
		select {
		case <-ctx.Done():
			c.t.Fatalf("%s: not in %s: %v", what, patience, last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *cluster) namespace(name string) {
	c.t.Helper()
	if _, err := c.CoreV1().Namespaces().Create(c.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) deployment(namespace, name string, replicas int32) *appsv1.Deployment {
	c.t.Helper()
	labels := map[string]string{"app": name}
	d, err := c.AppsV1().Deployments(namespace).Create(c.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}},
			},
			Strategy: appsv1.DeploymentStrategy{
				Type: appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{
					MaxSurge:       ptr.To(intstr.FromString("25%")),
					MaxUnavailable: ptr.To(intstr.FromString("25%")),
				},
			},
			RevisionHistoryLimit:    ptr.To[int32](10),
			ProgressDeadlineSeconds: ptr.To[int32](600),
		},
	}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

func (c *cluster) pods(ctx context.Context, namespace string) ([]corev1.Pod, error) {
	list, err := c.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

func (c *cluster) wantPods(namespace string, n int) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%d pods in %s", n, namespace), func(ctx context.Context) error {
		pods, err := c.pods(ctx, namespace)
		if err == nil && len(pods) != n {
			err = fmt.Errorf("%d pods", len(pods))
		}
		return err
	})
}

// nodeFor is the only node that a daemon pod may be on, or else "node".
func nodeFor(pod *corev1.Pod) string {
	if pod.Spec.Affinity == nil {
		return "node"
	}
	return pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
}

// startPods does the scheduler's and the kubelet's part for all pods of a namespace.
func (c *cluster) startPods(namespace string) {
	c.t.Helper()
	pods, err := c.pods(c.t.Context(), namespace)
	if err != nil {
		c.t.Fatal(err)
	}
	for i, pod := range pods {
		if pod.Status.Phase == corev1.PodRunning {
			continue
		}
		if pod.Spec.NodeName == "" {
			binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: nodeFor(&pod)}}
			if err := c.CoreV1().Pods(namespace).Bind(c.t.Context(), binding, metav1.CreateOptions{}); err != nil && !apierrors.IsNotFound(err) {
				c.t.Fatal(err)
			}
			continue // it is seen as it is now the next time
		}
		ip := fmt.Sprintf("10.42.0.%d", i+2)
		pod.Status.Phase = corev1.PodRunning
		pod.Status.PodIP, pod.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		if _, err := c.CoreV1().Pods(namespace).UpdateStatus(c.t.Context(), &pod, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			c.t.Fatal(err)
		}
	}
}

func (c *cluster) wantComplete(namespace, name string) {
	c.t.Helper()
	c.eventually("rollout of "+name, func(ctx context.Context) error {
		c.startPods(namespace)
		d, err := c.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		s := d.Status
		if want := *d.Spec.Replicas; s.ObservedGeneration != d.Generation || s.Replicas != want || s.UpdatedReplicas != want || s.AvailableReplicas != want {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
}

func TestRollout(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	if _, err := c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.deployment("ns", "web", 3)
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	if _, err := c.CoreV1().Services("ns").Create(ctx, service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.wantPods("ns", 3)
	c.wantComplete("ns", "web")

	d, err := c.AppsV1().Deployments("ns").Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d.Spec.Template.Spec.Containers[0].Image = "v2"
	if _, err := c.AppsV1().Deployments("ns").Update(ctx, d, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.wantComplete("ns", "web")
	sets, err := c.AppsV1().ReplicaSets("ns").List(ctx, metav1.ListOptions{})
	if err != nil || len(sets.Items) != 2 {
		t.Fatalf("%d ReplicaSets, %v; want 2", len(sets.Items), err)
	}
	for _, set := range sets.Items {
		hash := set.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
		if set.Name != "web-"+hash || set.Spec.Selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] != hash {
			t.Errorf("ReplicaSet %s has hash %q", set.Name, hash)
		}
	}
	c.eventually("endpoints of all pods", func(ctx context.Context) error {
		slices, err := c.DiscoveryV1().EndpointSlices("ns").List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=web"})
		if err != nil {
			return err
		}
		ready := 0
		for _, slice := range slices.Items {
			for _, endpoint := range slice.Endpoints {
				if *endpoint.Conditions.Ready {
					ready++
				}
			}
		}
		if ready != 3 {
			return fmt.Errorf("%d ready endpoints", ready)
		}
		endpoints, err := c.CoreV1().Endpoints("ns").Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(endpoints.Subsets) != 1 || len(endpoints.Subsets[0].Addresses) != 3 {
			return fmt.Errorf("subsets are %+v", endpoints.Subsets)
		}
		return nil
	})
	c.eventually("an event", func(ctx context.Context) error {
		events, err := c.CoreV1().Events("ns").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Reason == "ScalingReplicaSet" && e.Source.Component == "deployment-controller" && strings.HasPrefix(e.Message, "Scaled up replica set web-") {
				return nil
			}
		}
		return fmt.Errorf("none of %d says so", len(events.Items))
	})
}

func TestDeletionPropagation(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground} {
		c.deployment("ns", "web", 2)
		c.wantPods("ns", 2)
		if err := c.AppsV1().Deployments("ns").Delete(ctx, "web", metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
			t.Fatal(err)
		}
		c.wantPods("ns", 0)
		c.eventually(string(policy)+" deletion", func(ctx context.Context) error {
			if _, err := c.AppsV1().Deployments("ns").Get(ctx, "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("the Deployment is still there: %v", err)
			}
			sets, err := c.AppsV1().ReplicaSets("ns").List(ctx, metav1.ListOptions{})
			if err == nil && len(sets.Items) > 0 {
				err = fmt.Errorf("%d ReplicaSets", len(sets.Items))
			}
			return err
		})
	}

	c.deployment("ns", "web", 2)
	c.wantPods("ns", 2)
	if err := c.AppsV1().Deployments("ns").Delete(ctx, "web", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationOrphan)}); err != nil {
		t.Fatal(err)
	}
	c.eventually("orphaned ReplicaSet", func(ctx context.Context) error {
		if _, err := c.AppsV1().Deployments("ns").Get(ctx, "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the Deployment is still there: %v", err)
		}
		sets, err := c.AppsV1().ReplicaSets("ns").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(sets.Items) != 1 || len(sets.Items[0].OwnerReferences) != 0 {
			return fmt.Errorf("ReplicaSets are %+v", sets.Items)
		}
		return nil
	})
	c.wantPods("ns", 2)
}

// Objects that own each other in a circle go together, whichever is deleted in the foreground.
func TestOwnersInCircles(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	configMaps := c.CoreV1().ConfigMaps("ns")
	for circle := range 20 {
		var made []*corev1.ConfigMap
		for i := range 3 {
			cm, err := configMaps.Create(ctx, &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("circle-%d-%d", circle, i), Labels: map[string]string{"circle": ""}},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			made = append(made, cm)
		}
		for i, cm := range made {
			owner := made[(i+2)%3]
			patch := fmt.Sprintf(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}]}}`, owner.Name, owner.UID)
			if _, err := configMaps.Patch(ctx, cm.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := configMaps.Delete(ctx, made[0].Name, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}); err != nil {
			t.Fatal(err)
		}
	}
	c.eventually("all circles are gone", func(ctx context.Context) error {
		left, err := configMaps.List(ctx, metav1.ListOptions{LabelSelector: "circle"})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("%d ConfigMaps are left, %s with owners %v", len(left.Items), left.Items[0].Name, left.Items[0].OwnerReferences)
		}
		return err
	})
}

// An object whose owner never existed goes; one with an owner that is there stays and forgets the other.
func TestDanglingOwners(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	create := func(name string, refs ...metav1.OwnerReference) *corev1.ConfigMap {
		t.Helper()
		cm, err := c.CoreV1().ConfigMaps("ns").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: refs}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return cm
	}
	owner := create("owner")
	real := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: owner.UID}
	false := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "never", UID: "no-such-uid"}
	create("dangling", false)
	create("both", real, false)
	c.eventually("garbage is collected", func(ctx context.Context) error {
		if _, err := c.CoreV1().ConfigMaps("ns").Get(ctx, "dangling", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("get = %v", err)
		}
		both, err := c.CoreV1().ConfigMaps("ns").Get(ctx, "both", metav1.GetOptions{})
		if err == nil && len(both.OwnerReferences) != 1 {
			err = fmt.Errorf("owners are %v", both.OwnerReferences)
		}
		return err
	})
}

func TestNamespace(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	c.eventually("what each namespace has", func(ctx context.Context) error {
		if _, err := c.CoreV1().ServiceAccounts("ns").Get(ctx, "default", metav1.GetOptions{}); err != nil {
			return err
		}
		cm, err := c.CoreV1().ConfigMaps("ns").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		if err == nil && cm.Data["ca.crt"] != "the CA" {
			err = fmt.Errorf("data is %v", cm.Data)
		}
		return err
	})
	c.deployment("ns", "web", 2)
	c.wantPods("ns", 2)
	_, err := c.CoreV1().ConfigMaps("ns").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.com/hold"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CoreV1().Namespaces().Delete(ctx, "ns", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("the condition that tells of the finalizer", func(ctx context.Context) error {
		ns, err := c.CoreV1().Namespaces().Get(ctx, "ns", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range ns.Status.Conditions {
			if condition.Type == corev1.NamespaceFinalizersRemaining && condition.Status == corev1.ConditionTrue &&
				strings.Contains(condition.Message, "example.com/hold in 1 resource instances") {
				return nil
			}
		}
		return fmt.Errorf("conditions are %+v", ns.Status.Conditions)
	})
	held, err := c.CoreV1().ConfigMaps("ns").Get(ctx, "held", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	held.Finalizers = nil
	if _, err := c.CoreV1().ConfigMaps("ns").Update(ctx, held, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("the end of the namespace", func(ctx context.Context) error {
		_, err := c.CoreV1().Namespaces().Get(ctx, "ns", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("get = %v", err)
	})
}

func TestNode(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	for _, name := range []string{"a", "b"} {
		node := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}},
		}
		node, err := c.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}
		c.eventually("status of node "+name, func(ctx context.Context) error {
			current, err := c.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			current.Status.Conditions = node.Status.Conditions
			_, err = c.CoreV1().Nodes().UpdateStatus(ctx, current, metav1.UpdateOptions{})
			return err
		})
	}
	seen := map[string]string{}
	for _, name := range []string{"a", "b"} {
		c.eventually("node "+name+" is usable", func(ctx context.Context) error {
			node, err := c.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if len(node.Spec.Taints) > 0 || len(node.Spec.PodCIDRs) != 1 || node.Spec.PodCIDR != node.Spec.PodCIDRs[0] {
				return fmt.Errorf("spec is %+v", node.Spec)
			}
			seen[name] = node.Spec.PodCIDR
			return nil
		})
	}
	if seen["a"] == seen["b"] {
		t.Errorf("both nodes have %s", seen["a"])
	}

	// A node that says it is not ready gets both taints; the pod that does not tolerate that is evicted.
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec:       corev1.PodSpec{NodeName: "a", TerminationGracePeriodSeconds: ptr.To[int64](0), Containers: []corev1.Container{{Name: "c", Image: "v1"}}},
	}
	if _, err := c.CoreV1().Pods("ns").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("node a is not ready", func(ctx context.Context) error {
		node, err := c.CoreV1().Nodes().Get(ctx, "a", metav1.GetOptions{})
		if err != nil {
			return err
		}
		node.Status.Conditions[0].Status = corev1.ConditionFalse
		_, err = c.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
		return err
	})
	c.eventually("taints", func(ctx context.Context) error {
		node, err := c.CoreV1().Nodes().Get(ctx, "a", metav1.GetOptions{})
		if err == nil && len(node.Spec.Taints) != 2 {
			err = fmt.Errorf("taints are %+v", node.Spec.Taints)
		}
		return err
	})
	c.wantPods("ns", 0)
}
