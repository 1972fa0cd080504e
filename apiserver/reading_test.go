// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	restclient "k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/testenv"
)

// withConfigMaps makes c0, c1, ... and returns the version after each.
func withConfigMaps(t *testing.T, env *testenv.Env, n int) (versions []string) {
	t.Helper()
	for i := range n {
		cm, err := env.Client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c%d", i), Labels: map[string]string{"odd": fmt.Sprint(i%2 == 1)}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, cm.ResourceVersion)
	}
	return versions
}

func names(list *corev1.ConfigMapList) string {
	var out []string
	for _, o := range list.Items {
		out = append(out, o.Name)
	}
	return strings.Join(out, " ")
}

// resourceVersion and resourceVersionMatch say how old a list may be, as
// https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions has it.
func TestListByResourceVersion(t *testing.T) {
	env := testenv.Start(t)
	ctx, maps := t.Context(), env.Client.CoreV1().ConfigMaps("default")
	versions := withConfigMaps(t, env, 3)
	for _, c := range []struct {
		name    string
		options metav1.ListOptions
		want    string // names, or a part of the error
		is      func(error) bool
	}{
		{name: "most recent", want: "c0 c1 c2"},
		{name: "exactly the second", options: metav1.ListOptions{ResourceVersion: versions[1], ResourceVersionMatch: metav1.ResourceVersionMatchExact}, want: "c0 c1"},
		{name: "exactly the second, in pages", options: metav1.ListOptions{ResourceVersion: versions[1], ResourceVersionMatch: metav1.ResourceVersionMatchExact, Limit: 1}, want: "c0"},
		{name: "not older", options: metav1.ListOptions{ResourceVersion: versions[1], ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}, want: "c0 c1 c2"},
		{name: "not older, by default", options: metav1.ListOptions{ResourceVersion: versions[2]}, want: "c0 c1 c2"},
		{name: "selected", options: metav1.ListOptions{LabelSelector: "odd=true"}, want: "c1"},
		{name: "selected by field", options: metav1.ListOptions{FieldSelector: "metadata.name!=c1"}, want: "c0 c2"},
		{name: "a match without a version", options: metav1.ListOptions{ResourceVersionMatch: metav1.ResourceVersionMatchExact}, want: "resourceVersionMatch is forbidden unless resourceVersion is provided", is: apierrors.IsInvalid},
		{name: "exactly any", options: metav1.ListOptions{ResourceVersion: "0", ResourceVersionMatch: metav1.ResourceVersionMatchExact}, want: `"exact" is forbidden for resourceVersion "0"`, is: apierrors.IsInvalid},
		{name: "no number", options: metav1.ListOptions{ResourceVersion: "x"}, want: "resourceVersion", is: apierrors.IsBadRequest},
	} {
		list, err := maps.List(ctx, c.options)
		switch {
		case c.is != nil && (!c.is(err) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		case c.is == nil && (err != nil || names(list) != c.want):
			t.Errorf("%s: %q, %v; want %q", c.name, names(list), err, c.want)
		}
	}
	err := env.Client.CoreV1().RESTClient().Get().AbsPath("/api/v1/configmaps").Param("resourceVersion", "99999999").MaxRetries(0).Do(ctx).Error()
	if !apierrors.IsTimeout(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) {
		t.Errorf("the future: %v, want Timeout, for it may come", err)
	}
}

// Pages are of one moment. When that is forgotten, the answer is 410 with a token that goes on from the present.
func TestPagesOfAList(t *testing.T) {
	dir := t.TempDir()
	env := testenv.Start(t, testenv.Dir(dir))
	ctx, maps := t.Context(), env.Client.CoreV1().ConfigMaps("default")
	withConfigMaps(t, env, 4)
	first, err := maps.List(ctx, metav1.ListOptions{Limit: 2})
	if err != nil || names(first) != "c0 c1" || first.Continue == "" || first.RemainingItemCount == nil || *first.RemainingItemCount != 2 {
		t.Fatalf("first page: %q, %+v, %v; want c0 c1, two to come", names(first), first.ListMeta, err)
	}
	for i, name := range []string{"c3", "c9"} { // neither is seen by the next page
		if i == 0 {
			err = maps.Delete(ctx, name, metav1.DeleteOptions{})
		} else {
			_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	second, err := maps.List(ctx, metav1.ListOptions{Limit: 2, Continue: first.Continue})
	if err != nil || names(second) != "c2 c3" || second.Continue != "" || second.ResourceVersion != first.ResourceVersion {
		t.Errorf("second page: %q, %+v, %v; want c2 c3 of version %s", names(second), second.ListMeta, err, first.ResourceVersion)
	}
	if _, err := maps.List(ctx, metav1.ListOptions{Limit: 2, Continue: "nonsense"}); !apierrors.IsBadRequest(err) {
		t.Errorf("a token that is none: %v, want BadRequest", err)
	}
	if _, err := maps.List(ctx, metav1.ListOptions{Limit: 2, Continue: first.Continue, ResourceVersion: first.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact}); !apierrors.IsInvalid(err) {
		t.Errorf("a token with a match: %v, want Invalid", err)
	}

	now, err := env.Store.Client().Get(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := env.Store.Client().Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	env.Stop() // whose cache remembers
	env = testenv.Start(t, testenv.Dir(dir))
	maps = env.Client.CoreV1().ConfigMaps("default")
	_, err = maps.List(ctx, metav1.ListOptions{Limit: 2, Continue: first.Continue})
	var status *apierrors.StatusError
	if !errors.As(err, &status) || !apierrors.IsResourceExpired(err) {
		t.Fatalf("a page of what is forgotten: %v, want Expired", err)
	}
	rest, err := maps.List(ctx, metav1.ListOptions{Continue: status.ErrStatus.Continue})
	if err != nil || names(rest) != "c2 c9" {
		t.Errorf("the rest by the token of the error: %q, %v; want c2 c9, as they are now", names(rest), err)
	}
	eventually(t, "a watch from before is gone", func() error {
		w, err := maps.Watch(ctx, metav1.ListOptions{ResourceVersion: "1"})
		if apierrors.IsResourceExpired(err) {
			return nil
		}
		if err != nil {
			return err
		}
		defer w.Stop()
		event, ok := <-w.ResultChan()
		if ok && event.Type == watch.Error && apierrors.IsResourceExpired(apierrors.FromObject(event.Object)) {
			return nil
		}
		return fmt.Errorf("event %v", event)
	})
}

// A watch may begin with all that there is, ended by a bookmark, and says from time to time how far it is.
func TestWatchWithInitialEvents(t *testing.T) {
	env := testenv.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	maps := env.Client.CoreV1().ConfigMaps("default")
	versions := withConfigMaps(t, env, 3)
	yes := true
	w, err := maps.Watch(ctx, metav1.ListOptions{
		SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true, LabelSelector: "odd=false",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	next := func() watch.Event {
		t.Helper()
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				t.Fatal("the watch ended")
			}
			return e
		case <-ctx.Done():
			t.Fatal("no event")
		}
		return watch.Event{}
	}
	var got []string
	for range 2 {
		e := next()
		got = append(got, string(e.Type)+" "+e.Object.(*corev1.ConfigMap).Name)
	}
	if !slices.Equal(got, []string{"ADDED c0", "ADDED c2"}) {
		t.Errorf("initial events %q, want those that are selected", got)
	}
	mark := next()
	cm, ok := mark.Object.(*corev1.ConfigMap)
	if !ok || mark.Type != watch.Bookmark || cm.Annotations[metav1.InitialEventsAnnotationKey] != "true" || cm.ResourceVersion < versions[2] {
		t.Errorf("after the initial events: %+v, want the bookmark that ends them", mark)
	}
	// A label that does not fit any more is a deletion for this watch.
	odd, err := maps.Get(ctx, "c2", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	odd.Labels["odd"] = "true"
	if _, err := maps.Update(ctx, odd, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if e := next(); e.Type != watch.Deleted || e.Object.(*corev1.ConfigMap).Name != "c2" {
		t.Errorf("after the label changed: %v, want c2 deleted", e)
	}
	for name, options := range map[string]metav1.ListOptions{
		"no match":        {SendInitialEvents: &yes, AllowWatchBookmarks: true},
		"an exact match":  {SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchExact, AllowWatchBookmarks: true},
		"a match for it":  {ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true},
		"a list of these": {},
	} {
		if name == "a list of these" {
			_, err = maps.List(ctx, metav1.ListOptions{SendInitialEvents: &yes})
		} else {
			_, err = maps.Watch(ctx, options)
		}
		if !apierrors.IsInvalid(err) {
			t.Errorf("initial events with %s: %v, want Invalid", name, err)
		}
	}
}

// What can be selected by field, besides name and namespace, is upstream's list; all else is refused.
func TestFieldSelectors(t *testing.T) {
	env := testenv.Start(t)
	ask := func(path, field string) error {
		return env.Client.CoreV1().RESTClient().Get().AbsPath(path).Param("fieldSelector", field+"=x").Do(t.Context()).Error()
	}
	for path, fields := range map[string]string{
		"/api/v1/pods":                            "spec.nodeName spec.restartPolicy spec.schedulerName spec.serviceAccountName spec.hostNetwork status.phase status.podIP status.podIPs status.nominatedNodeName spec.host",
		"/api/v1/nodes":                           "spec.unschedulable",
		"/api/v1/namespaces":                      "status.phase",
		"/api/v1/secrets":                         "type",
		"/api/v1/services":                        "spec.clusterIP spec.type",
		"/api/v1/replicationcontrollers":          "status.replicas",
		"/api/v1/events":                          "involvedObject.kind involvedObject.namespace involvedObject.name involvedObject.uid involvedObject.apiVersion involvedObject.resourceVersion involvedObject.fieldPath reason reportingComponent source type",
		"/apis/events.k8s.io/v1/events":           "regarding.kind regarding.namespace regarding.name regarding.uid regarding.apiVersion regarding.resourceVersion regarding.fieldPath reason reportingController type",
		"/apis/apps/v1/replicasets":               "",
		"/apis/batch/v1/jobs":                     "status.successful",
		"/apis/resource.k8s.io/v1/resourceslices": "spec.nodeName spec.driver",
		"/apis/certificates.k8s.io/v1/certificatesigningrequests": "spec.signerName",
		"/apis/certificates.k8s.io/v1/clustertrustbundles":        "spec.signerName",
		"/apis/certificates.k8s.io/v1/podcertificaterequests":     "spec.signerName spec.podName spec.nodeName",
		"/api/v1/configmaps":                  "",
		"/apis/apps/v1/deployments":           "",
		"/apis/storage.k8s.io/v1/csinodes":    "",
		"/apis/coordination.k8s.io/v1/leases": "",
	} {
		for field := range strings.FieldsSeq("metadata.name " + fields) {
			if err := ask(path, field); err != nil {
				t.Errorf("%s by %s: %v", path, field, err)
			}
		}
		for _, field := range []string{"spec.nonsense", "metadata.uid", "metadata.labels"} {
			if err := ask(path, field); !apierrors.IsBadRequest(err) {
				t.Errorf("%s by %s: %v, want BadRequest", path, field, err)
			}
		}
	}
}

// exchange sends a request and returns the answer with its body.
func exchange(t *testing.T, config *restclient.Config, method, path string, header http.Header, body io.Reader) (*http.Response, []byte) {
	t.Helper()
	transport, err := restclient.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, config.Host+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, raw
}

// Lists come as tables, as metadata alone, and compressed where they are large, if the client says so.
func TestForms(t *testing.T) {
	env := testenv.Start(t)
	withConfigMaps(t, env, 2)
	const path = "/api/v1/namespaces/default/configmaps"
	get := func(path, accept string) (*http.Response, []byte) {
		return exchange(t, env.Config, http.MethodGet, path, http.Header{"Accept": {accept}}, nil)
	}
	for _, c := range []struct {
		path, accept string
		code         int
		kind, item   string // of the list, and of what is in it
	}{
		{path, "application/json", 200, "ConfigMapList", ""},
		{path, "application/json;as=Table;v=v1;g=meta.k8s.io", 200, "Table", "PartialObjectMetadata"},
		{path + "?includeObject=Object", "application/json;as=Table;v=v1;g=meta.k8s.io", 200, "Table", "ConfigMap"},
		{path + "?includeObject=None", "application/json;as=Table;v=v1;g=meta.k8s.io", 200, "Table", ""},
		{path, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", 200, "PartialObjectMetadataList", "PartialObjectMetadata"},
		{path + "/c0", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", 200, "PartialObjectMetadata", ""},
		{path, "application/json;as=Nonsense;v=v1;g=meta.k8s.io", 406, "Status", ""},
		{path, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json", 200, "Table", "PartialObjectMetadata"},
		{path, "application/xml, */*;q=0.5", 200, "ConfigMapList", ""},
	} {
		response, raw := get(c.path, c.accept)
		var got struct {
			Kind  string
			Rows  []struct{ Object struct{ Kind string } }
			Items []struct{ Kind string }
		}
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Errorf("%s as %s: %v", c.path, c.accept, err)
			continue
		}
		item := ""
		if len(got.Rows) > 0 {
			item = got.Rows[0].Object.Kind
		}
		if len(got.Items) > 0 {
			item = got.Items[0].Kind
		}
		if response.StatusCode != c.code || got.Kind != c.kind || item != c.item {
			t.Errorf("%s as %s: %d, %s of %q; want %d, %s of %q", c.path, c.accept, response.StatusCode, got.Kind, item, c.code, c.kind, c.item)
		}
	}
	for accept, want := range map[string]string{"application/yaml": "application/yaml", "application/vnd.kubernetes.protobuf": "application/vnd.kubernetes.protobuf"} {
		response, raw := get(path, accept)
		if response.Header.Get("Content-Type") != want || len(raw) == 0 || want == "application/yaml" && !strings.HasPrefix(string(raw), "apiVersion: v1\n") {
			t.Errorf("as %s: %s, %.60q", accept, response.Header.Get("Content-Type"), raw)
		}
	}

	large := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "large"}, Data: map[string]string{"k": strings.Repeat("abc ", 100_000)}}
	if _, err := env.Client.CoreV1().ConfigMaps("default").Create(t.Context(), large, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	response, raw := exchange(t, env.Config, http.MethodGet, path, http.Header{"Accept": {"application/json"}, "Accept-Encoding": {"gzip"}}, nil)
	if response.Header.Get("Content-Encoding") != "gzip" || len(raw) > 100_000 {
		t.Fatalf("a large list: %d bytes, encoding %q; want it compressed", len(raw), response.Header.Get("Content-Encoding"))
	}
	z, err := gzip.NewReader(strings.NewReader(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := io.ReadAll(z); err != nil || !strings.Contains(string(plain), `"name":"large"`) {
		t.Errorf("what is compressed: %.60q, %v", plain, err)
	}
	if response, _ := exchange(t, env.Config, http.MethodGet, path+"/c0", http.Header{"Accept-Encoding": {"gzip"}}, nil); response.Header.Get("Content-Encoding") != "" {
		t.Error("a small object is compressed too")
	}
}
