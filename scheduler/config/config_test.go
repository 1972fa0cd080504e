// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/skiff-k8s/skiff/scheduler"
	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins"
)

const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

func names(p scheduler.Profile) []string {
	var list []string
	for _, e := range p.Plugins {
		list = append(list, e.Name)
	}
	return list
}

func entry(t *testing.T, p scheduler.Profile, name string) plugins.Entry {
	t.Helper()
	i := slices.IndexFunc(p.Plugins, func(e plugins.Entry) bool { return e.Name == name })
	if i < 0 {
		t.Fatalf("profile %s has no plugin %s", p.SchedulerName, name)
	}
	return p.Plugins[i]
}

// build makes a scheduler of the configuration, which checks what Load leaves to the plugins.
func build(c scheduler.Config) error {
	client := fake.NewClientset()
	_, err := scheduler.New(c, client, informers.NewSharedInformerFactory(client, 0), nil)
	return err
}

func TestLoad(t *testing.T) {
	c, err := Load([]byte(head + `
parallelism: 16
leaderElection: {leaderElect: true}
percentageOfNodesToScore: 20
podInitialBackoffSeconds: 2
podMaxBackoffSeconds: 30
profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  percentageOfNodesToScore: 100
  plugins:
    multiPoint:
      enabled: [{name: TaintToleration, weight: 7}]
      disabled: [{name: ImageLocality}]
    score:
      enabled: [{name: NodeResourcesFit, weight: 5}]
      disabled: [{name: NodeResourcesBalancedAllocation}]
    filter:
      disabled: [{name: "NodePorts"}]
  pluginConfig:
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 2}]}
  - name: PodTopologySpread
    args: {defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}]}
  - name: NodeAffinity
    args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
- schedulerName: bare
  plugins:
    multiPoint: {disabled: [{name: "*"}], enabled: [{name: PrioritySort}, {name: DefaultBinder}]}
    filter: {enabled: [{name: NodeName}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	if c.PercentageOfNodesToScore != 20 || c.InitialBackoff != 2*time.Second || c.MaxBackoff != 30*time.Second || len(c.Profiles) != 3 {
		t.Errorf("configuration is %+v", c)
	}
	if got, want := len(c.Profiles[0].Plugins), len(plugins.Default()); got != want {
		t.Errorf("default profile has %d plugins, want %d", got, want)
	}
	packing := c.Profiles[1]
	if *packing.PercentageOfNodesToScore != 100 || c.Profiles[0].PercentageOfNodesToScore != nil || slices.Contains(names(packing), "ImageLocality") {
		t.Errorf("packing is %v", names(packing))
	}
	if w := entry(t, packing, "TaintToleration").Weight; w != 7 {
		t.Errorf("weight of TaintToleration is %d", w)
	}
	if w := entry(t, packing, "NodeResourcesFit").Weight; w != 5 {
		t.Errorf("weight of NodeResourcesFit is %d", w)
	}
	if off := entry(t, packing, "NodePorts").Off; !slices.Equal(off, []framework.Point{framework.AtFilter}) {
		t.Errorf("NodePorts is off at %v", off)
	}
	if got := names(c.Profiles[2]); !slices.Equal(got, []string{"PrioritySort", "DefaultBinder", "NodeName"}) {
		t.Errorf("bare has %v", got)
	}
	if off := entry(t, c.Profiles[2], "NodeName").Off; slices.Contains(off, framework.AtFilter) || !slices.Contains(off, framework.AtPreFilter) {
		t.Errorf("NodeName of bare is off at %v", off)
	}
	if err := build(c); err != nil {
		t.Errorf("making the scheduler: %v", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	profile := func(text string) string { return head + "profiles:\n- schedulerName: p\n" + text }
	for text, want := range map[string]string{
		"":                                     "must be a KubeSchedulerConfiguration",
		head + "percentage: 3":                 "percentage",
		head + "percentageOfNodesToScore: 101": "from 0 to 100",
		head + "podMaxBackoffSeconds: 0":       "podMaxBackoffSeconds",
		head + "extenders: [{urlPrefix: http://x, prioritizeVerb: p}]":                                     "weight must be positive",
		head + "extenders: [{urlPrefix: http://x, bindVerb: b}, {urlPrefix: http://y, bindVerb: b}]":       "only one may bind",
		head + "extenders: [{urlPrefix: http://x, managedResources: [{name: cpu}]}]":                       "must be an extended resource",
		head + "profiles: [{schedulerName: a}, {schedulerName: a}]":                                        "given twice",
		profile("  plugins: {multiPoint: {enabled: [{name: Nope}]}}"):                                      `no plugin "Nope"`,
		profile("  plugins: {multiPoint: {disabled: [{name: DefaultBinder}]}}"):                            "bind plugin",
		profile("  plugins: {queueSort: {disabled: [{name: '*'}]}}"):                                       "queue sort",
		profile("  pluginConfig: [{name: VolumeBinding, args: {shape: [{utilization: 0, score: 11}]}}]"):   "score must be from 0 to 10",
		profile("  pluginConfig: [{name: NodeName, args: {a: 1}}]"):                                        "no arguments",
		profile("  pluginConfig: [{name: NodeResourcesFit, args: {a: 1}}]"):                                `"a"`,
		profile("  pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: X}}}]"):          "X",
		profile("  pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]"):          "hardPodAffinityWeight",
		profile("  pluginConfig: [{name: PodTopologySpread, args: {defaultConstraints: [{maxSkew: 1}]}}]"): "defaultingType",
		head + "parallelism: 0":                     "parallelism",
		head + "profiles: [{schedulerName: a}, {}]": "schedulerName must not be empty",
		head + "profiles: [{schedulerName: a}, {schedulerName: b, plugins: {queueSort: {disabled: [{name: '*'}], enabled: [{name: OtherSort}]}}}]":                                                     "the same in all profiles",
		profile("  pluginConfig: [{name: NodeAffinity}, {name: NodeAffinity}]"):                                                                                                                        "there twice",
		profile("  pluginConfig: [{name: NodeAffinity, args: {kind: InterPodAffinityArgs}}]"):                                                                                                          "must be NodeAffinityArgs",
		profile("  plugins: {filter: {enabled: [{name: NodeName}, {name: NodeName}]}}"):                                                                                                                "enabled twice at filter",
		profile("  plugins: {multiPoint: {enabled: [{name: NodeName}, {name: NodeName}]}}"):                                                                                                            "enabled twice at multiPoint",
		profile("  plugins: {score: {enabled: [{name: NodeName}]}}"):                                                                                                                                   `"NodeName" has nothing to say at score`,
		profile("  plugins: {placementScore: {enabled: [{name: NodeResourcesFit}]}}"):                                                                                                                  "pod groups",
		profile("  pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: LeastAllocated, resources: [{name: cpu, weight: -1}]}}}]"):                                                   "from 1 to 100",
		profile("  pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: LeastAllocated, requestedToCapacityRatio: {}}}}]"):                                                           "requestedToCapacityRatio",
		profile("  pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {resources: [{name: cpu}]}}}]"):                                                                                     "type must be",
		profile("  pluginConfig: [{name: NodeResourcesFit, args: {ignoredResourceGroups: [a/b]}}]"):                                                                                                    "slash",
		profile("  pluginConfig: [{name: NodeResourcesFit, args: {ignoredResources: ['!']}}]"):                                                                                                         `"!"`,
		profile("  pluginConfig: [{name: NodeResourcesBalancedAllocation, args: {resources: [{name: cpu, weight: 2}]}}]"):                                                                              "weight must be 1",
		profile("  pluginConfig: [{name: DynamicResources, args: {bindingTimeout: 0s}}]"):                                                                                                              "at least 1s",
		profile("  pluginConfig: [{name: DefaultPreemption, args: {minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 0}}]"):                                                                   "not both 0",
		profile("  pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: Perhaps}]}}]"):                           "whenUnsatisfiable",
		profile("  pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{topologyKey: a, whenUnsatisfiable: ScheduleAnyway}]}}]"):                                "maxSkew",
		profile("  pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{maxSkew: 1, whenUnsatisfiable: ScheduleAnyway}]}}]"):                                    "topologyKey",
		profile("  pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: ScheduleAnyway, labelSelector: {}}]}}]"): "labelSelector",
	} {
		c, err := Load([]byte(text), plugins.Entry{Name: "OtherSort", New: func(*framework.Handle) (framework.Plugin, error) { return otherSort{}, nil }})
		if err == nil {
			err = build(c)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", text, err, want)
		}
	}
}

type otherSort struct{}

func (otherSort) Name() string                        { return "OtherSort" }
func (otherSort) Less(a, b *framework.QueuedPod) bool { return a.Attempts < b.Attempts }

// At a single point, plugins that are everywhere come in the order given there, before the others that are everywhere; those that are only there come
// last. One that is disabled there first can be put anywhere. Who is named without a weight has 1.
func TestOrder(t *testing.T) {
	c, err := Load([]byte(head+`
profiles:
- plugins:
    multiPoint: {enabled: [{name: TaintToleration}]}
    postFilter: {enabled: [{name: DefaultPreemption}, {name: DynamicResources}]}
    preFilter: {enabled: [{name: NodeName}, {name: NodeUnschedulable}, {name: TaintToleration}]}
    preScore: {enabled: [{name: VolumeBinding}]}
    filter: {enabled: [{name: NodePorts}]}
    score: {enabled: [{name: NodeAffinity}]}
    bind: {disabled: [{name: "*"}], enabled: [{name: Own}, {name: DefaultBinder}]}
`), plugins.Entry{Name: "Own", New: func(*framework.Handle) (framework.Plugin, error) { return ownBinder{}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	if err := build(c); err != nil {
		t.Fatal(err)
	}
	p := c.Profiles[0]
	order := func(point framework.Point, names ...string) {
		t.Helper()
		for i, name := range names[1:] {
			if before := names[i]; entry(t, p, before).Rank[point] >= entry(t, p, name).Rank[point] {
				t.Errorf("at %s, %s does not come before %s", point, before, name)
			}
		}
	}
	order(framework.AtPostFilter, "DefaultPreemption", "DynamicResources")
	order(framework.AtFilter, "NodePorts", "NodeName")
	order(framework.AtBind, "Own", "DefaultBinder")
	for name, want := range map[string]int64{"TaintToleration": 1, "NodeAffinity": 1, "PodTopologySpread": 2} {
		if weight := entry(t, p, name).Weight; weight != want {
			t.Errorf("the weight of %s is %d, want %d", name, weight, want)
		}
	}
}

type ownBinder struct{}

func (ownBinder) Name() string { return "Own" }
func (ownBinder) Bind(context.Context, *v1.Pod, string) *framework.Status {
	return framework.SkipStatus
}

// evenNodes is a plugin that somebody else has written.
type evenNodes struct{}

func (evenNodes) Name() string { return "EvenNodes" }

func (evenNodes) Filter(_ framework.State, _ *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	if strings.HasSuffix(node.Node.Name, "1") {
		return framework.Reject("node(s) were odd")
	}
	return nil
}

// A Go program adds a plugin of its own and builds a scheduler with it.
func ExampleLoad() {
	own := plugins.Entry{Name: "EvenNodes", New: func(*framework.Handle) (framework.Plugin, error) { return evenNodes{}, nil }}
	c, err := Load([]byte(head+"profiles: [{schedulerName: even, plugins: {multiPoint: {enabled: [{name: EvenNodes}]}}}]"), own)
	if err != nil {
		fmt.Println(err)
		return
	}
	client := fake.NewClientset()
	if _, err := scheduler.New(c, client, informers.NewSharedInformerFactory(client, 0), nil); err != nil {
		fmt.Println(err)
		return
	}
	profile := c.Profiles[0]
	fmt.Println(profile.SchedulerName, profile.Plugins[len(profile.Plugins)-1].Name)
	// Output: even EvenNodes
}
