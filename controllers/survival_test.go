// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controllers/localpath"
	"github.com/skiff-k8s/skiff/network/addresspool"
)

// story is something that controllers bring to an end, whatever happens to them. Stories are in stories_test.go.
type story struct {
	code string // four letters; with the number of a life they are in the names of all that the story is about
	// begin makes what the story is about.
	begin func(l *life)
	// step does what kubelets, schedulers and users would do next, and checks what must be true at any time. The story ends
	// when it returns nil.
	step func(l *life) error
	// counts, if there is one, chooses the writes after which the process may die.
	counts func(path string) bool
	// meanwhile, if there is one, is what somebody does while no controller runs.
	meanwhile func(l *life)
}

// life is a telling of a story.
type life struct {
	*cluster
	story
	ctx  context.Context
	name string // of the namespace, and of what is in none
	seen map[string]bool

	only string // if not empty, the process dies only after writes of this identity

	mu     sync.Mutex
	marks  []string // what tells writes that are about this life; guarded by mu
	left   int      // writes until the death; guarded by mu
	struck string   // the last write of all; guarded by mu
}

func (l *life) is(mark string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.marks = append(l.marks, mark)
}

func (l *life) isDead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.left <= 0
}

func (l *life) concerns(path string, body []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.marks, func(mark string) bool { return strings.Contains(path, mark) || bytes.Contains(body, []byte(mark)) })
}

var errDead = errors.New("the process is dead")

// write lets a write through, unless the process is dead. It dies with the last write that it has left: that one arrives, its answer
// does not.
func (l *life) write(identity string, r *http.Request, next http.RoundTripper) (*http.Response, error) {
	l.mu.Lock() // one write at a time: which is the last must be clear
	defer l.mu.Unlock()
	if l.left <= 0 {
		return nil, errDead
	}
	if l.only != "" && l.only != identity || l.counts != nil && !l.counts(r.URL.Path) {
		return next.RoundTrip(r)
	}
	l.left--
	response, err := next.RoundTrip(r)
	if l.left > 0 || err != nil {
		return response, err
	}
	l.struck = identity
	return nil, errors.Join(errDead, response.Body.Close())
}

// first tells whether it is asked for the first time.
func (l *life) first(what string) bool {
	again := l.seen[what]
	l.seen[what] = true
	return !again
}

// must is for what tests do themselves.
func (l *life) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatalf("%s: %v", l.name, err)
	}
}

// never is for what must not be at any time.
func (l *life) never(what string, is bool) {
	l.t.Helper()
	if is {
		l.t.Fatalf("%s: %s", l.name, what)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// fate is what becomes of the requests of all controllers.
type fate struct {
	mu    sync.Mutex
	lives []*life // guarded by mu
	// identities are all that controllers have acted under; guarded by mu.
	identities map[string]bool
}

func (f *fate) tell(lives ...*life) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lives = lives
}

func (f *fate) of(path string, body []byte) *life {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.lives {
		if l.concerns(path, body) {
			return l
		}
	}
	return nil
}

// wrap lets the writes of a controller meet their fate.
func (f *fate) wrap(identity string, next http.RoundTripper) http.RoundTripper {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.identities[identity] = true
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		if !changes(r) {
			return next.RoundTrip(r)
		}
		r, body, err := readBody(r)
		if err != nil {
			return nil, err
		}
		if l := f.of(r.URL.Path, body); l != nil {
			return l.write(identity, r, next)
		}
		return next.RoundTrip(r)
	})
}

// changes tells whether a request changes what matters.
func changes(r *http.Request) bool {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return false
	}
	for _, other := range []string{"/events", "subjectaccessreviews", "/leases/"} {
		if strings.Contains(r.URL.Path, other) {
			return false
		}
	}
	return true
}

// readBody returns the body of a request, and the request as it was before.
func readBody(r *http.Request) (*http.Request, []byte, error) {
	if r.Body == nil {
		return r, nil, nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, nil, err
	}
	r = r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	return r, body, nil
}

// untouched are the identities that need not die in a story, and why.
var untouched = map[string]string{
	"informers":                            "only read",
	"legacy-service-account-token-cleaner": "acts a year after the last use of a token: serviceaccounttoken/clean_test.go",
	"podcertificaterequestcleaner":         "acts a quarter of an hour later, with one write: podcertificatecleaner_test.go",
}

// Whenever the process of the controllers dies, which is after each of all the writes that a story takes, those that come after
// it bring the story to the same end.
func TestControllersSurviveDeaths(t *testing.T) {
	c := serve(t)
	addOns := t.TempDir()
	c.prepare(t)
	defer c.newChronicle(t).read()
	fate := &fate{identities: map[string]bool{}}
	start := func() (stop func()) { return c.control(c.survivors(addOns, fate.wrap)) }
	stop := start()
	defer func() { stop() }()

	struck := map[string][]string{}
	round := 0
	// live tells stories whose process dies after so many writes, and then to their end. It returns those in which it died.
	live := func(told []story, left int, only string) (again []story) {
		if round++; round == 100 {
			t.Fatalf("%d stories have no end after 100 lives: %s ...", len(told), told[0].code)
		}
		var lives []*life
		for _, s := range told {
			l := &life{cluster: c, story: s, ctx: t.Context(), name: fmt.Sprintf("%s%02d", s.code, round), left: left, only: only, seen: map[string]bool{}}
			l.marks = []string{l.name}
			lives = append(lives, l)
		}
		fate.tell(lives...)
		for _, l := range lives {
			l.begin(l)
		}
		dead := tell(t, lives, mortal)
		stop()
		for _, l := range dead {
			struck[l.struck] = append(struck[l.struck], l.name)
			again = append(again, l.story)
			if l.meanwhile != nil {
				l.meanwhile(l)
			}
		}
		fate.tell()
		stop = start()
		tell(t, dead, immortal)
		return again
	}
	all := stories(addOns)
	for left, told := 1, all; len(told) > 0; left++ {
		told = live(told, left, "")
	}
	for _, identity := range slices.Sorted(maps.Keys(fate.identities)) {
		if untouched[identity] != "" {
			continue
		}
		if len(struck[identity]) == 0 { // which of several that write at the same time is struck is chance
			live(all, 1, identity)
		}
		t.Logf("%s died %d times", identity, len(struck[identity]))
		if len(struck[identity]) == 0 {
			t.Errorf("%s never died: add a story that it is in", identity)
		}
	}
}

const (
	mortal   = true
	immortal = false
)

// tell goes on with stories until all have come to their end, but for those whose controllers die.
func tell(t *testing.T, lives []*life, mortal bool) (dead []*life) {
	t.Helper()
	progress := time.Now()
	for len(lives) > 0 {
		var rest []*life
		var last []string
		for _, l := range lives {
			err := l.step(l)
			switch {
			case mortal && l.isDead():
				dead = append(dead, l)
			case err == nil:
				_ = l.CoreV1().Nodes().Delete(l.ctx, l.name, metav1.DeleteOptions{}) // if it has one
			default:
				rest = append(rest, l)
				last = append(last, fmt.Sprintf("%s: %v", l.name, err))
			}
		}
		if len(rest) < len(lives) {
			progress = time.Now()
		}
		if time.Since(progress) > 3*time.Minute {
			t.Fatalf("nothing has come to an end for three minutes; waiting:\n%s", strings.Join(last, "\n"))
		}
		lives = rest
		time.Sleep(10 * time.Millisecond)
	}
	return dead
}

// survivors is depsWith that has all that stories are about.
func (c *cluster) survivors(addOns string, wrap func(identity string, next http.RoundTripper) http.RoundTripper) controllers.Deps {
	c.t.Helper()
	deps := c.depsWith(wrap)
	deps.AddOns = &controllers.AddOns{Dir: addOns, Server: "here", Config: deps.ConfigFor("addons")}
	deps.RootCA = c.keys.ServerCA.PEM()
	pool, err := addresspool.Parse([]string{"192.0.2.0/24"})
	if err != nil {
		c.t.Fatal(err)
	}
	deps.LoadBalancerPool = pool
	return deps
}

// prepare makes what all stories need.
func (c *cluster) prepare(t *testing.T) {
	t.Helper()
	for _, name := range []string{"kube-system", "kube-public", "default"} {
		c.namespace(name)
	}
	if _, err := c.StorageV1().StorageClasses().Create(t.Context(), localpath.Class(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	info := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cluster-info"}, Data: map[string]string{"kubeconfig": "where"}}
	if _, err := c.CoreV1().ConfigMaps("kube-public").Create(t.Context(), info, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// The world is hostile: answers get lost, with or without what they were about; watches break, and what happened meanwhile can
// only be listed. All stories come to their end.
func TestControllersSurviveTheNetwork(t *testing.T) {
	c := serve(t)
	addOns := t.TempDir()
	c.prepare(t)
	defer c.newChronicle(t).read()
	enemy := &enemy{lost: map[string]bool{}, watches: map[*watched]bool{}}
	t.Cleanup(c.control(c.survivors(addOns, enemy.wrap)))
	var lives []*life
	for _, s := range stories(addOns) {
		l := &life{cluster: c, story: s, ctx: t.Context(), name: s.code + "00", left: 1 << 30, seen: map[string]bool{}}
		l.marks = []string{l.name}
		lives = append(lives, l)
		l.begin(l)
	}
	cutting, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for range 4 {
			select {
			case <-cutting.Done():
				return
			case <-time.After(700 * time.Millisecond):
				enemy.cut()
			}
		}
	})
	tell(t, lives, immortal)
	stop()
	running.Wait()
	writes, cuts := enemy.count()
	t.Logf("%d writes went wrong, and %d watches broke", writes, cuts)
	if writes < 50 || cuts < 100 {
		t.Error("that was not hostile")
	}
}

// enemy is a bad network.
type enemy struct {
	mu      sync.Mutex
	writes  int               // guarded by mu
	cuts    int               // guarded by mu
	lost    map[string]bool   // writes that went wrong; guarded by mu
	watches map[*watched]bool // that run; guarded by mu
	expired map[string]bool   // paths whose next watch is told that what it wants to go on from is gone; guarded by mu
}

func (e *enemy) count() (writes, cuts int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.lost), e.cuts
}

// cut breaks all watches.
func (e *enemy) cut() {
	e.mu.Lock()
	broken := slices.Collect(maps.Keys(e.watches))
	e.expired = map[string]bool{}
	for _, w := range broken {
		e.expired[w.path] = true
	}
	e.cuts += len(broken)
	e.mu.Unlock()
	for _, w := range broken {
		_ = w.Close()
	}
}

// watched is the body of a watch.
type watched struct {
	io.ReadCloser
	path string
	gone func()
}

func (w *watched) Close() error {
	w.gone()
	return w.ReadCloser.Close()
}

func (e *enemy) wrap(_ string, next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		switch {
		case r.URL.Query().Get("watch") == "true":
			return e.watch(r, next)
		case changes(r):
			return e.write(r, next)
		}
		return next.RoundTrip(r)
	})
}

// write loses every eighth write, and the answers to as many, but each write once only. Answers to creations of pods
// arrive: under a name that the API server makes up, nobody could tell a pod that is there from one that never was, and there
// may be one too many for a moment.
func (e *enemy) write(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	e.mu.Lock()
	n := e.writes % 8
	key := r.Method + r.URL.Path
	switch {
	case e.lost[key]:
		n = 0
	case n == 3 || n == 7:
		e.lost[key] = true
		fallthrough
	default:
		e.writes++
	}
	e.mu.Unlock()
	if n == 3 {
		return nil, errors.New("the network is down")
	}
	response, err := next.RoundTrip(r)
	if err == nil && n == 7 && !(r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/pods")) {
		return nil, errors.Join(errors.New("the network went down"), response.Body.Close())
	}
	return response, err
}

func (e *enemy) watch(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	e.mu.Lock()
	expired := e.expired[r.URL.Path] && r.URL.Query().Get("sendInitialEvents") == ""
	delete(e.expired, r.URL.Path)
	e.mu.Unlock()
	if expired {
		return nil, apierrors.NewResourceExpired("too old resource version")
	}
	response, err := next.RoundTrip(r)
	if err != nil || response.StatusCode != http.StatusOK {
		return response, err
	}
	w := &watched{ReadCloser: response.Body, path: r.URL.Path}
	w.gone = func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watches, w)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.watches[w] = true
	response.Body = w
	return response, nil
}
