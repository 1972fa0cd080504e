// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/scheduler/cache"
	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/queue"
)

// A model of the documented rules, as plain and slow as can be: it says whether a pod may run on a node of a
// cluster. TestFiltersAgreeWithModel compares the plugins with it on generated clusters.

type modelCluster struct {
	nodes []*v1.Node
	pods  []*v1.Pod // all with a node
	pod   *v1.Pod   // the one to place
}

func (m *modelCluster) node(name string) *v1.Node {
	for _, n := range m.nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

func (m *modelCluster) fits(node *v1.Node) bool {
	return m.enoughResources(node) && m.tolerated(node) && m.selected(node) && m.portsFree(node) &&
		m.affinityMet(node) && m.antiAffinityMet(node) && m.spread(node)
}

func requestOf(pod *v1.Pod, name v1.ResourceName) int64 {
	sum := int64(0)
	for _, c := range pod.Spec.Containers {
		q := c.Resources.Requests[name]
		sum += q.MilliValue()
	}
	for _, c := range pod.Spec.InitContainers { // none restarts always in generated pods
		q := c.Resources.Requests[name]
		sum = max(sum, q.MilliValue())
	}
	if q, ok := pod.Spec.Overhead[name]; ok {
		sum += q.MilliValue()
	}
	return sum
}

func (m *modelCluster) enoughResources(node *v1.Node) bool {
	count := int64(1)
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, "example.com/gpu"} {
		want := requestOf(m.pod, name)
		used := int64(0)
		for _, p := range m.pods {
			if p.Spec.NodeName == node.Name {
				used += requestOf(p, name)
			}
		}
		has := node.Status.Allocatable[name]
		if want > 0 && want+used > has.MilliValue() {
			return false
		}
	}
	for _, p := range m.pods {
		if p.Spec.NodeName == node.Name {
			count++
		}
	}
	return count <= node.Status.Allocatable.Pods().Value()
}

func (m *modelCluster) tolerated(node *v1.Node) bool {
	taints := append([]v1.Taint(nil), node.Spec.Taints...)
	if node.Spec.Unschedulable {
		taints = append(taints, v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule})
	}
	return toleratesAll(m.pod, taints)
}

func toleratesAll(pod *v1.Pod, taints []v1.Taint) bool {
	for _, taint := range taints {
		if taint.Effect == v1.TaintEffectPreferNoSchedule {
			continue
		}
		found := false
		for _, t := range pod.Spec.Tolerations {
			effect := t.Effect == "" || t.Effect == taint.Effect
			key := t.Key == taint.Key || t.Key == "" && t.Operator == v1.TolerationOpExists
			value := t.Operator == v1.TolerationOpExists || t.Value == taint.Value
			found = found || effect && key && value
		}
		if !found {
			return false
		}
	}
	return true
}

func (m *modelCluster) selected(node *v1.Node) bool {
	for k, v := range m.pod.Spec.NodeSelector {
		if node.Labels[k] != v {
			return false
		}
	}
	a := m.pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil {
		return true
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		all := true
		for _, e := range term.MatchExpressions {
			value, has := node.Labels[e.Key]
			in := has && value == e.Values[0]
			all = all && in == (e.Operator == v1.NodeSelectorOpIn)
		}
		if all {
			return true
		}
	}
	return false
}

func (m *modelCluster) portsFree(node *v1.Node) bool {
	for _, p := range m.pods {
		if p.Spec.NodeName != node.Name {
			continue
		}
		for _, a := range p.Spec.Containers[0].Ports {
			for _, b := range m.pod.Spec.Containers[0].Ports {
				if a.HostPort == b.HostPort && a.Protocol == b.Protocol && (a.HostIP == b.HostIP || a.HostIP == "" || b.HostIP == "") {
					return false
				}
			}
		}
	}
	return true
}

// selects: generated terms have no namespaces of their own, and all namespaces lack labels.
func selects(term *v1.PodAffinityTerm, owner, other *v1.Pod) bool {
	if term.NamespaceSelector == nil && owner.Namespace != other.Namespace {
		return false
	}
	selector, _ := metav1.LabelSelectorAsSelector(term.LabelSelector)
	return selector.Matches(labels.Set(other.Labels))
}

func together(a, b *v1.Node, key string) bool {
	va, ok := a.Labels[key]
	vb, ok2 := b.Labels[key]
	return ok && ok2 && va == vb
}

func required(pod *v1.Pod) (affinity, anti []v1.PodAffinityTerm) {
	if a := pod.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			affinity = a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
		if a.PodAntiAffinity != nil {
			anti = a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
	}
	return affinity, anti
}

// affinityMet: pods that match all terms have to be in the node's domain of each term. If there is none in any domain, the pod may be the first,
// provided that it matches its own terms.
func (m *modelCluster) affinityMet(node *v1.Node) bool {
	terms, _ := required(m.pod)
	if len(terms) == 0 {
		return true
	}
	matchesAll := func(p *v1.Pod) bool {
		for i := range terms {
			if !selects(&terms[i], m.pod, p) {
				return false
			}
		}
		return true
	}
	met, none := true, true
	for i := range terms {
		if _, ok := node.Labels[terms[i].TopologyKey]; !ok {
			return false
		}
		found := false
		for _, p := range m.pods {
			on := m.node(p.Spec.NodeName)
			if !matchesAll(p) {
				continue
			}
			if _, ok := on.Labels[terms[i].TopologyKey]; ok {
				none = false
			}
			found = found || together(on, node, terms[i].TopologyKey)
		}
		met = met && found
	}
	return met || none && matchesAll(m.pod)
}

func (m *modelCluster) antiAffinityMet(node *v1.Node) bool {
	_, own := required(m.pod)
	for _, p := range m.pods {
		on := m.node(p.Spec.NodeName)
		for i := range own {
			if selects(&own[i], m.pod, p) && together(on, node, own[i].TopologyKey) {
				return false
			}
		}
		_, theirs := required(p)
		for i := range theirs {
			if selects(&theirs[i], p, m.pod) && together(on, node, theirs[i].TopologyKey) {
				return false
			}
		}
	}
	return true
}

func (m *modelCluster) spread(node *v1.Node) bool {
	for _, c := range m.pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable != v1.DoNotSchedule {
			continue
		}
		if _, ok := node.Labels[c.TopologyKey]; !ok {
			return false
		}
		selector, _ := metav1.LabelSelectorAsSelector(c.LabelSelector)
		domains := make(map[string]int)
		for _, n := range m.nodes {
			if !m.counts(&c, n) {
				continue
			}
			value := n.Labels[c.TopologyKey]
			domains[value] += 0
			for _, p := range m.pods {
				if p.Spec.NodeName == n.Name && p.Namespace == m.pod.Namespace && p.DeletionTimestamp == nil && selector.Matches(labels.Set(p.Labels)) {
					domains[value]++
				}
			}
		}
		lowest := 1 << 30
		for _, count := range domains {
			lowest = min(lowest, count)
		}
		if len(domains) == 0 || c.MinDomains != nil && len(domains) < int(*c.MinDomains) {
			lowest = 0
		}
		self := 0
		if selector.Matches(labels.Set(m.pod.Labels)) {
			self = 1
		}
		if domains[node.Labels[c.TopologyKey]]+self-lowest > int(c.MaxSkew) {
			return false
		}
	}
	return true
}

func (m *modelCluster) counts(c *v1.TopologySpreadConstraint, n *v1.Node) bool {
	for _, other := range m.pod.Spec.TopologySpreadConstraints {
		if _, ok := n.Labels[other.TopologyKey]; !ok && other.WhenUnsatisfiable == v1.DoNotSchedule {
			return false
		}
	}
	if (c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == v1.NodeInclusionPolicyHonor) && !m.selected(n) {
		return false
	}
	return c.NodeTaintsPolicy == nil || *c.NodeTaintsPolicy == v1.NodeInclusionPolicyIgnore || toleratesAll(m.pod, n.Spec.Taints)
}

// generate makes a small crowded cluster, so that every rule has its say.
func generate(r *rand.Rand) *modelCluster {
	g := &generator{r}
	m := &modelCluster{}
	for i := range 2 + r.IntN(7) {
		m.nodes = append(m.nodes, g.node(i))
	}
	for i := range r.IntN(20) {
		p := g.pod(fmt.Sprintf("existing-%d", i))
		p.Spec.NodeName = m.nodes[r.IntN(len(m.nodes))].Name
		if g.chance(10) {
			p.DeletionTimestamp = &metav1.Time{}
		}
		m.pods = append(m.pods, p)
	}
	m.pod = g.pod("pending")
	return m
}

type generator struct{ *rand.Rand }

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

func pick[T any](g *generator, of ...T) T { return of[g.IntN(len(of))] }

func (g *generator) node(i int) *v1.Node {
	n := newNode(fmt.Sprintf("node-%d", i), func(n *v1.Node) {
		n.Status.Allocatable = resources(fmt.Sprint(2+g.IntN(6)), "8Gi", fmt.Sprint(3+g.IntN(8)))
		n.Labels["disk"] = pick(g, "ssd", "hdd")
	})
	if g.chance(90) {
		n.Labels["zone"] = pick(g, "a", "b", "c")
	}
	if g.chance(30) {
		n.Status.Allocatable["example.com/gpu"] = resource.MustParse("2")
	}
	if g.chance(20) {
		n.Spec.Taints = []v1.Taint{{Key: pick(g, "t", "u"), Value: pick(g, "x", "y"), Effect: pick(g, v1.TaintEffectNoSchedule, v1.TaintEffectNoExecute, v1.TaintEffectPreferNoSchedule)}}
	}
	n.Spec.Unschedulable = g.chance(5)
	return n
}

func (g *generator) pod(name string) *v1.Pod {
	p := newPod(name, func(p *v1.Pod) {
		p.Namespace = pick(g, "default", "default", "other")
		p.UID = types.UID(name)
		p.Labels = map[string]string{"app": pick(g, "web", "db")}
	})
	requests := v1.ResourceList{}
	if g.chance(70) {
		requests[v1.ResourceCPU] = *resource.NewMilliQuantity(int64(g.IntN(1500)), resource.DecimalSI)
	}
	if g.chance(50) {
		requests[v1.ResourceMemory] = *resource.NewQuantity(int64(g.IntN(3))<<30, resource.BinarySI)
	}
	if g.chance(10) {
		requests["example.com/gpu"] = resource.MustParse("1")
	}
	p.Spec.Containers[0].Resources.Requests = requests
	if g.chance(10) {
		p.Spec.InitContainers = []v1.Container{{Name: "i", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2")}}}}
	}
	if g.chance(10) {
		p.Spec.Overhead = v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m")}
	}
	if g.chance(15) {
		p.Spec.Containers[0].Ports = []v1.ContainerPort{{HostPort: pick[int32](g, 80, 81), Protocol: pick(g, v1.ProtocolTCP, v1.ProtocolUDP), HostIP: pick(g, "", "127.0.0.1", "10.0.0.1")}}
	}
	if g.chance(30) {
		p.Spec.Tolerations = []v1.Toleration{{Key: pick(g, "t", "u"), Operator: pick(g, v1.TolerationOpExists, v1.TolerationOpEqual), Effect: pick(g, "", v1.TaintEffectNoSchedule)}}
		if p.Spec.Tolerations[0].Operator == v1.TolerationOpEqual {
			p.Spec.Tolerations[0].Value = pick(g, "x", "y")
		}
	}
	if g.chance(15) {
		p.Spec.NodeSelector = map[string]string{"disk": pick(g, "ssd", "hdd")}
	}
	p.Spec.Affinity = g.affinity()
	if g.chance(40) {
		p.Spec.Priority = ptr.To(pick[int32](g, 5, 10))
	}
	if g.chance(35) {
		p.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{g.spread()}
		if g.chance(30) {
			p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, g.spread())
		}
	}
	return p
}

func (g *generator) affinity() *v1.Affinity {
	a := &v1.Affinity{}
	if g.chance(15) {
		terms := make([]v1.NodeSelectorTerm, 1+g.IntN(2))
		for i := range terms {
			terms[i].MatchExpressions = []v1.NodeSelectorRequirement{{Key: "zone", Operator: pick(g, v1.NodeSelectorOpIn, v1.NodeSelectorOpNotIn), Values: []string{pick(g, "a", "b", "c")}}}
		}
		a.NodeAffinity = &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{NodeSelectorTerms: terms}}
	}
	if g.chance(20) {
		a.PodAffinity = &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: g.terms()}
	}
	if g.chance(15) {
		a.PodAntiAffinity = &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: g.terms()}
	}
	if g.chance(20) { // of no matter to the model
		preferred := []v1.WeightedPodAffinityTerm{{Weight: int32(1 + g.IntN(100)), PodAffinityTerm: g.terms()[0]}}
		if a.PodAntiAffinity == nil {
			a.PodAntiAffinity = &v1.PodAntiAffinity{}
		}
		a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = preferred
	}
	return a
}

func (g *generator) terms() []v1.PodAffinityTerm {
	terms := make([]v1.PodAffinityTerm, 1+g.IntN(2))
	for i := range terms {
		terms[i] = v1.PodAffinityTerm{TopologyKey: pick(g, "zone", v1.LabelHostname, "disk"), LabelSelector: g.selector()}
		if g.chance(20) {
			terms[i].NamespaceSelector = &metav1.LabelSelector{}
		}
	}
	return terms
}

func (g *generator) selector() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(g, "web", "db")}}
}

func (g *generator) spread() v1.TopologySpreadConstraint {
	c := v1.TopologySpreadConstraint{
		MaxSkew: int32(1 + g.IntN(3)), TopologyKey: pick(g, "zone", v1.LabelHostname), LabelSelector: g.selector(),
		WhenUnsatisfiable: pick(g, v1.DoNotSchedule, v1.DoNotSchedule, v1.ScheduleAnyway),
	}
	if g.chance(30) && c.WhenUnsatisfiable == v1.DoNotSchedule {
		n := int32(1 + g.IntN(5))
		c.MinDomains = &n
	}
	if g.chance(30) {
		policy := v1.NodeInclusionPolicyIgnore
		c.NodeAffinityPolicy = &policy
	}
	if g.chance(30) {
		policy := v1.NodeInclusionPolicyHonor
		c.NodeTaintsPolicy = &policy
	}
	return c
}

// newCycle makes a cycle of the default profile over the cluster.
func newCycle(t testing.TB, s *Scheduler, m *modelCluster) *framework.Cycle {
	t.Helper()
	var infos []*framework.NodeInfo
	for _, node := range m.nodes {
		info := &framework.NodeInfo{}
		info.SetNode(node)
		for _, p := range m.pods {
			if p.Spec.NodeName == node.Name {
				info.AddPod(framework.NewPodInfo(p))
			}
		}
		infos = append(infos, info)
	}
	s.snapshot = *framework.NewSnapshot(infos...)
	return framework.NewCycle(s.profiles[v1.DefaultSchedulerName], framework.NewPodInfo(m.pod), &s.snapshot, s.queue.Nominated)
}

// A long run takes other seeds, and more of them: go test ./scheduler -run Agree -args -first-seed 1000000 -seeds 100000
var (
	firstSeed = flag.Uint64("first-seed", 0, "of the clusters that are generated")
	seeds     = flag.Uint64("seeds", 0, "how many clusters to generate; 0 for as few as are quick")
)

// eachSeed yields quick seeds, or as many as are asked for.
func eachSeed(quick uint64) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for i := range cmp.Or(*seeds, quick) {
			if !yield(*firstSeed + i) {
				return
			}
		}
	}
}

// manifest is the cluster as kubectl would create it.
func (m *modelCluster) manifest() string {
	list := v1.List{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "List"}}
	for _, n := range m.nodes {
		n = n.DeepCopy()
		n.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}
		list.Items = append(list.Items, runtime.RawExtension{Object: n})
	}
	for _, p := range append(slices.Clip(m.pods), m.pod) {
		p = p.DeepCopy()
		p.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
		list.Items = append(list.Items, runtime.RawExtension{Object: p})
	}
	text, err := json.Marshal(list)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func TestFiltersAgreeWithModel(t *testing.T) {
	client := fake.NewClientset()
	s, err := New(Config{}, client, informers.NewSharedInformerFactory(client, 0), nil)
	if err != nil {
		t.Fatal(err)
	}
	fitting, rejected := 0, 0
	for seed := range eachSeed(5000) {
		m := generate(rand.New(rand.NewPCG(seed, 1)))
		cycle := newCycle(t, s, m)
		_, _, _, status := cycle.PreFilter(t.Context())
		for i, node := range m.nodes {
			verdict := status
			if verdict == nil {
				_, verdict = cycle.Filter(s.snapshot.Nodes[i])
			}
			want := m.fits(node)
			if want {
				fitting++
			} else {
				rejected++
			}
			if want != (verdict == nil) {
				t.Fatalf("seed %d: the model says %v for node %s, the plugins say %v\n%s", seed, want, node.Name, verdict.Reasons(), m.manifest())
			}
		}
	}
	if fitting < 1000 || rejected < 1000 {
		t.Errorf("%d nodes fit and %d do not: the generator is lopsided", fitting, rejected)
	}
}

// What preemption does to a cycle (pods taken off and put back) has to lead to the same verdicts as a cycle made anew.
func TestTrackersAgreeWithNewCycle(t *testing.T) {
	client := fake.NewClientset()
	s, err := New(Config{}, client, informers.NewSharedInformerFactory(client, 0), nil)
	if err != nil {
		t.Fatal(err)
	}
	for seed := range eachSeed(2000) {
		m := generate(rand.New(rand.NewPCG(seed, 2)))
		if len(m.pods) == 0 {
			continue
		}
		cycle := newCycle(t, s, m)
		_, _, _, status := cycle.PreFilter(t.Context())
		if status != nil {
			continue
		}
		at := 0
		for i, node := range m.nodes {
			if node.Name == m.pods[0].Spec.NodeName {
				at = i
			}
		}
		gone := m.pods[0]
		node := s.snapshot.Nodes[at].Clone()
		clone := cycle.Clone()
		info := framework.NewPodInfo(gone)
		clone.RemovePod(info, node)
		_, without := clone.Filter(node)
		clone.AddPod(info, node)
		_, back := clone.Filter(node)
		_, before := cycle.Filter(s.snapshot.Nodes[at])
		if (back == nil) != (before == nil) {
			t.Fatalf("seed %d: putting a pod back changed the verdict from %v to %v", seed, before.Reasons(), back.Reasons())
		}
		m.pods = m.pods[1:]
		if gone.DeletionTimestamp == nil && m.fits(m.nodes[at]) != (without == nil) {
			t.Fatalf("seed %d: without pod %s the model says %v for node %s, the plugins say %v", seed, gone.Name, m.fits(m.nodes[at]), m.nodes[at].Name, without.Reasons())
		}
	}
}

// change makes one change to the cluster, and to the cache as the informers would.
func (g *generator) change(m *modelCluster, c *cache.Cache, id int) {
	at := g.IntN(len(m.nodes))
	switch kind := g.IntN(10); {
	case kind < 5: // a pod comes
		p := g.pod(fmt.Sprintf("step-%d", id))
		p.Spec.NodeName = m.nodes[at].Name
		m.pods = append(m.pods, p)
		c.SetPod(framework.NewPodInfo(p))
	case kind < 7 && len(m.pods) > 0: // goes
		i := g.IntN(len(m.pods))
		c.RemovePod(m.pods[i])
		m.pods = slices.Delete(m.pods, i, i+1)
	case kind == 7 && len(m.pods) > 0: // is being deleted
		i := g.IntN(len(m.pods))
		m.pods[i] = m.pods[i].DeepCopy()
		m.pods[i].DeletionTimestamp = &metav1.Time{}
		c.SetPod(framework.NewPodInfo(m.pods[i]))
	case kind == 8: // a node changes
		node := g.node(id)
		node.Name, node.Labels[v1.LabelHostname] = m.nodes[at].Name, m.nodes[at].Name
		m.nodes[at] = node
		c.SetNode(node)
	case len(m.nodes) < 12: // comes
		node := g.node(id)
		node.Name, node.Labels[v1.LabelHostname] = fmt.Sprint("new-", id), fmt.Sprint("new-", id)
		m.nodes = append(m.nodes, node)
		c.SetNode(node)
	case len(m.nodes) > 1: // goes, and its pods with it
		gone := m.nodes[at]
		m.nodes = slices.Delete(m.nodes, at, at+1)
		c.RemoveNode(gone)
		m.pods = slices.DeleteFunc(m.pods, func(p *v1.Pod) bool {
			if p.Spec.NodeName == gone.Name {
				c.RemovePod(p)
			}
			return p.Spec.NodeName == gone.Name
		})
	}
}

// pending is a pod to place: often it is like one of those before it, as replicas are.
func (g *generator) pending(before *[]*v1.Pod, id int) *v1.Pod {
	p := g.pod("pending")
	if len(*before) > 0 && g.chance(70) {
		p = pick(g, *before...).DeepCopy()
	} else {
		*before = append(*before, p)
	}
	p.UID = types.UID(fmt.Sprint("pending-", id))
	return p
}

// What is kept from one cycle to the next has to say what counting anew would: verdicts as the model, scores and victims as those of a
// snapshot made anew; also while pods are nominated to nodes.
func TestKeptAgreesWithModel(t *testing.T) {
	client := fake.NewClientset()
	s, err := New(Config{}, client, informers.NewSharedInformerFactory(client, 0), nil)
	if err != nil {
		t.Fatal(err)
	}
	preempting := 0
	for seed := range eachSeed(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		g, m := &generator{r}, generate(r)
		c, snapshot := cache.New(), framework.NewSnapshot()
		for _, node := range m.nodes {
			c.SetNode(node)
		}
		for _, p := range m.pods {
			c.SetPod(framework.NewPodInfo(p))
		}
		nominated, before := queue.NewNominated(), []*v1.Pod(nil)
		for step := range 40 {
			for i := range r.IntN(3) {
				g.change(m, c, 10*step+i)
			}
			c.UpdateSnapshot(snapshot)
			m.pod = g.pending(&before, step)
			pod := framework.NewPodInfo(m.pod)
			if step%2 == 0 { // one is nominated, maybe the pod itself; or the first is so no longer
				other := framework.NewPodInfo(g.pending(&before, step+g.IntN(2)))
				nominated.Set(other, pick(g, m.nodes...).Name)
			} else if step%7 == 0 {
				for i := range step {
					nominated.Remove(&v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(fmt.Sprint("pending-", i))}})
				}
			}
			nominated.Changed(snapshot.Touch)
			kept := framework.NewCycle(s.profiles[v1.DefaultSchedulerName], pod, snapshot, nominated)
			anew := framework.NewCycle(s.profiles[v1.DefaultSchedulerName], pod, framework.NewSnapshot(cloneAll(snapshot.Nodes)...), nominated)
			kept.Remember()
			_, _, _, status := kept.PreFilter(t.Context())
			_, _, _, _ = anew.PreFilter(t.Context())
			var feasible []*framework.NodeInfo
			diagnosis := &framework.Diagnosis{Nodes: snapshot.Nodes, Absent: status, Statuses: make([]*framework.Status, len(snapshot.Nodes))}
			for i, node := range snapshot.Nodes {
				verdict := status
				if verdict == nil {
					var by, byAnew string
					var verdictAnew *framework.Status
					by, verdict = kept.FilterAt(i)
					byAnew, verdictAnew = anew.Filter(anew.Snapshot.Nodes[i])
					if by != byAnew || verdict.Message() != verdictAnew.Message() {
						t.Fatalf("seed %d, step %d: of node %s is kept %s %q, anew it is %s %q", seed, step, node.Node.Name, by, verdict.Message(), byAnew, verdictAnew.Message())
					}
				}
				diagnosis.Statuses[i] = verdict
				if verdict == nil {
					feasible = append(feasible, node)
				}
				if len(nominated.NominatedPods(node.Node.Name)) == 0 && m.fits(node.Node) != (verdict == nil) {
					t.Fatalf("seed %d, step %d: the model says %v for node %s, the plugins say %v", seed, step, verdict != nil, node.Node.Name, verdict.Reasons())
				}
			}
			got, err := kept.Score(t.Context(), feasible)
			want, err2 := anew.Score(t.Context(), cloneAll(feasible))
			if err != nil || err2 != nil || !slices.Equal(got, want) {
				t.Fatalf("seed %d, step %d: scores are %v (%v), counted anew %v (%v)", seed, step, got, err, want, err2)
			}
			if status == nil && len(feasible) == 0 {
				got, want := victims(t, kept, diagnosis), victims(t, anew, &framework.Diagnosis{Nodes: anew.Snapshot.Nodes, Statuses: diagnosis.Statuses})
				if got != want {
					t.Fatalf("seed %d, step %d: kept are the victims %s, anew they are %s", seed, step, got, want)
				}
				if got != "[]" {
					preempting++
				}
			}
		}
	}
	if preempting < 100 {
		t.Errorf("%d pods would preempt others: the generator is lopsided", preempting)
	}
}

// victims says how much the best preemption hurts: which of several it is may be any.
func victims(t *testing.T, cycle *framework.Cycle, d *framework.Diagnosis) string {
	best, status := cycle.Plan(t.Context(), d)
	if status.Code() == framework.Error {
		t.Fatal(status.Message())
	}
	priorities := []int32{}
	if best != nil {
		for _, p := range best.Pods {
			priorities = append(priorities, framework.Priority(p))
		}
	}
	return fmt.Sprint(priorities)
}

func cloneAll(nodes []*framework.NodeInfo) []*framework.NodeInfo {
	clones := make([]*framework.NodeInfo, len(nodes))
	for i, n := range nodes {
		clones[i] = n.Clone()
	}
	return clones
}
