// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/testenv"
)

var withFlowControl = testenv.Configure(func(c *apiserver.Config) { c.MaxInFlight = 100 })

// The default objects are there; mandatory ones stay as they are, suggested ones are the administrator's once
// changed, deleted ones come back, and those of another release go.
func TestFlowControlKeepsItsObjects(t *testing.T) {
	env := testenv.Start(t, withFlowControl)
	ctx, schemas, levels := t.Context(), env.Client.FlowcontrolV1().FlowSchemas(), env.Client.FlowcontrolV1().PriorityLevelConfigurations()
	eventually(t, "the default objects", func() error {
		s, err := schemas.List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		l, err := levels.List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		wantSchemas := len(bootstrap.MandatoryFlowSchemas) + len(bootstrap.SuggestedFlowSchemas)
		wantLevels := len(bootstrap.MandatoryPriorityLevelConfigurations) + len(bootstrap.SuggestedPriorityLevelConfigurations)
		if len(s.Items) != wantSchemas || len(l.Items) != wantLevels {
			return fmt.Errorf("%d FlowSchemas, %d levels; want %d, %d", len(s.Items), len(l.Items), wantSchemas, wantLevels)
		}
		return nil
	})

	change := func(name string, mutate func(*flowcontrolv1.FlowSchema)) {
		t.Helper()
		schema, err := schemas.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		mutate(schema)
		if _, err := schemas.Update(ctx, schema, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(what, name string, ok func(*flowcontrolv1.FlowSchema) bool) {
		t.Helper()
		eventually(t, what, func() error {
			schema, err := schemas.Get(ctx, name, metav1.GetOptions{})
			if err == nil && !ok(schema) {
				err = fmt.Errorf("%+v %+v", schema.Annotations, schema.Spec)
			}
			return err
		})
	}
	if err := schemas.Delete(ctx, "catch-all", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("the mandatory schema comes back", "catch-all", func(s *flowcontrolv1.FlowSchema) bool { return s.Spec.MatchingPrecedence == 10000 })

	change("global-default", func(s *flowcontrolv1.FlowSchema) {
		s.Spec.MatchingPrecedence = 9001
		s.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] = "false"
	})
	if err := schemas.Delete(ctx, "probes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("the deleted schema comes back", "probes", func(*flowcontrolv1.FlowSchema) bool { return true })
	expect("the changed schema is left alone", "global-default", func(s *flowcontrolv1.FlowSchema) bool { return s.Spec.MatchingPrecedence == 9001 })

	change("global-default", func(s *flowcontrolv1.FlowSchema) { s.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] = "true" })
	expect("the schema is given back", "global-default", func(s *flowcontrolv1.FlowSchema) bool { return s.Spec.MatchingPrecedence == 9900 })

	exempt, err := levels.Get(ctx, "exempt", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	exempt.Spec.Exempt.NominalConcurrencyShares = ptr.To[int32](7)
	if _, err := levels.Update(ctx, exempt, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	old := &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "old", Annotations: map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "true"}},
		Spec: flowcontrolv1.FlowSchemaSpec{PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "catch-all"}, MatchingPrecedence: 500}}
	if _, err := schemas.Create(ctx, old, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "that of another release goes", func() error {
		if _, err := schemas.Get(ctx, "old", metav1.GetOptions{}); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
	if exempt, err = levels.Get(ctx, "exempt", metav1.GetOptions{}); err != nil || *exempt.Spec.Exempt.NominalConcurrencyShares != 7 {
		t.Errorf("exempt = %+v, %v; want the administrator's 7 shares", exempt.Spec.Exempt, err)
	}
}

// A request says which schema and level it was counted to, and a level without seats refuses with 429 and
// the time after which to try again.
func TestFlowControlRefuses(t *testing.T) {
	env := testenv.Start(t, withFlowControl)
	ctx, admin := t.Context(), env.Client.FlowcontrolV1()
	level, err := admin.PriorityLevelConfigurations().Create(ctx, &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "none"},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			NominalConcurrencyShares: ptr.To[int32](0), LendablePercent: ptr.To[int32](0), BorrowingLimitPercent: ptr.To[int32](0),
			LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	schema, err := admin.FlowSchemas().Create(ctx, &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: "loud"},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "none"}, MatchingPrecedence: 500,
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
				Subjects:      []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: "loud"}}},
				ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, ClusterScope: true, Namespaces: []string{"*"}}},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := env.ConfigFor("loud")
	var seen http.Header
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper {
		return roundTrip(func(r *http.Request) (*http.Response, error) {
			response, err := rt.RoundTrip(r)
			if err == nil {
				seen = response.Header.Clone()
			}
			return response, err
		})
	})
	loud := kubernetes.NewForConfigOrDie(config)
	ask := func() error { return loud.CoreV1().RESTClient().Get().Resource("nodes").MaxRetries(0).Do(ctx).Error() }
	eventually(t, "the schema is in force", func() error {
		if err := ask(); seen.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID) != string(schema.UID) {
			return fmt.Errorf("answer %v, headers %v", err, seen)
		}
		return nil
	})
	// One at a time is always let through, so one must stay: its body does not end.
	holding, release := context.WithCancel(ctx)
	slow := make(chan error, 1)
	go func() {
		for {
			err := kubernetes.NewForConfigOrDie(env.ConfigFor("loud")).CoreV1().RESTClient().Post().Resource("namespaces").MaxRetries(0).
				Body(endless{holding}).Do(ctx).Error()
			if !apierrors.IsTooManyRequests(err) { // the request before may be about to end
				slow <- err
				return
			}
		}
	}()
	eventually(t, "the request is refused", func() error {
		if err := ask(); !apierrors.IsTooManyRequests(err) {
			return fmt.Errorf("answer %v, headers %v", err, seen)
		}
		return nil
	})
	release()
	if err := <-slow; err == nil {
		t.Error("the request whose body breaks off has done something")
	}
	if seen.Get("Retry-After") == "" || seen.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID) != string(schema.UID) ||
		seen.Get(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID) != string(level.UID) {
		t.Errorf("headers %v; want Retry-After, FlowSchema %s and level %s", seen, schema.UID, level.UID)
	}
	if _, err := env.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); err != nil {
		t.Errorf("others are refused too: %v", err)
	}
}

// endless is a body that never comes.
type endless struct{ ctx context.Context }

func (e endless) Read([]byte) (int, error) {
	<-e.ctx.Done()
	return 0, io.ErrUnexpectedEOF
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The numbers of objects are among the metrics, counted when somebody asks.
func TestMetricsCountObjects(t *testing.T) {
	env := testenv.Start(t)
	scrape := func(config *restclient.Config) string {
		raw, err := kubernetes.NewForConfigOrDie(config).RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	metrics := scrape(env.Config)
	for _, want := range []string{`apiserver_resource_objects{group="",resource="namespaces"} 1`, `apiserver_storage_objects{resource="deployments.apps"} 0`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}
