// SPDX-License-Identifier: Apache-2.0

package static

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// web is a server of static pods, whose page can be changed.
type web struct {
	*httptest.Server
	page atomic.Value // string; empty for no content
	code atomic.Int64
}

func newWeb(t *testing.T, page string) *web {
	t.Helper()
	w := &web{}
	w.page.Store(page)
	w.code.Store(http.StatusOK)
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Key") != "secret" {
			http.Error(rw, "who are you?", http.StatusForbidden)
			return
		}
		rw.WriteHeader(int(w.code.Load()))
		fmt.Fprint(rw, w.page.Load())
	}))
	t.Cleanup(w.Close)
	return w
}

func (w *web) source(header http.Header) *Source {
	s := source("")
	s.cfg.URL, s.cfg.Header, s.cfg.Period = w.URL, header, 10*time.Millisecond
	s.page = newPage(&s.cfg)
	return s
}

// names are those of the pods of a source.
func names(t *testing.T, s *Source) string {
	t.Helper()
	var names []string
	for _, pod := range s.Read(t.Context()) {
		names = append(names, pod.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

const list = "apiVersion: v1\nkind: PodList\nitems:\n- {metadata: {name: a}, spec: {containers: [{name: c, image: i}]}}\n- {metadata: {name: b}, spec: {containers: [{name: c, image: i}]}}\n"

// What can be read is in force, also when nothing can be read later.
func TestURL(t *testing.T) {
	w := newWeb(t, pod("web", ""))
	s := w.source(http.Header{"X-Key": {"secret"}})
	if s.Seen() || names(t, s) != "" {
		t.Error("there are pods before anybody has asked")
	}
	look := func(page string, code int64, wantNews, wantErr bool, want string) {
		t.Helper()
		w.page.Store(page)
		w.code.Store(code)
		news, err := s.page.fetch(t.Context())
		if news != wantNews || err != nil != wantErr || names(t, s) != want {
			t.Errorf("news %v, %v, pods %q; want %v, an error: %v, %q", news, err, names(t, s), wantNews, wantErr, want)
		}
	}
	const ok, away = http.StatusOK, http.StatusServiceUnavailable
	look(pod("web", ""), away, false, true, "")
	if s.Seen() {
		t.Error("all pods are known while the server does not answer")
	}
	look(pod("web", ""), ok, true, false, "web-node-1")
	got := s.Read(t.Context())[0]
	if !s.Seen() || got.Annotations[sourceAnnotation] != "http" || got.Annotations[hashAnnotation] != string(got.UID) {
		t.Errorf("pod = %+v", got)
	}
	look(pod("web", ""), ok, false, false, "web-node-1")
	look("kind: [", ok, false, true, "web-node-1")
	look(pod("web", ", hostNetwork: maybe"), ok, false, true, "web-node-1")
	look(pod("", ""), ok, false, true, "web-node-1")
	look("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n", ok, false, true, "web-node-1")
	look("# the same pod, written otherwise\n"+pod("web", ""), ok, false, false, "web-node-1")
	if again := s.Read(t.Context())[0]; again != got {
		t.Error("an unchanged pod is another one")
	}
	look(list, ok, true, false, "a-node-1 b-node-1")
	look(list, away, false, true, "a-node-1 b-node-1")
	look("", ok, true, true, "")
	look(list, ok, true, false, "a-node-1 b-node-1")
	if _, err := w.source(nil).page.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "403 Forbidden") {
		t.Errorf("without the header: %v", err)
	}
}

// Pods are asked for again and again, and a UID stays when another process asks.
func TestRunURL(t *testing.T) {
	w := newWeb(t, pod("web", ""))
	s := w.source(http.Header{"X-Key": {"secret"}})
	changed := make(chan struct{}, 100)
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- s.Run(ctx, func() { changed <- struct{}{} }) }()
	await := func() {
		t.Helper()
		select {
		case <-changed:
		case err := <-done:
			t.Fatalf("ended: %v", err)
		case <-time.After(20 * time.Second):
			t.Fatal("nothing changed")
		}
	}
	await()
	uid := s.Read(t.Context())[0].UID
	other := w.source(http.Header{"X-Key": {"secret"}})
	if _, err := other.page.fetch(t.Context()); err != nil || other.Read(t.Context())[0].UID != uid {
		t.Errorf("in another process the UID is not %s, %v", uid, err)
	}
	w.page.Store(list)
	await()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := names(t, s); got != "a-node-1 b-node-1" {
		t.Errorf("pods %q", got)
	}
}
