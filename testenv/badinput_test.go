// SPDX-License-Identifier: Apache-2.0

package testenv_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"

	"github.com/skiff-k8s/skiff/testenv"
)

// Bad input gets upstream's answer, as a Status with code, reason and causes, and leaves nothing behind.
func TestBadInput(t *testing.T) {
	env := testenv.Start(t)
	const (
		json    = "application/json"
		merge   = "application/merge-patch+json"
		patches = "application/json-patch+json"
		apply   = "application/apply-patch+yaml"
		maps    = "/api/v1/namespaces/default/configmaps"
	)
	send := func(verb, path, contentType, body string) error {
		request := env.Client.CoreV1().RESTClient().Verb(verb).RequestURI(path)
		if body != "" {
			request.SetHeader("Content-Type", contentType).Body([]byte(body))
		}
		return request.Do(t.Context()).Error()
	}
	if err := send("POST", maps, json, `{"metadata":{"name":"there"},"immutable":true,"data":{"a":"b"}}`); err != nil {
		t.Fatal(err)
	}
	objects, err := metadata.NewForConfig(env.Config)
	if err != nil {
		t.Fatal(err)
	}
	before := everything(t, objects)
	for _, c := range []struct {
		name, verb, path, contentType, body string
		code                                int32
		reason                              metav1.StatusReason
		cause                               string
	}{
		{name: "not JSON", verb: "POST", path: maps, contentType: json, body: `{`, code: 400, reason: metav1.StatusReasonBadRequest},
		{name: "another kind", verb: "POST", path: maps, contentType: json, body: `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}`, code: 400, reason: metav1.StatusReasonBadRequest},
		{name: "a wrong type", verb: "POST", path: maps, contentType: json, body: `{"metadata":{"name":"x"},"data":{"a":1}}`, code: 400, reason: metav1.StatusReasonBadRequest},
		{name: "another namespace", verb: "POST", path: maps, contentType: json, body: `{"metadata":{"name":"x","namespace":"other"}}`, code: 400, reason: metav1.StatusReasonBadRequest},
		{name: "an unknown field, strictly", verb: "POST", path: maps + "?fieldValidation=Strict", contentType: json, body: `{"metadata":{"name":"x"},"colour":"red"}`, code: 400, reason: metav1.StatusReasonBadRequest},
		{name: "a bad selector", verb: "GET", path: maps + "?labelSelector=a%20b%20c", code: 400, reason: metav1.StatusReasonBadRequest},
		{name: "a patch that is no JSON", verb: "PATCH", path: maps + "/there", contentType: merge, body: `{`, code: 400, reason: metav1.StatusReasonBadRequest},
		{name: "apply by nobody", verb: "PATCH", path: maps + "/new", contentType: apply, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new"}}`, code: 422, reason: metav1.StatusReasonInvalid, cause: "fieldManager"},
		{name: "no such object", verb: "GET", path: maps + "/none", code: 404, reason: metav1.StatusReasonNotFound},
		{name: "no such object to delete", verb: "DELETE", path: maps + "/none", code: 404, reason: metav1.StatusReasonNotFound},
		{name: "no such resource", verb: "GET", path: "/api/v1/namespaces/default/nothings", code: 404, reason: metav1.StatusReasonNotFound},
		{name: "no such group", verb: "GET", path: "/apis/nothing.example/v1/things", code: 404, reason: metav1.StatusReasonNotFound},
		{name: "not a verb of that", verb: "POST", path: maps + "/there", contentType: json, body: `{}`, code: 405, reason: metav1.StatusReasonMethodNotAllowed},
		{name: "it exists", verb: "POST", path: maps, contentType: json, body: `{"metadata":{"name":"there"}}`, code: 409, reason: metav1.StatusReasonAlreadyExists},
		{name: "an old version", verb: "PUT", path: maps + "/there", contentType: json, body: `{"metadata":{"name":"there","resourceVersion":"1"},"data":{"a":"b"}}`, code: 409, reason: metav1.StatusReasonConflict},
		{name: "another object's UID", verb: "DELETE", path: maps + "/there", contentType: json, body: `{"preconditions":{"uid":"another"}}`, code: 409, reason: metav1.StatusReasonConflict},
		{name: "an unknown encoding", verb: "POST", path: maps, contentType: "text/plain", body: `x`, code: 415, reason: metav1.StatusReasonUnsupportedMediaType},
		{name: "more than the store takes", verb: "POST", path: maps, contentType: json, body: `{"metadata":{"name":"x"},"data":{"a":"` + strings.Repeat("x", 4<<20) + `"}}`, code: 413, reason: metav1.StatusReasonRequestEntityTooLarge},
		{name: "no name", verb: "POST", path: maps, contentType: json, body: `{}`, code: 422, reason: metav1.StatusReasonInvalid, cause: "metadata.name"},
		{name: "a bad name", verb: "POST", path: maps, contentType: json, body: `{"metadata":{"name":"A b"}}`, code: 422, reason: metav1.StatusReasonInvalid, cause: "metadata.name"},
		{name: "too large a ConfigMap", verb: "POST", path: maps, contentType: json, body: `{"metadata":{"name":"x"},"data":{"a":"` + strings.Repeat("x", 1<<20+1) + `"}}`, code: 422, reason: metav1.StatusReasonInvalid},
		{name: "what may not change", verb: "PATCH", path: maps + "/there", contentType: merge, body: `{"data":{"a":"c"}}`, code: 422, reason: metav1.StatusReasonInvalid, cause: "data"},
		{name: "a patch that does not fit", verb: "PATCH", path: maps + "/there", contentType: patches, body: `[{"op":"test","path":"/data/a","value":"x"}]`, code: 422, reason: metav1.StatusReasonInvalid},
		{name: "no containers", verb: "POST", path: "/api/v1/namespaces/default/pods", contentType: json, body: `{"metadata":{"name":"p"},"spec":{}}`, code: 422, reason: metav1.StatusReasonInvalid, cause: "spec.containers"},
		{name: "a port out of range", verb: "POST", path: "/api/v1/namespaces/default/services", contentType: json, body: `{"metadata":{"name":"s"},"spec":{"type":"NodePort","ports":[{"name":"a","port":80},{"name":"b","port":70000}]}}`, code: 422, reason: metav1.StatusReasonInvalid, cause: "spec.ports[1].port"},
		{name: "a node port out of range", verb: "POST", path: "/api/v1/namespaces/default/services", contentType: json, body: `{"metadata":{"name":"s"},"spec":{"type":"NodePort","ports":[{"name":"a","port":80},{"name":"b","port":81,"nodePort":22}]}}`, code: 422, reason: metav1.StatusReasonInvalid, cause: "spec.ports[1].nodePort"},
		{name: "a selector of other pods", verb: "POST", path: "/apis/apps/v1/namespaces/default/deployments", contentType: json,
			body: `{"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"c"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`,
			code: 422, reason: metav1.StatusReasonInvalid, cause: "spec.template.metadata.labels"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := send(c.verb, c.path, c.contentType, c.body)
			var answer apierrors.APIStatus
			if !errors.As(err, &answer) {
				t.Fatalf("error = %v, want a Status", err)
			}
			s := answer.Status()
			if s.Code != c.code || s.Reason != c.reason {
				t.Errorf("status = %d %s (%.300s), want %d %s", s.Code, s.Reason, s.Message, c.code, c.reason)
			}
			if c.cause != "" && !hasCause(s, c.cause) {
				t.Errorf("causes = %+v, want one at %s", s.Details, c.cause)
			}
			if after := everything(t, objects); !slices.Equal(after, before) {
				t.Errorf("it left %q, want %q as before", after, before)
			}
		})
	}
}

func hasCause(status metav1.Status, field string) bool {
	return status.Details != nil && slices.ContainsFunc(status.Details.Causes, func(c metav1.StatusCause) bool { return c.Field == field })
}

// everything lists what the requests of the test are about, and the addresses of Services, with versions.
func everything(t *testing.T, client metadata.Interface) (lines []string) {
	t.Helper()
	for _, resource := range []schema.GroupVersionResource{
		{Version: "v1", Resource: "configmaps"}, {Version: "v1", Resource: "pods"}, {Version: "v1", Resource: "services"},
		{Group: "networking.k8s.io", Version: "v1", Resource: "ipaddresses"}, {Group: "apps", Version: "v1", Resource: "deployments"},
	} {
		list, err := client.Resource(resource).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Items {
			lines = append(lines, resource.Resource+" "+o.Namespace+"/"+o.Name+" "+o.ResourceVersion)
		}
	}
	return lines
}
