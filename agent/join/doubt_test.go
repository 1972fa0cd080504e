// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/version"
)

// answer is what a server says, or an error of the way to it. One that is empty is that of a server that is well.
type answer struct {
	status int
	behind time.Duration // its clock
	hangs  bool          // until the connection is closed
	err    error
}

// script has servers answer, in turn. What comes after the last answer is well.
type script struct {
	answers []answer
	asked   []string      // which server, each time
	closed  chan struct{} // closes connections
	servers *servers
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asked = append(s.asked, s.servers.list()[0])
	var now answer
	if len(s.answers) > 0 {
		now, s.answers = s.answers[0], s.answers[1:]
	}
	if now.hangs {
		<-s.closed
		now.err = io.ErrUnexpectedEOF
	}
	if now.err != nil {
		return nil, now.err
	}
	w := httptest.NewRecorder()
	w.Header().Set("Date", time.Now().Add(-now.behind).UTC().Format(http.TimeFormat))
	w.Header().Set("Content-Type", "application/json")
	switch {
	case now.status != 0:
		w.WriteHeader(now.status)
	case r.URL.Path == "/version":
		_, _ = w.WriteString(`{"gitVersion":"v` + version.Kubernetes + `"}`)
	default:
		_, _ = w.WriteString(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"skiff-cluster"},"data":{"cluster.json":"{\"domain\":\"cluster.local\"}"}}`)
	}
	return w.Result(), nil
}

// newScript has these servers.
func newScript(t *testing.T, answers []answer, names ...string) *script {
	s := must(newServers(filepath.Join(t.TempDir(), "servers"), names[0]))
	s.all = names
	return &script{answers: answers, servers: s, closed: make(chan struct{})}
}

// many are as many answers as a server gives within two minutes.
func many(a answer) []answer {
	var all []answer
	for range 2 * time.Minute / retryEvery {
		all = append(all, a)
	}
	return all
}

// A node that has joined waits for a server that takes it. It gives up if all that it hears, for a while, is that it is unknown.
func TestMeetServer(t *testing.T) {
	unknownCA := &url.Error{Op: "Get", URL: "https://kubernetes/", Err: x509.UnknownAuthorityError{}}
	for name, tc := range map[string]struct {
		answers []answer
		want    string // how its last word begins
		atMost  time.Duration
	}{
		"it is well":                   {},
		"its keys are not there yet":   {answers: []answer{{status: 401}, {status: 401}}, atMost: 10 * time.Second},
		"its roles are not there yet":  {answers: []answer{{status: 403}, {status: 403}}, atMost: 10 * time.Second},
		"its cache is behind":          {answers: []answer{{status: 404}}, atMost: 10 * time.Second},
		"it is new and has no objects": {answers: many(answer{status: 404}), atMost: 3 * time.Minute},
		"too many ask":                 {answers: many(answer{status: 429}), atMost: 5 * time.Minute},
		"it stops":                     {answers: many(answer{status: 503}), atMost: 3 * time.Minute},
		"without a majority":           {answers: many(answer{status: 500}), atMost: 3 * time.Minute},
		"it is late":                   {answers: many(answer{status: 504}), atMost: 3 * time.Minute},
		"it stops between two answers": {answers: []answer{{}, {status: 503}}, atMost: 10 * time.Second},
		"it is away":                   {answers: many(answer{err: errors.New("connection refused")}), atMost: 3 * time.Minute},
		"a proxy in front of it is":    {answers: many(answer{status: 502}), atMost: 3 * time.Minute},
		"its clock is an hour behind":  {answers: many(answer{status: 401, behind: time.Hour}), atMost: 3 * time.Minute},
		"this clock is behind":         {answers: many(answer{err: x509.CertificateInvalidError{Reason: x509.Expired}}), atMost: 3 * time.Minute},
		"another one has its address":  {answers: []answer{{err: unknownCA}, {err: unknownCA}}, atMost: 10 * time.Second},
		"now no, now away":             {answers: append(many(answer{status: 401})[:8], append([]answer{{status: 503}}, many(answer{status: 401})[:8]...)...), atMost: time.Minute},
		"it does not know the node":    {answers: many(answer{status: 401}), want: "the server does not know this node's certificate", atMost: time.Minute},
		"it refuses the node":          {answers: many(answer{status: 403}), want: "the server refuses this node", atMost: time.Minute},
		"it is of another cluster":     {answers: many(answer{err: unknownCA}), want: "the server is not of the cluster that this machine has joined", atMost: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(t, tc.answers, "a:1")
				config := &restclient.Config{Host: "https://" + apiName, Transport: &doubting{RoundTripper: s, servers: s.servers}, QPS: -1}
				client := must(kubernetes.NewForConfig(config))
				waited := 0
				a := &Agent{servers: s.servers, cfg: Config{Progress: func(Step, time.Duration) { waited++ }}}
				began := time.Now()
				err := a.untilMet(t.Context(), func() (err error) {
					if a.cluster, err = readCluster(t.Context(), client); err != nil {
						return err
					}
					return checkServer(config)
				})
				switch took := time.Since(began); {
				case (err == nil) != (tc.want == ""), err != nil && !strings.HasPrefix(err.Error(), tc.want):
					t.Errorf("it says %v, want %q", err, tc.want)
				case err == nil && a.cluster.Domain != "cluster.local":
					t.Errorf("it has heard %+v", a.cluster)
				case took > tc.atMost:
					t.Errorf("it took %s", took)
				case waited != min(1, len(tc.answers)):
					t.Errorf("it has said %d times that it waits", waited)
				}
			})
		})
	}
}

// Of several servers others are asked when one refuses.
func TestMeetAnotherServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, []answer{{status: 401}, {status: 401}}, "a:1", "b:1", "c:1")
		client := must(kubernetes.NewForConfig(&restclient.Config{Host: "https://" + apiName, Transport: s}))
		a := &Agent{servers: s.servers}
		if err := a.untilMet(t.Context(), func() error { _, err := readCluster(t.Context(), client); return err }); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(s.asked, " "); got != "a:1 b:1 c:1" {
			t.Errorf("it has asked %s", got)
		}
	})
}

// One that is ready is asked next, and not passed over.
func TestMeetTheReadyServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, []answer{{status: 503}}, "a:1", "b:1", "c:1")
		client := must(kubernetes.NewForConfig(&restclient.Config{Host: "https://" + apiName, Transport: &doubting{RoundTripper: s, servers: s.servers, ready: func(_ context.Context, server string) error {
			if server != "b:1" {
				return errors.New("not ready")
			}
			return nil
		}}}))
		a := &Agent{servers: s.servers}
		if err := a.untilMet(t.Context(), func() error { _, err := readCluster(t.Context(), client); return err }); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(s.asked, " "); got != "a:1 b:1" {
			t.Errorf("it has asked %s", got)
		}
	})
}

// A server that is not well is left for one that is.
func TestDoubt(t *testing.T) {
	for name, tc := range map[string]struct {
		answer answer
		ready  string // servers that are
		want   string // which server is used then
		asked  int    // how many servers
		err    string
	}{
		"well":                             {ready: "b", want: "a"},
		"not found":                        {answer: answer{status: 404}, ready: "b", want: "a"},
		"without a majority":               {answer: answer{status: 500}, ready: "b c", want: "b", asked: 2},
		"stopping, and the next one too":   {answer: answer{status: 503}, ready: "c", want: "c", asked: 3},
		"all without a majority":           {answer: answer{status: 504}, want: "a", asked: 3},
		"somebody's webhook does not work": {answer: answer{status: 500}, ready: "a b", want: "a", asked: 1},
		"the connection breaks":            {answer: answer{err: io.ErrUnexpectedEOF}, ready: "b", want: "b", asked: 2, err: "unexpected EOF"},
		"its packets are lost":             {answer: answer{hangs: true}, ready: "b", want: "b", asked: 3, err: "unexpected EOF"},
		"not valid now":                    {answer: answer{err: x509.CertificateInvalidError{Reason: x509.Expired}}, want: "a", asked: 3, err: "the server's certificate is not valid at this machine's time"},
		"unknown, by another clock":        {answer: answer{status: 401, behind: time.Hour}, want: "a", err: "this machine's clock is 1h0m0s ahead of the server's"},
		"unknown":                          {answer: answer{status: 401}, want: "a"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(t, []answer{tc.answer}, "a", "b", "c")
				asked := 0
				d := &doubting{RoundTripper: s, servers: s.servers, ready: func(_ context.Context, server string) error {
					asked++
					if strings.Contains(tc.ready, server) {
						if tc.answer.hangs && asked == 2 { // whose connections are closed then
							defer close(s.closed)
						}
						return nil
					}
					return errors.New("not ready")
				}}
				_, err := d.RoundTrip(must(http.NewRequestWithContext(t.Context(), http.MethodGet, "https://kubernetes/api", nil)))
				if (err == nil) != (tc.err == "") || err != nil && !strings.HasPrefix(err.Error(), tc.err) {
					t.Errorf("it says %v, want %q", err, tc.err)
				}
				synctest.Wait()
				if got := s.servers.list()[0]; got != tc.want {
					t.Errorf("it goes on with %s, want %s", got, tc.want)
				}
				if tc.answer.hangs { // the request that has broken asks, too
					asked = tc.asked
				}
				if asked != tc.asked {
					t.Errorf("it has asked %d servers, want %d", asked, tc.asked)
				}
			})
		})
	}
}

// A machine that joins is told at once that its token is wrong, but not by a server that cannot know.
func TestExplain(t *testing.T) {
	for name, tc := range map[string]struct {
		err   error
		ready bool
		want  string
		waits bool
	}{
		"wrong token":           {err: apierrors.NewUnauthorized("no"), ready: true, want: "the server does not know the token"},
		"no majority":           {err: apierrors.NewUnauthorized("no"), want: "ask to become a node", waits: true},
		"a token of another":    {err: apierrors.NewForbidden(schema.GroupResource{}, "x", errors.New("no")), ready: true, want: "the token does not let machines join"},
		"no roles yet":          {err: apierrors.NewForbidden(schema.GroupResource{}, "x", errors.New("no")), want: "ask to become a node", waits: true},
		"starting":              {err: apierrors.NewServiceUnavailable("starting"), ready: true, want: "ask to become a node", waits: true},
		"etcd is late":          {err: apierrors.NewInternalError(errors.New("etcdserver: request timed out")), ready: true, want: "ask to become a node", waits: true},
		"too many":              {err: apierrors.NewTooManyRequests("later", 1), ready: true, want: "ask to become a node", waits: true},
		"the clock":             {err: &url.Error{Op: "Get", Err: namesClock(x509.CertificateInvalidError{Reason: x509.Expired})}, ready: true, want: "the server's certificate is not valid at this machine's time"},
		"a double name":         {err: refused{errors.New("become node x: there is")}, ready: true, want: "become node x: there is"},
		"a wrong version":       {err: misfit{errors.New("this agent is")}, ready: true, want: "this agent is"},
		"the network is broken": {err: io.ErrUnexpectedEOF, ready: true, want: "ask to become a node: unexpected EOF"},
	} {
		err := explain(tc.err, func() error {
			if tc.ready {
				return nil
			}
			return errors.New("not ready")
		})
		if !strings.HasPrefix(err.Error(), tc.want) || errors.As(err, &notYet{}) != tc.waits {
			t.Errorf("%s: %v, waits %v; want %q", name, err, errors.As(err, &notYet{}), tc.want)
		}
	}
}

// What is not yet is tried again, until it is or is never to be.
func TestUntilThen(t *testing.T) {
	final := errors.New("never")
	for want, errs := range map[error][]error{
		nil:   {notYet{errors.New("starting")}, notYet{errors.New("starting")}, nil},
		final: {notYet{errors.New("starting")}, final},
	} {
		synctest.Test(t, func(t *testing.T) {
			waited, tries := 0, 0
			err := untilThen(t.Context(), func(Step) { waited++ }, func() error {
				tries++
				return errs[tries-1]
			})
			if !errors.Is(err, want) || tries != len(errs) || waited != 1 {
				t.Errorf("%v after %d tries, waited %d times; want %v", err, tries, waited, want)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := untilThen(t.Context(), func(Step) {}, func() error { return notYet{final} })
		if took := time.Since(began); !errors.Is(err, final) || took < joinPatience || took > 2*joinPatience {
			t.Errorf("%v after %s", err, took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var steps []Step
		err := untilThen(t.Context(), func(s Step) { steps = append(steps, s) }, func() error {
			switch took := time.Since(began); {
			case took < time.Minute:
				return notYet{errors.New("starting")}
			case took < time.Hour:
				return wrongClock{errors.New("behind")}
			case took < time.Hour+time.Minute:
				return notYet{errors.New("stopping")}
			}
			return nil
		})
		if want := []Step{StepWaiting, StepClock, StepWaiting}; err != nil || !slices.Equal(steps, want) {
			t.Errorf("while a clock is wrong: %v, %v, want %v", err, steps, want)
		}
	})
}

// A server is ready unless it says that it is not, or nothing.
func TestAskReady(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			t.Errorf("it is asked for %s", r.URL)
		}
		w.WriteHeader(status)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	config := &tls.Config{RootCAs: roots, ServerName: "example.com", NextProtos: []string{"h2", "http/1.1"}} // as client-go's transport leaves it
	address := server.Listener.Addr().String()
	for code, ready := range map[int]bool{200: true, 401: true, 403: true, 500: false, 503: false} {
		status = code
		if err := askReady(t.Context(), config, address); (err == nil) != ready {
			t.Errorf("after %d: %v", code, err)
		}
	}
	if err := askReady(t.Context(), &tls.Config{ServerName: "example.com"}, address); err == nil {
		t.Error("a server of another cluster is ready")
	}
	server.Close()
	if err := askReady(t.Context(), config, address); err == nil {
		t.Error("a server that is away is ready")
	}
}
