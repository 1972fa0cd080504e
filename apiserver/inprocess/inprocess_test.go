// SPDX-License-Identifier: Apache-2.0

package inprocess

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"k8s.io/apiserver/pkg/authentication/user"
	restclient "k8s.io/client-go/rest"
)

// client is one in whose requests handler is called.
func client(t *testing.T, handler http.HandlerFunc) *http.Client {
	t.Helper()
	door := NewDoor()
	door.Open(handler)
	c, err := restclient.HTTPClientFor(door.ClientConfig(&user.DefaultInfo{Name: "somebody"}))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A handler still sets its headers when its client leaves: nobody else may read them. The race detector says whether
// somebody does; without it the runtime ends the process, with luck.
func TestClientLeavesBeforeTheHeaders(t *testing.T) {
	begun, gone, handled := make(chan struct{}), make(chan struct{}), make(chan struct{})
	c := client(t, func(w http.ResponseWriter, _ *http.Request) {
		defer close(handled)
		close(begun)
		for i := 0; ; i++ {
			w.Header().Set("Header-"+strconv.Itoa(i%1000), "value")
			select {
			case <-gone:
				w.WriteHeader(http.StatusCreated)
				return
			default:
			}
		}
	})
	ctx, leave := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://in.process/object", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-begun
		leave()
	}()
	response, err := c.Do(request)
	close(gone)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("answer %v, error %v to a client that left", response, err)
	}
	<-handled
}

// A write that has begun is carried through although its client leaves; a read ends with its client.
func TestClientLeaves(t *testing.T) {
	for _, test := range []struct {
		method  string
		carried bool
	}{
		{http.MethodPost, true}, {http.MethodPut, true}, {http.MethodPatch, true}, {http.MethodDelete, true}, {http.MethodGet, false},
	} {
		t.Run(test.method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				goOn := make(chan struct{})
				handled := make(chan error, 1)
				c := client(t, func(w http.ResponseWriter, r *http.Request) {
					select {
					case <-goOn:
					case <-r.Context().Done():
					}
					_, err := w.Write([]byte("done"))
					handled <- errors.Join(r.Context().Err(), err)
				})
				ctx, leave := context.WithCancel(t.Context())
				request, err := http.NewRequestWithContext(ctx, test.method, "http://in.process/object", strings.NewReader("{}"))
				if err != nil {
					t.Fatal(err)
				}
				answered := make(chan error, 1)
				go func() {
					response, err := c.Do(request)
					if err == nil {
						err = response.Body.Close()
					}
					answered <- err
				}()
				synctest.Wait()
				leave()
				if err := <-answered; test.carried && !errors.Is(err, context.Canceled) {
					t.Errorf("the client that left got %v, want that it was canceled", err)
				}
				synctest.Wait()
				close(goOn)
				if err := <-handled; (err == nil) != test.carried {
					t.Errorf("the handler ended with %v, carried through: %v", err, test.carried)
				}
			})
		})
	}
}

// What is known of a request is not known of those that are made in order to answer it.
func TestRequestsAreStrangers(t *testing.T) {
	type key struct{}
	c := client(t, func(w http.ResponseWriter, r *http.Request) {
		if v := r.Context().Value(key{}); v != nil {
			t.Errorf("the handler finds its caller's value %v", v)
		}
	})
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		request, err := http.NewRequestWithContext(context.WithValue(t.Context(), key{}, "of the caller"), method, "http://in.process/object", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := c.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
}

// Who writes is known by the name of upstream's program: it becomes the manager of the fields.
func TestUserAgent(t *testing.T) {
	for name, want := range map[string]string{
		"system:serviceaccount:kube-system:deployment-controller": "kube-controller-manager",
		"system:kube-controller-manager":                          "kube-controller-manager",
		"system:kube-scheduler":                                   "kube-scheduler",
		"system:node:a":                                           "kubelet",
		"system:apiserver":                                        "kube-apiserver",
		"system:serviceaccount:default:mine":                      "skiff",
		"somebody":                                                "skiff",
	} {
		agent := NewDoor().ClientConfig(&user.DefaultInfo{Name: name}).UserAgent
		if program, rest, _ := strings.Cut(agent, "/"); program != want || rest != name {
			t.Errorf("%s says that it is %q, want %s", name, agent, want)
		}
	}
}
