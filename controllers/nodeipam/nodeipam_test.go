// SPDX-License-Identifier: Apache-2.0

package nodeipam

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/controllers/metrics"
)

func newRange(cluster string, bits int) Range {
	return Range{Cluster: netip.MustParsePrefix(cluster), NodeBits: bits}
}

func TestBlocks(t *testing.T) {
	b, err := newBlocks(newRange("10.42.0.0/22", 24))
	if err != nil {
		t.Fatal(err)
	}
	b.take(netip.MustParsePrefix("10.42.1.0/24"))
	b.take(netip.MustParsePrefix("192.168.0.0/24")) // not ours
	var got []string
	for {
		prefix, _, ok := b.next()
		if !ok {
			break
		}
		got = append(got, prefix.String())
	}
	if want := []string{"10.42.0.0/24", "10.42.2.0/24", "10.42.3.0/24"}; !slices.Equal(got, want) {
		t.Errorf("blocks are %v, want %v", got, want)
	}
	b.free(netip.MustParsePrefix("10.42.0.0/23"))
	if first, _, _ := b.next(); first.String() != "10.42.0.0/24" {
		t.Errorf("after freeing two: %v", first)
	}
	if second, _, _ := b.next(); second.String() != "10.42.1.0/24" {
		t.Errorf("after freeing two: %v", second)
	}
}

func TestBlocksOfIPv6(t *testing.T) {
	b, err := newBlocks(newRange("fd00:42::/56", 64))
	if err != nil {
		t.Fatal(err)
	}
	b.take(netip.MustParsePrefix("fd00:42::/64"))
	if prefix, _, _ := b.next(); prefix.String() != "fd00:42:0:1::/64" {
		t.Errorf("block is %v", prefix)
	}
}

func TestRangesThatCannotBe(t *testing.T) {
	for _, r := range []Range{newRange("10.42.0.0/24", 16), newRange("10.0.0.0/8", 30), newRange("10.0.0.0/24", 33), {}} {
		if _, err := newBlocks(r); err == nil {
			t.Errorf("%v is accepted", r)
		}
	}
}

func node(name string, cidrs ...string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: cidrs}}
}

// Blocks of nodes that were there before are learned; a deleted node's block can be given away again.
func TestNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := controllertest.New(t, node("old", "10.42.0.0/24", "fd00::/64"), node("new"))
		c, err := New(cluster.Clientset, cluster.Factory, cluster.Events, metrics.New().Blocks, []Range{newRange("10.42.0.0/23", 24), newRange("fd00::/63", 64)})
		if err != nil {
			t.Fatal(err)
		}
		cluster.Run(c)
		cidrs := func(name string) string {
			t.Helper()
			n, err := cluster.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprint(n.Spec.PodCIDR, n.Spec.PodCIDRs)
		}
		if got, want := cidrs("new"), "10.42.1.0/24[10.42.1.0/24 fd00:0:0:1::/64]"; got != want {
			t.Errorf("new node has %s, want %s", got, want)
		}
		if _, err := cluster.CoreV1().Nodes().Create(t.Context(), node("late"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := cidrs("late"); got != "[]" {
			t.Errorf("a node got %s though the range is used up", got)
		}
		if err := cluster.CoreV1().Nodes().Delete(t.Context(), "old", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got, want := cidrs("late"), "10.42.0.0/24[10.42.0.0/24 fd00::/64]"; got != want {
			t.Errorf("late node has %s, want %s", got, want)
		}
	})
}
