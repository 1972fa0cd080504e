// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/openapi"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/testenv"
)

// Every verb works on every resource that discovery lists, with an object that a user could write: create
// (also as a dry run), get, list, watch, tables, the four patches, update with its conflict, the status
// subresource, delete and deletecollection, and what kubectl explain reads.
func TestEveryResource(t *testing.T) {
	env := testenv.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	client := dynamic.NewForConfigOrDie(env.Config)
	specs := openapi3.NewRoot(openapi.NewClient(env.Client.Discovery().RESTClient()))
	_, lists, err := env.Client.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	listed := map[schema.GroupVersionResource]metav1.APIResource{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list.APIResources {
			listed[gv.WithResource(r.Name)] = r
		}
	}
	n := 0
	for gvr, r := range listed {
		if strings.Contains(gvr.Resource, "/") || !slices.Contains(r.Verbs, "list") {
			continue
		}
		n++
		sample := samples(t, n)
		_, status := listed[gvr.GroupVersion().WithResource(gvr.Resource+"/status")]
		t.Run(gvr.GroupVersion().String()+"/"+gvr.Resource, func(t *testing.T) {
			object, ok := sample[gvr.GroupResource().String()]
			if !ok {
				t.Fatal("testdata/resources.yaml has no object of this resource")
			}
			object.SetAPIVersion(gvr.GroupVersion().String())
			namespace := ""
			if r.Namespaced {
				namespace = "default"
			}
			if object.GetName() == "" {
				object.SetName("sample-" + strconv.Itoa(n))
			}
			object.SetLabels(map[string]string{"sample": "yes"})
			l := life{ctx: ctx, t: t, objects: client.Resource(gvr), sample: object, verbs: r.Verbs}
			if namespace != "" {
				l.objects = client.Resource(gvr).Namespace(namespace)
			}
			l.create()
			l.read()
			l.table(rest.CopyConfig(env.Config), gvr, namespace)
			l.patch()
			l.update()
			if status {
				l.status()
			}
			l.delete()
			explained(t, specs, gvr.GroupVersion().WithKind(r.Kind))
		})
	}
	if n < 60 {
		t.Errorf("discovery lists %d resources, which is too few to be all", n)
	}
}

// samples are testdata/resources.yaml with a number that is unique, and keys that are made for it.
func samples(t *testing.T, n int) map[string]*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile("testdata/resources.yaml")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "test"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	encodePEM := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	filled := strings.NewReplacer(
		"{{n}}", strconv.Itoa(n),
		"{{certificate}}", strings.ReplaceAll(string(encodePEM("CERTIFICATE", certificate)), "\n", `\n`),
		"{{request}}", base64.StdEncoding.EncodeToString(encodePEM("CERTIFICATE REQUEST", request)),
		"{{stub}}", base64.StdEncoding.EncodeToString(stub),
	).Replace(string(text))
	objects := map[string]map[string]any{}
	if err := yaml.Unmarshal([]byte(filled), &objects); err != nil {
		t.Fatal(err)
	}
	byResource := map[string]*unstructured.Unstructured{}
	for resource, object := range objects {
		byResource[resource] = &unstructured.Unstructured{Object: object}
	}
	return byResource
}

// life leads one object through its verbs. Each step ends the test if it fails, as the next ones build on it.
type life struct {
	ctx     context.Context
	t       *testing.T
	objects dynamic.ResourceInterface
	sample  *unstructured.Unstructured
	verbs   metav1.Verbs

	current *unstructured.Unstructured
	events  watch.Interface
}

func (l *life) name() string { return l.sample.GetName() }

func (l *life) create() {
	l.t.Helper()
	var err error
	if l.events, err = l.objects.Watch(l.ctx, metav1.ListOptions{LabelSelector: "sample=yes"}); err != nil {
		l.t.Fatalf("watch: %v", err)
	}
	l.t.Cleanup(l.events.Stop)
	if _, err := l.objects.Create(l.ctx, l.sample, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		l.t.Fatalf("create as a dry run: %v", err)
	}
	if _, err := l.objects.Get(l.ctx, l.name(), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		l.t.Fatalf("get after a dry run = %v, want NotFound", err)
	}
	if l.current, err = l.objects.Create(l.ctx, l.sample, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}); err != nil {
		l.t.Fatalf("create: %v", err)
	}
	if _, err := l.objects.Create(l.ctx, l.sample, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		l.t.Errorf("create again = %v, want AlreadyExists", err)
	}
	made := l.current.GetCreationTimestamp()
	if got := l.current; got.GetUID() == "" || got.GetResourceVersion() == "" || made.IsZero() || got.GetKind() != l.sample.GetKind() {
		l.t.Errorf("created: %v; want a UID, a resource version, a creation time and its kind", got)
	}
	if want := generations[l.sample.GetKind()]; l.current.GetGeneration() != want {
		l.t.Errorf("created with generation %d, want %d", l.current.GetGeneration(), want)
	}
	l.expect(watch.Added)
}

// generations are the kinds whose objects count their changes, as upstream's do: from 1, and the rest not at all.
var generations = func() map[string]int64 {
	m := map[string]int64{}
	for _, kind := range strings.Fields(`
		CronJob CustomResourceDefinition DaemonSet Deployment DeviceClass DeviceTaintRule EndpointSlice FlowSchema
		HorizontalPodAutoscaler Ingress IngressClass Job MutatingAdmissionPolicy MutatingAdmissionPolicyBinding
		MutatingWebhookConfiguration NetworkPolicy Pod PodDisruptionBudget PodTemplate PriorityClass
		PriorityLevelConfiguration ReplicaSet ReplicationController ResourceSlice StatefulSet
		ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration`) {
		m[kind] = 1
	}
	return m
}()

// expect waits for the next event of the kind; of MODIFIED there may be several.
func (l *life) expect(kind watch.EventType) {
	l.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case e, open := <-l.events.ResultChan():
			switch {
			case !open:
				l.t.Fatalf("the watch ended before a %s event", kind)
			case e.Type == kind && e.Object.(*unstructured.Unstructured).GetName() == l.name():
				return
			case e.Type == watch.Modified:
			default:
				l.t.Fatalf("watch: %s of %v, want %s of %s", e.Type, e.Object, kind, l.name())
			}
		case <-deadline:
			l.t.Fatalf("no %s event in 20 s", kind)
		}
	}
}

func (l *life) read() {
	l.t.Helper()
	got, err := l.objects.Get(l.ctx, l.name(), metav1.GetOptions{})
	if err != nil {
		l.t.Fatalf("get: %v", err)
	}
	if got.GetUID() != l.current.GetUID() || got.GetAPIVersion() != l.sample.GetAPIVersion() {
		l.t.Errorf("get = %s %s, want %s %s", got.GetAPIVersion(), got.GetUID(), l.sample.GetAPIVersion(), l.current.GetUID())
	}
	list, err := l.objects.List(l.ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + l.name()})
	if err != nil || len(list.Items) != 1 || list.Items[0].GetName() != l.name() {
		l.t.Fatalf("list by name = %v, %v; want the object alone", list, err)
	}
	if want := l.sample.GetKind() + "List"; list.GetKind() != want {
		l.t.Errorf("the list's kind is %s, want %s", list.GetKind(), want)
	}
	if none, err := l.objects.List(l.ctx, metav1.ListOptions{LabelSelector: "sample=no"}); err != nil || len(none.Items) != 0 {
		l.t.Errorf("list by a label that nobody has = %v, %v; want none", none, err)
	}
	if _, err := l.objects.List(l.ctx, metav1.ListOptions{FieldSelector: "spec.nosuchfield=1"}); !apierrors.IsBadRequest(err) {
		l.t.Errorf("list by an unknown field = %v, want BadRequest", err)
	}
}

func (l *life) table(config *rest.Config, gvr schema.GroupVersionResource, namespace string) {
	l.t.Helper()
	config.GroupVersion, config.APIPath = &schema.GroupVersion{Group: gvr.Group, Version: gvr.Version}, "/apis"
	if gvr.Group == "" {
		config.APIPath = "/api"
	}
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	config.AcceptContentTypes = "application/json;as=Table;v=v1;g=meta.k8s.io"
	client, err := rest.RESTClientFor(config)
	if err != nil {
		l.t.Fatal(err)
	}
	body, err := client.Get().NamespaceIfScoped(namespace, namespace != "").Resource(gvr.Resource).
		SetHeader("Accept", config.AcceptContentTypes).DoRaw(l.ctx)
	if err != nil {
		l.t.Fatalf("get as a table: %v", err)
	}
	var table metav1.Table
	if err := json.Unmarshal(body, &table); err != nil {
		l.t.Fatal(err)
	}
	if table.Kind != "Table" || len(table.Rows) == 0 || len(table.ColumnDefinitions) == 0 {
		l.t.Fatalf("table = %.200s; want rows and columns", body)
	}
	for _, row := range table.Rows {
		if len(row.Cells) != len(table.ColumnDefinitions) {
			l.t.Errorf("a row has %d cells for %d columns", len(row.Cells), len(table.ColumnDefinitions))
		}
	}
}

func (l *life) patch() {
	l.t.Helper()
	for kind, body := range map[types.PatchType]string{
		types.JSONPatchType:           `[{"op":"add","path":"/metadata/labels/json","value":"1"}]`,
		types.MergePatchType:          `{"metadata":{"labels":{"merge":"1"}}}`,
		types.StrategicMergePatchType: `{"metadata":{"labels":{"strategic":"1"}}}`,
	} {
		if _, err := l.objects.Patch(l.ctx, l.name(), kind, []byte(body), metav1.PatchOptions{}); err != nil {
			l.t.Fatalf("patch %s: %v", kind, err)
		}
	}
	apply := &unstructured.Unstructured{Object: map[string]any{}}
	apply.SetAPIVersion(l.sample.GetAPIVersion())
	apply.SetKind(l.sample.GetKind())
	apply.SetName(l.name())
	apply.SetLabels(map[string]string{"apply": "1"})
	got, err := l.objects.Apply(l.ctx, l.name(), apply, metav1.ApplyOptions{FieldManager: "applier"})
	if err != nil {
		l.t.Fatalf("server-side apply: %v", err)
	}
	for _, label := range []string{"sample", "json", "merge", "strategic", "apply"} {
		if got.GetLabels()[label] == "" {
			l.t.Errorf("after the patches the label %s is missing from %v", label, got.GetLabels())
		}
	}
	apply.SetLabels(map[string]string{"sample": "mine"})
	if _, err := l.objects.Apply(l.ctx, l.name(), apply, metav1.ApplyOptions{FieldManager: "applier"}); !apierrors.IsConflict(err) {
		l.t.Errorf("apply of another manager's field = %v, want Conflict", err)
	}
	// Applying the whole sample says that the schema of server-side apply knows all its fields.
	if _, err := l.objects.Apply(l.ctx, l.name(), l.sample, metav1.ApplyOptions{FieldManager: "whole", Force: true}); err != nil {
		l.t.Errorf("apply of the whole object: %v", err)
	}
	l.expect(watch.Modified)
}

func (l *life) update() {
	l.t.Helper()
	stale := l.current.DeepCopy()
	stale.SetLabels(map[string]string{"sample": "yes", "stale": "yes"})
	if _, err := l.objects.Update(l.ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		l.t.Errorf("update of an old version = %v, want Conflict", err)
	}
	fresh, err := l.objects.Get(l.ctx, l.name(), metav1.GetOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	fresh.SetAnnotations(map[string]string{"updated": "yes"})
	if l.current, err = l.objects.Update(l.ctx, fresh, metav1.UpdateOptions{}); err != nil {
		l.t.Fatalf("update: %v", err)
	}
	same, err := l.objects.Update(l.ctx, l.current, metav1.UpdateOptions{})
	if err != nil || same.GetResourceVersion() != l.current.GetResourceVersion() {
		l.t.Errorf("an update that changes nothing = version %s, %v; want %s still", same.GetResourceVersion(), err, l.current.GetResourceVersion())
	}
	renamed := l.current.DeepCopy()
	renamed.SetUID("5a3c1a0e-0000-4000-8000-00000000ffff")
	if _, err := l.objects.Update(l.ctx, renamed, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		l.t.Errorf("update of another UID = %v, want Conflict", err)
	}
}

// status writes the subresource, which leaves the generation as it is.
func (l *life) status() {
	l.t.Helper()
	before, err := l.objects.Get(l.ctx, l.name(), metav1.GetOptions{}, "status")
	if err != nil {
		l.t.Fatalf("get of the status: %v", err)
	}
	if _, err := l.objects.UpdateStatus(l.ctx, before, metav1.UpdateOptions{}); err != nil {
		l.t.Errorf("update of the status: %v", err)
	}
	after, err := l.objects.Patch(l.ctx, l.name(), types.MergePatchType, []byte(`{"metadata":{"annotations":{"by":"status"}}}`), metav1.PatchOptions{}, "status")
	if err != nil {
		l.t.Errorf("patch of the status: %v", err)
	} else if after.GetGeneration() != before.GetGeneration() {
		l.t.Errorf("the generation went from %d to %d by a write to the status", before.GetGeneration(), after.GetGeneration())
	}
}

func (l *life) delete() {
	l.t.Helper()
	uid := types.UID("5a3c1a0e-0000-4000-8000-00000000ffff")
	if err := l.objects.Delete(l.ctx, l.name(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}); !apierrors.IsConflict(err) {
		l.t.Errorf("delete with another UID = %v, want Conflict", err)
	}
	background := metav1.DeletePropagationBackground // a ReplicationController would wait for the garbage collector
	if err := l.objects.Delete(l.ctx, l.name(), metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		l.t.Fatalf("delete: %v", err)
	}
	if l.sample.GetKind() == "Namespace" {
		return // goes away when its controller has emptied it, and has no deletecollection
	}
	l.expect(watch.Deleted)
	if _, err := l.objects.Get(l.ctx, l.name(), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		l.t.Fatalf("get after delete = %v, want NotFound", err)
	}
	if !slices.Contains(l.verbs, "deletecollection") {
		l.t.Fatal("deletecollection is missing")
	}
	if _, err := l.objects.Create(l.ctx, l.sample, metav1.CreateOptions{}); err != nil {
		l.t.Fatalf("create after delete: %v", err)
	}
	if err := l.objects.DeleteCollection(l.ctx, metav1.DeleteOptions{PropagationPolicy: &background}, metav1.ListOptions{LabelSelector: "sample=yes"}); err != nil {
		l.t.Fatalf("deletecollection: %v", err)
	}
	if list, err := l.objects.List(l.ctx, metav1.ListOptions{LabelSelector: "sample=yes"}); err != nil || len(list.Items) != 0 {
		l.t.Errorf("after deletecollection: %v, %v; want none", list, err)
	}
}

// explained says that the kind's OpenAPI document has its schema, with words for the reader.
func explained(t *testing.T, specs openapi3.Root, gvk schema.GroupVersionKind) {
	t.Helper()
	spec, err := specs.GVSpec(gvk.GroupVersion())
	if err != nil {
		t.Fatalf("OpenAPI of %s: %v", gvk.GroupVersion(), err)
	}
	for _, s := range spec.Components.Schemas {
		kinds, _ := s.Extensions["x-kubernetes-group-version-kind"].([]any)
		for _, k := range kinds {
			m, _ := k.(map[string]any)
			if fmt.Sprint(m["kind"]) == gvk.Kind && fmt.Sprint(m["group"]) == gvk.Group && fmt.Sprint(m["version"]) == gvk.Version {
				if s.Description == "" || len(s.Properties) == 0 {
					t.Errorf("the schema of %s has description %q and %d properties", gvk, s.Description, len(s.Properties))
				}
				return
			}
		}
	}
	t.Errorf("OpenAPI of %s has no schema of %s", gvk.GroupVersion(), gvk.Kind)
}
