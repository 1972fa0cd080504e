// SPDX-License-Identifier: Apache-2.0

package numa

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestChoose(t *testing.T) {
	const a, b, both = Mask(1), Mask(2), Mask(3)
	anywhere, nowhere := Hints(nil), Hints{}
	either := Hints{{a, true}, {b, true}, {both, false}}
	for _, c := range []struct {
		name   string
		hints  []Hints
		best   Mask
		admit  map[Policy]bool
		single Mask // the best with SingleNode
	}{
		{"nothing is asked for", nil, both, map[Policy]bool{BestEffort: true, Restricted: true, SingleNode: true}, 0},
		{"it may lie anywhere", []Hints{anywhere}, both, map[Policy]bool{BestEffort: true, Restricted: true, SingleNode: true}, 0},
		{"it can be had nowhere", []Hints{nowhere}, both, map[Policy]bool{BestEffort: true}, 0},
		{"on either node", []Hints{either}, a, map[Policy]bool{BestEffort: true, Restricted: true, SingleNode: true}, a},
		{"the other resource is on one node", []Hints{either, {{b, true}, {both, false}}}, b, map[Policy]bool{BestEffort: true, Restricted: true, SingleNode: true}, b},
		{"they are on different nodes", []Hints{{{a, true}, {both, false}}, {{b, true}, {both, false}}}, a, map[Policy]bool{BestEffort: true}, 0},
		{"only both are enough, and always were", []Hints{{{both, true}}}, both, map[Policy]bool{BestEffort: true, Restricted: true}, 0},
		{"only both are enough now", []Hints{{{both, false}}}, both, map[Policy]bool{BestEffort: true}, 0},
		{"one needs both, the other one", []Hints{{{both, true}}, either}, both, map[Policy]bool{BestEffort: true}, 0},
		{"it does not matter where the other is", []Hints{either, anywhere}, a, map[Policy]bool{BestEffort: true, Restricted: true, SingleNode: true}, a},
	} {
		for _, policy := range []Policy{BestEffort, Restricted, SingleNode} {
			want := c.best
			if policy == SingleNode {
				want = c.single
			}
			best, admit := Choose(policy, both, nil, c.hints)
			if admit != c.admit[policy] || admit && best != want {
				t.Errorf("%s, %s: Choose = %b, %t; want %b, %t", c.name, policy, best, admit, want, c.admit[policy])
			}
		}
		if best, admit := Choose(None, both, nil, c.hints); best != 0 || !admit {
			t.Errorf("%s, none: Choose = %b, %t", c.name, best, admit)
		}
	}
}

func TestPossible(t *testing.T) {
	total := func(m Mask) int { return 4 * m.Count() }
	free := func(m Mask) int { // one on the first node, four on the second
		n := 0
		if m.Has(0) {
			n++
		}
		if m.Has(1) {
			n += 4
		}
		return n
	}
	for count, want := range map[int]Hints{
		1: {{1, true}, {2, true}, {3, false}},
		2: {{2, true}, {3, false}},
		5: {{3, true}}, // no single node ever has five
		6: {},
	} {
		got := Possible(3, count, total, free)
		if len(got) != len(want) {
			t.Errorf("Possible(%d) = %v, want %v", count, got, want)
			continue
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("Possible(%d) = %v, want %v", count, got, want)
			}
		}
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	if nodes, err := Read(dir); err != nil || len(nodes) != 0 {
		t.Errorf("without NUMA: %v, %v", nodes, err)
	}
	for file, text := range map[string]string{"online": "0,3\n", "node0/cpulist": "0-3\n", "node3/cpulist": "4-7\n", "node0/distance": "10 21\n", "node3/distance": "22 10\n"} {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	nodes, err := Read(dir)
	if err != nil || nodes.All() != Of(0, 3) || nodes.CPUs(Of(3)).String() != "4-7" {
		t.Errorf("Read = %v, %v", nodes, err)
	}
	distances, err := ReadDistances(dir, nodes)
	if err != nil || distances[0][3] != 21 || distances[3][0] != 22 || distances[3][3] != 10 {
		t.Errorf("ReadDistances = %v, %v", distances, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "node3", "distance"), []byte("22\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadDistances(dir, nodes); err == nil {
		t.Error("a distance is missing, and that is accepted")
	}
}

// Of as many nodes, those that are closest to each other are taken if the operator wants that; few nodes come before close ones.
func TestClosest(t *testing.T) {
	all := Of(0, 1, 2, 3)
	ring := Distances{ // 0 and 3 are near, and so are 1 and 2
		0: {0: 10, 1: 30, 2: 20, 3: 11}, 1: {0: 30, 1: 10, 2: 12, 3: 20}, 2: {0: 20, 1: 12, 2: 10, 3: 30}, 3: {0: 11, 1: 20, 2: 30, 3: 10},
	}
	pairs := Hints{{Of(0, 1), true}, {Of(1, 2), true}, {Of(0, 3), true}, {all, false}}
	for _, c := range []struct {
		name      string
		distances Distances
		hints     Hints
		want      Mask
	}{
		{"the lowest", nil, pairs, Of(0, 1)},
		{"the closest", ring, pairs, Of(0, 3)},
		{"as close, the lowest", ring, Hints{{Of(2), true}, {Of(1), true}}, Of(1)},
		{"one", ring, append(Hints{{Of(2), true}}, pairs...), Of(2)},
		{"preferred by nobody", ring, Hints{{Of(0, 1), false}, {Of(1, 2), false}}, Of(1, 2)},
	} {
		if got, _ := Choose(BestEffort, all, c.distances, []Hints{c.hints}); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got.List(), c.want.List())
		}
	}
}

// A machine may have few nodes with high numbers.
func TestSubsets(t *testing.T) {
	if got, want := Of(0, 63).Subsets(), []Mask{Of(0), Of(63), Of(0, 63)}; !slices.Equal(got, want) {
		t.Errorf("Subsets = %v, want %v", got, want)
	}
}
