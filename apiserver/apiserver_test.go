// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/registry"
	"github.com/skiff-k8s/skiff/testenv"
)

// newClient is for a client that may do everything on an empty cluster.
func newClient(t *testing.T) kubernetes.Interface {
	t.Helper()
	return testenv.Start(t).Client
}

func TestObjectsLiveThroughTheAPI(t *testing.T) {
	ctx, c := t.Context(), newClient(t)
	if _, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	watch, err := c.CoreV1().ConfigMaps("ns").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	if _, err := c.CoreV1().ConfigMaps("ns").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"k": "1"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().ConfigMaps("ns").Patch(ctx, "a", types.StrategicMergePatchType, []byte(`{"data":{"k":"2"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	applied, err := c.CoreV1().ConfigMaps("ns").Apply(ctx, applycorev1.ConfigMap("a", "ns").WithData(map[string]string{"other": "3"}), metav1.ApplyOptions{FieldManager: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if applied.Data["k"] != "2" || applied.Data["other"] != "3" || len(applied.ManagedFields) != 2 {
		t.Errorf("applied = %v, %d managers; want k=2, other=3 and two managers", applied.Data, len(applied.ManagedFields))
	}
	for _, want := range []string{"ADDED", "MODIFIED", "MODIFIED"} {
		select {
		case e := <-watch.ResultChan():
			if string(e.Type) != want {
				t.Errorf("watch event = %s, want %s", e.Type, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no %s event in 10 s", want)
		}
	}
	list, err := c.CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("list = %v, %v; want one", list, err)
	}
	if kind := list.Items[0].Kind; kind != "" {
		t.Errorf("a list's item says kind %q, want none, as upstream", kind)
	}
	if err := c.CoreV1().ConfigMaps("ns").Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().ConfigMaps("ns").Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get after delete = %v, want NotFound", err)
	}
}

// The generation of a Deployment goes up with its spec, and not with its status.
func TestGenerationFollowsSpec(t *testing.T) {
	ctx, c := t.Context(), newClient(t)
	labels := map[string]string{"app": "x"}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "ns"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
		},
		Status: appsv1.DeploymentStatus{Replicas: 7},
	}
	d, err := c.AppsV1().Deployments("ns").Create(ctx, d, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Generation != 1 || d.Status.Replicas != 0 {
		t.Errorf("created: generation %d, status.replicas %d; want 1 and 0", d.Generation, d.Status.Replicas)
	}
	d.Status.Replicas = 3
	d, err = c.AppsV1().Deployments("ns").UpdateStatus(ctx, d, metav1.UpdateOptions{})
	if err != nil || d.Generation != 1 || d.Status.Replicas != 3 {
		t.Fatalf("UpdateStatus = generation %d, replicas %d, %v; want 1, 3", d.Generation, d.Status.Replicas, err)
	}
	scale, err := c.AppsV1().Deployments("ns").GetScale(ctx, "d", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scale.Spec.Replicas = 5
	if _, err := c.AppsV1().Deployments("ns").UpdateScale(ctx, "d", scale, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	d, err = c.AppsV1().Deployments("ns").Get(ctx, "d", metav1.GetOptions{})
	if err != nil || d.Generation != 2 || *d.Spec.Replicas != 5 || d.Status.Replicas != 3 {
		t.Errorf("after scale: generation %d, replicas %d, status %d, %v; want 2, 5, 3", d.Generation, *d.Spec.Replicas, d.Status.Replicas, err)
	}
}

// What an EndpointSlice says counts as its spec. Its controller tells by the generation whether it has seen its own write.
func TestGenerationOfEndpointSlice(t *testing.T) {
	ctx, c := t.Context(), newClient(t)
	slices := c.DiscoveryV1().EndpointSlices("default")
	slice, err := slices.Create(ctx, &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, AddressType: discoveryv1.AddressTypeIPv4}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name   string
		change func()
		want   int64
	}{
		{"an annotation", func() { slice.Annotations = map[string]string{"a": "b"} }, 1},
		{"an endpoint", func() { slice.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}} }, 2},
		{"a label", func() { slice.Labels = map[string]string{"a": "b"} }, 3},
	} {
		step.change()
		if slice, err = slices.Update(ctx, slice, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if slice.Generation != step.want {
			t.Errorf("after a change of %s the generation is %d, want %d", step.name, slice.Generation, step.want)
		}
	}
}

// An event is one object with two faces.
func TestEventInBothGroups(t *testing.T) {
	ctx, c := t.Context(), newClient(t)
	_, err := c.EventsV1().Events("default").Create(ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e"}, EventTime: metav1.NowMicro(), ReportingController: "test/c", ReportingInstance: "i",
		Action: "Do", Reason: "Done", Type: "Normal", Note: "hello", Regarding: corev1.ObjectReference{Namespace: "default", Kind: "Pod", Name: "p"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := c.CoreV1().Events("default").Get(ctx, "e", metav1.GetOptions{})
	if err != nil || e.Message != "hello" || e.InvolvedObject.Name != "p" {
		t.Errorf("core event = %+v, %v; want the note as message", e, err)
	}
	for selector, want := range map[string]int{
		"reason=Done": 1, "reportingController=test/c": 1, "regarding.name=p": 1, "regarding.name=q": 0, "type=Normal,metadata.name=e": 1,
	} {
		selected, err := c.EventsV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: selector})
		if err != nil || len(selected.Items) != want || want > 0 && selected.Items[0].Note != "hello" {
			t.Errorf("list by %s = %v, %v; want %d", selector, selected, err, want)
		}
	}
	// Each version has its own names.
	if list, err := c.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=p,reportingComponent=test/c"}); err != nil || len(list.Items) != 1 {
		t.Errorf("list core events by involvedObject.name = %v, %v; want the event", list, err)
	}
	if _, err := c.EventsV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=p"}); !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "field label not supported: involvedObject.name") {
		t.Errorf("list new events by involvedObject.name = %v, want BadRequest", err)
	}
}

// The health checks have upstream's names, and tell of etcd.
func TestHealth(t *testing.T) {
	env := testenv.Start(t)
	ask := func(path string) (string, error) {
		body, err := env.Client.Discovery().RESTClient().Get().RequestURI(path).DoRaw(t.Context())
		return string(body), err
	}
	for path, check := range map[string]string{
		"/livez?verbose": "etcd", "/readyz?verbose": "etcd-readiness", "/healthz?verbose": "etcd",
	} {
		eventually(t, path+" with "+check, func() error {
			body, err := ask(path)
			if err == nil && !strings.Contains(body, "[+]"+check+" ok") {
				err = fmt.Errorf("%s", body)
			}
			return err
		})
	}
	if body, err := ask("/livez/etcd"); err != nil || body != "ok" {
		t.Errorf("/livez/etcd = %q, %v; want ok", body, err)
	}
	if err := env.Store.Close(); err != nil {
		t.Fatal(err)
	}
	if body, err := ask("/livez/etcd"); err == nil {
		t.Errorf("/livez/etcd without etcd = %q, want an error", body)
	}
}

func TestDiscoveryListsEveryResource(t *testing.T) {
	c := newClient(t)
	_, lists, err := c.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, l := range lists {
		n += len(l.APIResources)
	}
	if n < len(registry.All(registry.Deps{})) {
		t.Errorf("discovery lists %d resources, want at least %d", n, len(registry.All(registry.Deps{})))
	}
}

// Subresources are listed with their verbs, in both kinds of discovery.
func TestDiscoveryListsSubresources(t *testing.T) {
	c := newClient(t)
	want := map[string]string{
		"certificates.k8s.io/v1/certificatesigningrequests/approval": "CertificateSigningRequest get,patch,update",
		"certificates.k8s.io/v1/certificatesigningrequests/status":   "CertificateSigningRequest get,patch,update",
		"autoscaling/v1/horizontalpodautoscalers":                    "HorizontalPodAutoscaler create,delete,deletecollection,get,list,patch,update,watch",
		"autoscaling/v2/horizontalpodautoscalers/status":             "HorizontalPodAutoscaler get,patch,update",
		"apps/v1/deployments/scale":                                  "Scale get,patch,update",
		"v1/pods/eviction":                                           "Eviction create",
		"v1/pods/ephemeralcontainers":                                "Pod get,patch,update",
		"v1/namespaces/finalize":                                     "Namespace update",
	}
	for _, legacy := range []bool{false, true} {
		client := discovery.NewDiscoveryClient(c.Discovery().RESTClient())
		client.UseLegacyDiscovery = legacy
		eventually(t, fmt.Sprintf("legacy %v: all groups", legacy), func() error { // they are registered one by one
			_, lists, err := client.ServerGroupsAndResources()
			if err != nil {
				return err
			}
			got := map[string]string{}
			for _, list := range lists {
				for _, r := range list.APIResources {
					got[list.GroupVersion+"/"+r.Name] = r.Kind + " " + strings.Join(r.Verbs, ",")
				}
			}
			for name, want := range want {
				if got[name] != want {
					return fmt.Errorf("%s = %q, want %q", name, got[name], want)
				}
			}
			return nil
		})
	}
}
