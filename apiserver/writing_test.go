// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/testenv"
)

// A dry run goes through everything and keeps nothing: no object, no address, no port.
func TestDryRunAllocatesNothing(t *testing.T) {
	env := testenv.Start(t, testenv.NodePorts(30000, 30000))
	ctx, services := t.Context(), env.Client.CoreV1().Services("default")
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "s"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: "10.43.0.77", Ports: []corev1.ServicePort{{Port: 80}}},
	}
	for range 2 { // the second would find both taken
		dry, err := services.Create(ctx, service, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil || dry.UID == "" || dry.Spec.ClusterIP != "10.43.0.77" || dry.Spec.IPFamilies == nil {
			t.Fatalf("dry run: %+v, %v; want the whole Service", dry, err)
		}
	}
	if list, err := services.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("after the dry runs there are %v, %v", list.Items, err)
	}
	if list, err := env.Client.NetworkingV1().IPAddresses().List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("after the dry runs there are addresses %v, %v", list.Items, err)
	}
	real, err := services.Create(ctx, service, metav1.CreateOptions{})
	if err != nil || real.Spec.Ports[0].NodePort != 30000 {
		t.Fatalf("in earnest: %+v, %v; want the only port", real, err)
	}
	if err := services.Delete(ctx, "s", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Fatal(err)
	}
	if _, err := services.Get(ctx, "s", metav1.GetOptions{}); err != nil {
		t.Errorf("after a dry delete: %v", err)
	}
	if _, err := services.Create(ctx, service, metav1.CreateOptions{DryRun: []string{"Some"}}); !apierrors.IsInvalid(err) {
		t.Errorf("dryRun=Some: %v, want Invalid", err)
	}
}

// What is unknown or said twice is an error, a warning, or nobody's business.
func TestFieldValidation(t *testing.T) {
	env := testenv.Start(t)
	const body = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"%s"},"colour":"red","data":{"a":"1","a":"2"}}`
	const unknown, twice = `unknown field "colour"`, `duplicate field "data.a"`
	for validation, want := range map[string]struct {
		code     int
		warnings int
	}{"Strict": {400, 0}, "Warn": {201, 2}, "Ignore": {201, 0}, "": {201, 2}, "Nonsense": {422, 0}} {
		name := "c" + strings.ToLower(validation)
		response, raw := exchange(t, env.Config, http.MethodPost, "/api/v1/namespaces/default/configmaps?fieldValidation="+validation,
			http.Header{"Content-Type": {"application/json"}}, strings.NewReader(fmt.Sprintf(body, name)))
		warnings := strings.Join(response.Header["Warning"], "\n")
		if response.StatusCode != want.code || len(response.Header["Warning"]) != want.warnings {
			t.Errorf("%s: %d, warnings %q; want %+v", validation, response.StatusCode, warnings, want)
		}
		if text := string(raw); validation == "Strict" && (!strings.Contains(text, `unknown field \"colour\"`) || !strings.Contains(text, `duplicate field \"data.a\"`)) {
			t.Errorf("Strict: %s, want both", text)
		}
		if quoted := strings.ReplaceAll(warnings, `\"`, `"`); want.warnings > 0 && (!strings.Contains(quoted, unknown) || !strings.Contains(quoted, twice)) {
			t.Errorf("%s: warnings %s, want both", validation, warnings)
		}
	}
}

// A delete may say of what it is meant, and a whole collection goes by selector.
func TestDeletes(t *testing.T) {
	env := testenv.Start(t)
	ctx, maps := t.Context(), env.Client.CoreV1().ConfigMaps("default")
	withConfigMaps(t, env, 4)
	c0, err := maps.Get(ctx, "c0", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]metav1.Preconditions{
		"another UID":     {UID: ptr.To(c0.UID + "x")},
		"another version": {UID: &c0.UID, ResourceVersion: ptr.To("1")},
	} {
		if err := maps.Delete(ctx, "c0", metav1.DeleteOptions{Preconditions: &p}); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "precondition") {
			t.Errorf("%s: %v, want Conflict", name, err)
		}
	}
	if err := maps.Delete(ctx, "c0", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &c0.UID, ResourceVersion: &c0.ResourceVersion}}); err != nil {
		t.Errorf("what was meant: %v", err)
	}
	if err := maps.DeleteCollection(ctx, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}, metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	if err := maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "odd=true"}); err != nil {
		t.Error(err)
	}
	if list, err := maps.List(ctx, metav1.ListOptions{}); err != nil || names(list) != "c2" {
		t.Errorf("left: %q, %v; want c2", names(list), err)
	}
	for name, options := range map[string]metav1.DeleteOptions{
		"two policies": {OrphanDependents: ptr.To(true), PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)},
		"no policy":    {PropagationPolicy: ptr.To(metav1.DeletionPropagation("Sideways"))},
	} {
		if err := maps.Delete(ctx, "c2", options); !apierrors.IsInvalid(err) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
	// Dependents first: the finalizer holds the object until a garbage collector has seen to it.
	if err := maps.Delete(ctx, "c2", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}); err != nil {
		t.Fatal(err)
	}
	if c2, err := maps.Get(ctx, "c2", metav1.GetOptions{}); err != nil || c2.DeletionTimestamp == nil || len(c2.Finalizers) != 1 || c2.Finalizers[0] != metav1.FinalizerDeleteDependents {
		t.Errorf("foreground: %+v, %v; want it to wait for its dependents", c2, err)
	}
}

// Server-side apply of a part of a pod owns nothing else, whatever else the client names.
func TestApplyOfPartsOwnsThem(t *testing.T) {
	env := testenv.Start(t)
	pods := env.Client.CoreV1().Pods("default")
	if _, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")},
		}}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for part, c := range map[string]struct{ spec, owns string }{
		"resize":              {`{"containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"200m"}}}]}`, `{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:resources":{"f:requests":{"f:cpu":{}}}}}}}`},
		"ephemeralcontainers": {`{"containers":[{"name":"c","image":"i"}],"ephemeralContainers":[{"name":"e","image":"i"}]}`, `{"f:spec":{"f:ephemeralContainers":{"k:{\"name\":\"e\"}":{".":{},"f:image":{},"f:name":{}}}}}`},
	} {
		body := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"a":"b"}},"spec":` + c.spec + `}`
		response, raw := exchange(t, env.Config, http.MethodPatch, "/api/v1/namespaces/default/pods/p/"+part+"?fieldManager=me&force=true",
			http.Header{"Content-Type": {"application/apply-patch+yaml"}, "Accept": {"application/json"}}, strings.NewReader(body))
		var pod corev1.Pod
		if err := json.Unmarshal(raw, &pod); err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s %.500s", part, response.Status, raw)
			continue
		}
		owns := ""
		for _, m := range pod.ManagedFields {
			if m.Manager == "me" && m.Subresource == part {
				owns = string(m.FieldsV1.GetRawBytes())
			}
		}
		if owns != c.owns {
			t.Errorf("%s owns %s, want %s", part, owns, c.owns)
		}
	}
}

// Bodies that no honest client sends are refused, and others are served meanwhile.
func TestHostileBodies(t *testing.T) {
	env := testenv.Start(t)
	const path = "/api/v1/namespaces/default/configmaps"
	deep := func(n int) string {
		return `{"metadata":{"name":"x"},"data":` + strings.Repeat(`{"a":`, n) + `1` + strings.Repeat(`}`, n) + `}`
	}
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n"
	for name, c := range map[string]struct {
		method, path, contentType string
		body                      io.Reader
		code                      int
	}{
		"10 MB":               {http.MethodPost, path, "application/json", strings.NewReader(`{"data":{"a":"` + strings.Repeat("x", 10<<20) + `"}}`), 413},
		"10 MB of a patch":    {http.MethodPatch, path + "/x", "application/merge-patch+json", strings.NewReader(`{"data":{"a":"` + strings.Repeat("x", 10<<20) + `"}}`), 413},
		"deep":                {http.MethodPost, path, "application/json", strings.NewReader(deep(10_000)), 400},
		"deeper":              {http.MethodPost, path, "application/json", strings.NewReader(deep(300_000)), 400},
		"deep YAML":           {http.MethodPost, path, "application/yaml", strings.NewReader(strings.Repeat("[", 100_000)), 400},
		"a YAML bomb":         {http.MethodPost, path, "application/yaml", strings.NewReader(bomb), 400},
		"broken off":          {http.MethodPost, path, "application/json", io.MultiReader(strings.NewReader(`{"metadata":`), breaking{}), 400},
		"deep protobuf":       {http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "application/vnd.kubernetes.protobuf", strings.NewReader(deepProtobuf(3_000_000)), 400},
		"CBOR":                {http.MethodPost, path, "application/cbor", strings.NewReader(strings.Repeat("\x81", 100_000) + "\x01"), 415}, // alpha upstream
		"a deep patch":        {http.MethodPatch, path + "/x", "application/merge-patch+json", strings.NewReader(deep(300_000)), 400},
		"a deep apply":        {http.MethodPatch, path + "/x?fieldManager=x", "application/apply-patch+yaml", strings.NewReader(strings.Repeat("[", 100_000)), 400},
		"broken protobuf":     {http.MethodPost, path, "application/vnd.kubernetes.protobuf", strings.NewReader("k8s\x00\x0a\xff\xff\xff\xff\x0f"), 400},
		"no protobuf":         {http.MethodPost, path, "application/vnd.kubernetes.protobuf", strings.NewReader("hello"), 400},
		"no JSON":             {http.MethodPost, path, "application/json", strings.NewReader("\x00\x01\x02"), 400},
		"nothing":             {http.MethodPost, path, "application/json", strings.NewReader(""), 400},
		"a list":              {http.MethodPost, path, "application/json", strings.NewReader("[]"), 400},
		"a type like none":    {http.MethodPost, path, "application/x-www-form-urlencoded", strings.NewReader("a=b"), 415},
		"a type that is none": {http.MethodPost, path, "//;;", strings.NewReader("{}"), 415},
		"a patch like none":   {http.MethodPatch, path + "/x", "application/json", strings.NewReader("{}"), 415},
		"many patches":        {http.MethodPatch, path + "/x", "application/json-patch+json", strings.NewReader("[" + strings.Repeat(`{"op":"test","path":"/a","value":1},`, 10_001) + `{"op":"test","path":"/a","value":1}]`), 413},
	} {
		response, raw := exchange(t, env.Config, c.method, c.path, http.Header{"Content-Type": {c.contentType}}, c.body)
		var status metav1.Status
		if err := json.Unmarshal(raw, &status); err != nil || status.Kind != "Status" {
			t.Errorf("%s: %.200q is no Status", name, raw)
		}
		if response.StatusCode != c.code && !(c.method == http.MethodPatch && response.StatusCode == 404) {
			t.Errorf("%s: %d %.200s, want %d", name, response.StatusCode, status.Message, c.code)
		}
	}
	if list, err := env.Client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("left: %v, %v; want nothing", list, err)
	}
}

// deepProtobuf is a CustomResourceDefinition of so many bytes, whose schema is that of what another schema must not be,
// and so on.
func deepProtobuf(size int) string {
	buffer := make([]byte, size+100)
	at := len(buffer) // it is written from its end
	wrap := func(field int) {
		head := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(field)<<3|2), uint64(len(buffer)-at))
		at -= len(head)
		copy(buffer[at:], head)
	}
	const not = 28
	for at > 110 {
		wrap(not)
	}
	for _, field := range []int{1, 4, 7, 2} { // openAPIV3Schema of schema of versions of spec
		wrap(field)
	}
	raw := buffer[at:]
	kind := "\x0a\x17apiextensions.k8s.io/v1\x12\x18CustomResourceDefinition"
	out := append([]byte("k8s\x00\x0a"), binary.AppendUvarint(nil, uint64(len(kind)))...)
	out = append(append(out, kind...), 0x12)
	return string(append(binary.AppendUvarint(out, uint64(len(raw))), raw...))
}

// breaking is where a client's connection ends.
type breaking struct{}

func (breaking) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
