// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/registry/stories"
)

var (
	write  = flag.Bool("write", false, "write the outcome of stories that have none, as Kubernetes decides it")
	seed   = flag.Uint64("seed", 1, "seed of the changes")
	doubly = flag.Int("doubly", 40, "objects with two changes, for each story")
	most   = flag.Int("most", 12, "differences to print of a kind")
)

func TestMain(m *testing.M) {
	flag.Parse()
	klog.LogToStderr(false) // Kubernetes' code has much to say
	klog.SetOutput(io.Discard)
	os.Exit(m.Run())
}

const folder = "../../registry/testdata/stories"

var both = sync.OnceValues(func() (apis [2]*api, err error) {
	apis[0], err = newSkiff()
	apis[1] = newKubernetes()
	return apis, err
})

func load(t *testing.T) (ours, theirs *api, files map[string]*stories.File) {
	t.Helper()
	apis, err := both()
	if err != nil {
		t.Fatal(err)
	}
	files, err = stories.Read(folder)
	if err != nil {
		t.Fatal(err)
	}
	return apis[0], apis[1], files
}

// Every kind has stories.
func TestEveryKindHasStories(t *testing.T) {
	ours, theirs, files := load(t)
	told := map[schema.GroupKind]bool{}
	for _, f := range files {
		told[schema.FromAPIVersionAndKind(f.APIVersion, f.Kind).GroupKind()] = true
	}
	for gk := range theirs.kinds {
		if !told[gk] {
			t.Errorf("no story of %s", gk)
		}
		if _, ok := ours.kinds[gk]; !ok {
			t.Errorf("%s has no rules here", gk)
		}
		if here, there := slices.Sorted(maps.Keys(ours.kinds[gk].parts)), slices.Sorted(maps.Keys(theirs.kinds[gk].parts)); !slices.Equal(here, there) {
			t.Errorf("%s has the subresources %v, want %v", gk, here, there)
		}
	}
}

// What a story tells is what Kubernetes does.
func TestStories(t *testing.T) {
	ours, theirs, files := load(t)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		t.Run(name, func(t *testing.T) {
			f := files[name]
			for i := range f.Stories {
				s := &f.Stories[i]
				got, _ := play(theirs, f, s)
				here, _ := play(ours, f, s)
				if diff := difference(here, got); diff != "" {
					t.Errorf("%s:\n%s", s.Name, diff)
				}
				if *write && s.Errors == nil && s.Stored == nil {
					s.Errors, s.Stored, s.Warnings = got.errors, stories.WithoutSystemFields(got.stored), got.warnings
					if got.stored == nil {
						s.Stored = nil
					}
					continue
				}
				if s.Errors == nil && s.Stored == nil {
					t.Errorf("%s tells no outcome: run this with -write", s.Name)
					continue
				}
				told := answer{errors: s.Errors, stored: s.Stored, warnings: s.Warnings}
				if got.stored != nil {
					got.stored = stories.WithoutSystemFields(got.stored)
				}
				if diff := difference(told, got); diff != "" {
					t.Errorf("%s: Kubernetes decides otherwise (- story, + Kubernetes):\n%s", s.Name, diff)
				}
			}
			if *write {
				if err := stories.Write(folder, name, f); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// play tells the answer to the last step, and the object before it.
func play(a *api, f *stories.File, s *stories.Story) (last answer, before stories.Object) {
	last = a.create(f.Sent(s))
	for _, step := range []struct {
		subresource string
		patch       stories.Object
	}{{"status", s.Status}, {"", s.Update}} {
		if step.patch == nil || last.stored == nil {
			continue
		}
		before = last.stored
		last = a.change(before, stories.Merge(before, step.patch), step.subresource)
	}
	return last, before
}

// Objects like those of the stories are treated alike.
func TestChanges(t *testing.T) {
	_, _, files := load(t)
	constants, err := stories.NamedStrings()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ours, theirs, _ := load(t)
			h := fnv.New64()
			h.Write([]byte(name))
			c := comparison{
				t: t, kind: files[name].Kind, ours: ours, theirs: theirs, seen: map[string]int{},
				mutator: &stories.Mutator{Rand: rand.New(rand.NewPCG(*seed, h.Sum64())), Constants: constants},
			}
			for i := range files[name].Stories {
				c.tryStory(files[name], &files[name].Stories[i])
			}
			c.report()
		})
	}
}

// comparison collects what differs, once for each kind of difference.
type comparison struct {
	t            *testing.T
	kind         string
	ours, theirs *api
	mutator      *stories.Mutator
	asked        int
	seen         map[string]int
	found        []string
}

func (c *comparison) tryStory(f *stories.File, s *stories.Story) {
	sent := f.Sent(s)
	c.try("create", sent, func(a *api, o stories.Object) answer { return a.create(o) })
	created := c.theirs.create(sent)
	if created.stored == nil {
		return
	}
	c.try("update", created.stored, func(a *api, o stories.Object) answer { return a.change(created.stored, o, "") })
	k := c.theirs.kinds[c.theirs.groupKind(sent)]
	for _, name := range slices.Sorted(maps.Keys(k.parts)) {
		c.try(name, created.stored, func(a *api, o stories.Object) answer { return a.change(created.stored, o, name) })
	}
	if k.status == nil {
		return
	}
	stored := created.stored
	if s.Status != nil {
		if got := c.theirs.change(stored, stories.Merge(stored, s.Status), "status"); got.stored != nil {
			stored = got.stored
			c.try("update with status", stored, func(a *api, o stories.Object) answer { return a.change(stored, o, "") })
		}
	}
	c.try("status", stored, func(a *api, o stories.Object) answer { return a.change(stored, o, "status") })
}

// try asks for base and for what the mutator makes of it.
func (c *comparison) try(op string, base stories.Object, ask func(a *api, o stories.Object) answer) {
	gvk := schema.FromAPIVersionAndKind(base["apiVersion"].(string), base["kind"].(string))
	fresh := func() runtime.Object {
		obj, err := c.theirs.scheme.New(gvk)
		if err != nil {
			c.t.Fatal(err)
		}
		content, _ := json.Marshal(base)
		if err := json.Unmarshal(content, obj); err != nil {
			c.t.Fatalf("%s of %v: %v", op, base, err)
		}
		return obj
	}
	compare := func(obj runtime.Object, what string) {
		content, err := json.Marshal(obj)
		if err != nil {
			return
		}
		sent := stories.Object{}
		if err := json.Unmarshal(content, &sent); err != nil {
			return
		}
		sent["apiVersion"], sent["kind"] = base["apiVersion"], base["kind"]
		if op != "create" {
			keepName(sent, base)
		}
		c.asked++
		here, there, diff := c.ask(sent, ask)
		c.note(op+" "+what, diff)
		if there.stored != nil && here.stored != nil {
			if a, b := c.ours.print(there.stored), c.theirs.print(there.stored); a != b {
				c.note("print after "+op+" "+what, lineDiff(a, b))
			}
		}
	}
	obj := fresh()
	compare(obj, "unchanged")
	changes := 0
	c.mutator.Walk(reflect.ValueOf(obj).Elem(), "", func(what string) bool {
		changes++
		compare(obj, what)
		return false
	})
	for range min(*doubly, changes) {
		obj, what := fresh(), ""
		for range 2 {
			at := c.mutator.Rand.IntN(changes)
			c.mutator.Walk(reflect.ValueOf(obj).Elem(), "", func(w string) bool {
				at--
				if at == 0 {
					what += w + "; "
				}
				return at == 0
			})
		}
		compare(obj, what)
	}
}

// ask asks both. What differs by chance, by the time or by the order of a map, differs from one time to the next.
func (c *comparison) ask(sent stories.Object, ask func(a *api, o stories.Object) answer) (here, there answer, diff string) {
	for range 10 {
		here, there = ask(c.ours, sent), ask(c.theirs, sent)
		if there.panicked && !here.panicked {
			return here, there, "" // it has no opinion
		}
		if diff = difference(here, there); diff == "" {
			break
		}
	}
	return here, there, diff
}

// keepName lets an update be of the object that it is for, as the path of a request does.
func keepName(sent, base stories.Object) {
	meta, ok := sent["metadata"].(stories.Object)
	if !ok {
		meta = stories.Object{}
		sent["metadata"] = meta
	}
	for _, field := range []string{"name", "namespace"} {
		delete(meta, field)
		if value, ok := base["metadata"].(stories.Object)[field]; ok {
			meta[field] = value
		}
	}
}

var (
	index  = regexp.MustCompile(`\[[^\]]*\]`)
	quoted = regexp.MustCompile(`"[^"]*"|: -?[0-9.]+|[0-9]+`)
)

// accepted are differences that stay, by kind ("": of all), with their reasons.
var accepted = []struct {
	kind string
	text *regexp.Regexp
}{
	{"", regexp.MustCompile(`is greater than max/min`)},                           // Kubernetes divides integers, which overflow
	{"", regexp.MustCompile(`error decode`)},                                      // deprecated.daemonset.template.generation that is no number makes its conversion fail
	{"", regexp.MustCompile(`undefined field|undeclared reference`)},              // of variables of a policy that has none
	{"", regexp.MustCompile(`<nil>/`)},                                            // a metric without a value, printed by Kubernetes as Go does
	{"", regexp.MustCompile(`TimeAdded `)},                                        // seconds ago, which go by
	{"", regexp.MustCompile(`metadata.name: Required value`)},                     // a LimitRange without a name has none besides other errors
	{"ReplicationController", regexp.MustCompile(`warning spec\.template\.spec`)}, // on update Kubernetes takes the old template for the new one
	{"ResourceSlice", regexp.MustCompile(`attributes\[long\S*\.\.\.`)},            // of a name that is too long Kubernetes tells twice: one of its validations abbreviates it
}

func isAccepted(kind, diff string) bool {
	for _, a := range accepted {
		if (a.kind == "" || a.kind == kind) && a.text.MatchString(diff) {
			return true
		}
	}
	return false
}

func (c *comparison) note(what, diff string) {
	if diff == "" || isAccepted(c.kind, diff) {
		return
	}
	signature := quoted.ReplaceAllString(index.ReplaceAllString(diff, "[]"), "V")
	if c.seen[signature]++; c.seen[signature] > 1 {
		return
	}
	if len(diff) > 2000 {
		diff = diff[:2000] + "..."
	}
	c.found = append(c.found, what+"\n"+diff)
}

func (c *comparison) report() {
	c.t.Logf("%d objects", c.asked)
	if len(c.found) == 0 {
		return
	}
	c.t.Errorf("%d differences (- Skiff, + Kubernetes):\n%s", len(c.found), strings.Join(c.found[:min(len(c.found), *most)], "\n"))
}

// difference is empty if two answers are the same.
func difference(a, b answer) string {
	if (a.stored == nil) != (b.stored == nil) { // it is of no interest what was stored
		a.stored, b.stored = nil, nil
	}
	return lineDiff(a.flat(), b.flat())
}

// flat is an answer with a line for each value.
func (a answer) flat() string {
	var lines []string
	for _, e := range a.errors {
		lines = append(lines, "error "+e)
	}
	for _, w := range a.warnings {
		lines = append(lines, "warning "+w)
	}
	if a.stored != nil {
		lines = append(lines, stories.Flatten(a.stored)...)
	}
	return strings.Join(lines, "\n")
}

// lineDiff says which lines are only in one of two texts.
func lineDiff(a, b string) string {
	if a == b {
		return ""
	}
	one, other := strings.Split(a, "\n"), strings.Split(b, "\n")
	var out strings.Builder
	for _, line := range one {
		if !slices.Contains(other, line) {
			fmt.Fprintln(&out, "  -", line)
		}
	}
	for _, line := range other {
		if !slices.Contains(one, line) {
			fmt.Fprintln(&out, "  +", line)
		}
	}
	return out.String()
}

// What may be done with the objects of a kind, and what server-side apply does not own of them.
func TestTraits(t *testing.T) {
	ours, theirs, _ := load(t)
	for gk, k := range theirs.kinds {
		if here, there := traits(gk, ours.kinds[gk]), traits(gk, k); here != there {
			t.Errorf("%s (- Skiff, + Kubernetes):\n%s", gk, lineDiff(here, there))
		}
	}
}

func traits(gk schema.GroupKind, k kind) string {
	ctx := request.WithRequestInfo(context.Background(), &request.RequestInfo{APIGroup: gk.Group, APIVersion: "v1"})
	var out strings.Builder
	if k.create == nil {
		return "none"
	}
	fmt.Fprintln(&out, "namespaced:", k.create.NamespaceScoped())
	fmt.Fprintln(&out, "created by update:", k.update.AllowCreateOnUpdate(ctx))
	fmt.Fprintln(&out, "updated without resourceVersion:", k.update.AllowUnconditionalUpdate(ctx))
	fmt.Fprintln(&out, "status:", k.status != nil)
	if gc, ok := k.create.(genericrest.GarbageCollectionDeleteStrategy); ok {
		fmt.Fprintln(&out, "dependents:", gc.DefaultGarbageCollectionPolicy(ctx))
	} else {
		fmt.Fprintln(&out, "dependents:", genericrest.DeleteDependents)
	}
	for name, strategy := range map[string]any{"main": k.update, "status": k.status} {
		if r, ok := strategy.(genericrest.ResetFieldsStrategy); ok {
			for gv, set := range r.GetResetFields() {
				if strings.HasSuffix(string(gv), "v1") || strings.HasSuffix(string(gv), "v2") {
					fmt.Fprintln(&out, name, "resets", gv, set)
				}
			}
		}
	}
	lines := strings.Split(out.String(), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
