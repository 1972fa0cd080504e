// SPDX-License-Identifier: Apache-2.0

package plugins_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins/imagelocality"
	"github.com/skiff-k8s/skiff/scheduler/plugins/interpodaffinity"
	"github.com/skiff-k8s/skiff/scheduler/plugins/nodeaffinity"
	"github.com/skiff-k8s/skiff/scheduler/plugins/nodedeclaredfeatures"
	"github.com/skiff-k8s/skiff/scheduler/plugins/nodename"
	"github.com/skiff-k8s/skiff/scheduler/plugins/nodeports"
	"github.com/skiff-k8s/skiff/scheduler/plugins/noderesources"
	"github.com/skiff-k8s/skiff/scheduler/plugins/nodeunschedulable"
	"github.com/skiff-k8s/skiff/scheduler/plugins/nodevolumelimits"
	"github.com/skiff-k8s/skiff/scheduler/plugins/podtopologyspread"
	"github.com/skiff-k8s/skiff/scheduler/plugins/prioritysort"
	"github.com/skiff-k8s/skiff/scheduler/plugins/tainttoleration"
	"github.com/skiff-k8s/skiff/scheduler/plugins/volumebinding"
	"github.com/skiff-k8s/skiff/scheduler/plugins/volumerestrictions"
	"github.com/skiff-k8s/skiff/scheduler/plugins/volumezone"
)

type constructor = func(*framework.Handle) (framework.Plugin, error)

// newPlugin makes a plugin that sees objects.
func newPlugin(t *testing.T, make constructor, objects ...runtime.Object) framework.Plugin {
	t.Helper()
	client := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	core, storage := factory.Core().V1(), factory.Storage().V1()
	core.Namespaces().Informer()
	plugin, err := make(&framework.Handle{
		Client: client, Informers: factory,
		Need: func(context.Context, ...framework.Kind) error {
			core.PersistentVolumes().Informer()
			core.PersistentVolumeClaims().Informer()
			core.Services().Informer()
			storage.StorageClasses().Informer()
			storage.CSINodes().Informer()
			storage.CSIDrivers().Informer()
			storage.CSIStorageCapacities().Informer()
			factory.StartWithContext(ctx)
			return factory.WaitForCacheSyncWithContext(ctx).Err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	factory.StartWithContext(ctx)
	factory.WaitForCacheSyncWithContext(ctx)
	return plugin
}

func node(name string, labels ...string) *framework.NodeInfo {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name}}}
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		n.Labels[key] = value
	}
	n.Status.Allocatable = list("4", "4Gi")
	n.Status.Allocatable[v1.ResourcePods] = resource.MustParse("3")
	info := &framework.NodeInfo{}
	info.SetNode(n)
	return info
}

func with(n *framework.NodeInfo, pods ...*v1.Pod) *framework.NodeInfo {
	for i, p := range pods {
		p.UID = types.UID(n.Node.Name + string(rune('a'+i)))
		n.AddPod(framework.NewPodInfo(p))
	}
	return n
}

func list(cpu, memory string) v1.ResourceList {
	return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
}

func pod(change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "p"},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "c", Image: "img"}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func requests(cpu, memory string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.Containers[0].Resources.Requests = list(cpu, memory) }
}

func app(name string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Labels = map[string]string{"app": name} }
}

func hostPort(port int32, ip string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Ports = []v1.ContainerPort{{HostPort: port, HostIP: ip, Protocol: v1.ProtocolTCP}}
	}
}

func claims(names ...string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		for _, name := range names {
			source := v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
			p.Spec.Volumes = append(p.Spec.Volumes, v1.Volume{Name: name, VolumeSource: source})
		}
	}
}

func claim(name, pv, class string, modes ...v1.PersistentVolumeAccessMode) *v1.PersistentVolumeClaim {
	c := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
	c.Spec = v1.PersistentVolumeClaimSpec{VolumeName: pv, StorageClassName: &class, AccessModes: modes}
	if pv != "" {
		c.Annotations = map[string]string{volume.AnnBindCompleted: "yes"}
	}
	return c
}

func csiVolume(name string, labels map[string]string) *v1.PersistentVolume {
	pv := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	pv.Spec.CSI = &v1.CSIPersistentVolumeSource{Driver: "csi.example.com", VolumeHandle: name}
	return pv
}

func affine(key string, anti bool) func(*v1.Pod) {
	return func(p *v1.Pod) {
		terms := []v1.PodAffinityTerm{{TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}
		p.Spec.Affinity = &v1.Affinity{PodAffinity: &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}}
		if anti {
			p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}}
		}
	}
}

func spreadOver(key string, action v1.UnsatisfiableConstraintAction) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Labels = map[string]string{"app": "web"}
		p.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: action, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels}}}
	}
}

// Each plugin rejects with upstream's words, "" meaning that it does not.
func TestFilterReasons(t *testing.T) {
	tainted := node("n")
	tainted.Node.Spec.Taints = []v1.Taint{{Key: "k", Value: "v", Effect: v1.TaintEffectNoExecute}}
	cordoned := node("n")
	cordoned.Node.Spec.Unschedulable = true
	declaring := node("n")
	declaring.Node.Status.DeclaredFeatures = []string{"RestartAllContainersOnContainerExits"}
	limited := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{
		Name: "csi.example.com", Allocatable: &storagev1.VolumeNodeResources{Count: ptr.To[int32](1)},
	}}}}
	wait := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "manual"}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
	zoned := csiVolume("zoned", map[string]string{v1.LabelTopologyZone: "a"})
	fit := noderesources.NewFit(noderesources.FitArgs{})

	for _, test := range []struct {
		name    string
		make    constructor
		objects []runtime.Object
		pod     *v1.Pod
		node    *framework.NodeInfo
		want    string
	}{
		{"other node", nodename.New, nil, pod(func(p *v1.Pod) { p.Spec.NodeName = "other" }), node("n"), "node(s) didn't match the requested node name"},
		{"cordoned", nodeunschedulable.New, nil, pod(), cordoned, "node(s) were unschedulable"},
		{"cordoned, tolerated", nodeunschedulable.New, nil, pod(func(p *v1.Pod) {
			p.Spec.Tolerations = []v1.Toleration{{Key: v1.TaintNodeUnschedulable, Operator: v1.TolerationOpExists}}
		}), cordoned, ""},
		{"tainted", tainttoleration.New, nil, pod(), tainted, "node(s) had untolerated taint(s)"},
		{"selector", nodeaffinity.New(nodeaffinity.Args{}), nil, pod(func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "b"} }), node("n"), "node(s) didn't match Pod's node affinity/selector"},
		{"selector met", nodeaffinity.New(nodeaffinity.Args{}), nil, pod(func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "b"} }), node("n", "a=b"), ""},
		{"port taken", nodeports.New, nil, pod(hostPort(80, "")), with(node("n"), pod(hostPort(80, "10.0.0.1"))), "node(s) didn't have free ports for the requested pod ports"},
		{"port on another address", nodeports.New, nil, pod(hostPort(80, "10.0.0.2")), with(node("n"), pod(hostPort(80, "10.0.0.1"))), ""},
		{"cpu and memory", fit, nil, pod(requests("5", "5Gi")), node("n"), "Insufficient cpu, Insufficient memory"},
		{"pods", fit, nil, pod(), with(node("n"), pod(), pod(), pod()), "Too many pods"},
		{"sidecars count", fit, nil, pod(requests("3", "1Gi"), func(p *v1.Pod) {
			p.Spec.InitContainers = []v1.Container{{Name: "s", RestartPolicy: ptr.To(v1.ContainerRestartPolicyAlways), Resources: v1.ResourceRequirements{Requests: list("2", "1Gi")}}}
		}), node("n"), "Insufficient cpu"},
		{"pod-level requests count", fit, nil, pod(requests("1", "1Gi"), func(p *v1.Pod) {
			p.Spec.Resources = &v1.ResourceRequirements{Requests: list("5", "1Gi")}
		}), node("n"), "Insufficient cpu"},
		{"extended resource", fit, nil, pod(func(p *v1.Pod) {
			p.Spec.Containers[0].Resources.Requests = v1.ResourceList{"example.com/gpu": resource.MustParse("1")}
		}), node("n"), "Insufficient example.com/gpu"},
		{"undeclared feature", nodedeclaredfeatures.New, nil, pod(restartingAll), node("n"), "node(s) didn't match Pod's required features"},
		{"declared feature", nodedeclaredfeatures.New, nil, pod(restartingAll), declaring, ""},
		{"skew", podtopologyspread.New(podtopologyspread.Args{}), nil, pod(spreadOver("zone", v1.DoNotSchedule)), with(node("n", "zone=a"), pod(app("web"))), ""},
		{"no domain", podtopologyspread.New(podtopologyspread.Args{}), nil, pod(spreadOver("zone", v1.DoNotSchedule)), node("n"), "node(s) didn't match pod topology spread constraints (missing required label)"},
		{"affinity", interpodaffinity.New(interpodaffinity.Args{}), nil, pod(affine("zone", false)), node("n", "zone=a"), "node(s) didn't match pod affinity rules"},
		{"affinity to itself", interpodaffinity.New(interpodaffinity.Args{}), nil, pod(affine("zone", false), app("web")), node("n", "zone=a"), ""},
		{"anti-affinity", interpodaffinity.New(interpodaffinity.Args{}), nil, pod(affine("zone", true)), with(node("n", "zone=a"), pod(app("web"))), "node(s) didn't match pod anti-affinity rules"},
		{"anti-affinity of others", interpodaffinity.New(interpodaffinity.Args{}), nil, pod(app("web")), with(node("n", "zone=a"), pod(affine("zone", true))), "node(s) didn't satisfy existing pods anti-affinity rules"},
		{"claim unbound", volumebinding.New(volumebinding.Args{}), []runtime.Object{claim("c", "", "none")}, pod(claims("c")), node("n"), "pod has unbound immediate PersistentVolumeClaims"},
		{"no volume for the claim", volumebinding.New(volumebinding.Args{}), []runtime.Object{claim("c", "", "manual"), wait}, pod(claims("c")), node("n"), "node(s) didn't find available persistent volumes to bind"},
		{"volume gone", volumebinding.New(volumebinding.Args{}), []runtime.Object{claim("c", "gone", "manual"), wait}, pod(claims("c")), node("n"), "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"},
		{"claim in use", volumerestrictions.New, []runtime.Object{claim("c", "pv", "", v1.ReadWriteOncePod)}, pod(claims("c")), with(node("n"), pod(claims("c"))), "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"},
		{"disk in use", volumerestrictions.New, nil, pod(ebs), with(node("n"), pod(ebs)), "node(s) had no available disk"},
		{"other zone", volumezone.New, []runtime.Object{claim("c", "zoned", ""), zoned}, pod(claims("c")), node("n", v1.LabelTopologyZone+"=b"), "node(s) had no available volume zone"},
		{"same zone", volumezone.New, []runtime.Object{claim("c", "zoned", ""), zoned}, pod(claims("c")), node("n", v1.LabelTopologyZone+"=a"), ""},
		{"too many volumes", nodevolumelimits.New, []runtime.Object{limited, claim("c", "x", ""), claim("d", "y", ""), csiVolume("x", nil), csiVolume("y", nil)}, pod(claims("c")), with(node("n"), pod(claims("d"))), "node(s) exceed max volume count"},
		{"shared volume counts once", nodevolumelimits.New, []runtime.Object{limited, claim("c", "x", ""), csiVolume("x", nil)}, pod(claims("c")), with(node("n"), pod(claims("c"))), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			plugin := newPlugin(t, test.make, test.objects...)
			if got := verdict(t, plugin, test.pod, test.node).Message(); got != test.want {
				t.Errorf("reason is %q, want %q", got, test.want)
			}
		})
	}
}

func restartingAll(p *v1.Pod) {
	p.Spec.Containers[0].RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers}}
}

func ebs(p *v1.Pod) {
	p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{AWSElasticBlockStore: &v1.AWSElasticBlockStoreVolumeSource{VolumeID: "d"}}}}
}

func verdict(t *testing.T, plugin framework.Plugin, p *v1.Pod, n *framework.NodeInfo) *framework.Status {
	t.Helper()
	info := framework.NewPodInfo(p)
	var state framework.State
	if f, ok := plugin.(framework.PreFilter); ok {
		var status *framework.Status
		state, _, status = f.PreFilter(t.Context(), info, framework.NewSnapshot(n))
		if status.IsSkip() {
			return nil
		}
		if status != nil {
			return status
		}
	}
	return plugin.(framework.Filter).Filter(state, info, n)
}

func TestScores(t *testing.T) {
	preferring := func(p *v1.Pod) {
		p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []v1.PreferredSchedulingTerm{
			{Weight: 2, Preference: v1.NodeSelectorTerm{MatchExpressions: []v1.NodeSelectorRequirement{{Key: "zone", Operator: v1.NodeSelectorOpIn, Values: []string{"a"}}}}},
			{Weight: 1, Preference: v1.NodeSelectorTerm{MatchExpressions: []v1.NodeSelectorRequirement{{Key: "zone", Operator: v1.NodeSelectorOpExists}}}},
		}}}
	}
	soft := node("soft")
	soft.Node.Spec.Taints = []v1.Taint{{Key: "k", Effect: v1.TaintEffectPreferNoSchedule}}
	pulled := node("pulled")
	image := &framework.ImageState{Size: 523 << 20}
	image.Nodes.Store(2)
	pulled.Images = map[string]*framework.ImageState{"img:latest": image}
	half := with(node("half"), pod(requests("2", "2Gi")))
	lopsided := with(node("lopsided"), pod(requests("3", "1Gi")))

	for _, test := range []struct {
		name  string
		make  constructor
		pod   *v1.Pod
		nodes []*framework.NodeInfo
		want  []int64
	}{
		{"least allocated", noderesources.NewFit(noderesources.FitArgs{}), pod(requests("1", "1Gi")), []*framework.NodeInfo{node("empty"), half}, []int64{75, 25}},
		{"most allocated", noderesources.NewFit(noderesources.FitArgs{Strategy: noderesources.MostAllocated}), pod(requests("1", "1Gi")), []*framework.NodeInfo{node("empty"), half}, []int64{25, 75}},
		{"by shape", noderesources.NewFit(noderesources.FitArgs{Strategy: noderesources.RequestedToCapacityRatio, Shape: []noderesources.ShapePoint{{Utilization: 0, Score: 10}, {Utilization: 100, Score: 0}}}), pod(requests("1", "1Gi")), []*framework.NodeInfo{node("empty"), half}, []int64{75, 25}},
		{"no requests count as small", noderesources.NewFit(noderesources.FitArgs{}), pod(), []*framework.NodeInfo{node("empty")}, []int64{(97 + 95) / 2}},
		{"balanced", noderesources.NewBalanced(nil), pod(requests("1", "3Gi")), []*framework.NodeInfo{node("empty"), lopsided}, []int64{62, 87}},
		{"taints", tainttoleration.New, pod(), []*framework.NodeInfo{node("clean"), soft}, []int64{100, 0}},
		{"node affinity", nodeaffinity.New(nodeaffinity.Args{}), pod(preferring), []*framework.NodeInfo{node("a", "zone=a"), node("b", "zone=b"), node("c")}, []int64{100, 33, 0}},
		{"image locality", imagelocality.New, pod(), []*framework.NodeInfo{pulled, node("bare")}, []int64{100 * (523 - 23) / (1000 - 23), 0}},
		{"soft spread", podtopologyspread.New(podtopologyspread.Args{}), pod(spreadOver("zone", v1.ScheduleAnyway)), []*framework.NodeInfo{with(node("x", "zone=a"), pod(app("web")), pod(app("web"))), node("y", "zone=b"), node("z")}, []int64{0, 100, 0}},
		{"wanted by others", interpodaffinity.New(interpodaffinity.Args{}), pod(app("web")), []*framework.NodeInfo{with(node("x", "zone=a"), pod(affine("zone", false))), node("y", "zone=b")}, []int64{100, 0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			plugin := newPlugin(t, test.make)
			info, view := framework.NewPodInfo(test.pod), framework.NewSnapshot(test.nodes...)
			state, status := plugin.(framework.PreScore).PreScore(t.Context(), info, view, test.nodes)
			if status != nil {
				t.Fatalf("PreScore = %v", status.Message())
			}
			var got []int64
			for _, n := range test.nodes {
				got = append(got, plugin.(framework.Scorer).Score(state, info, n))
			}
			if n, ok := plugin.(framework.Normalizer); ok {
				n.Normalize(state, test.nodes, got)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("scores are %v, want %v", got, test.want)
			}
		})
	}
}

// A DaemonSet's pod names its node in matchFields: the others are not even looked at.
func TestNodeAffinityMatchFields(t *testing.T) {
	plugin := newPlugin(t, nodeaffinity.New(nodeaffinity.Args{})).(framework.PreFilter)
	named := func(names ...string) v1.NodeSelectorTerm {
		return v1.NodeSelectorTerm{MatchFields: []v1.NodeSelectorRequirement{{Key: "metadata.name", Operator: v1.NodeSelectorOpIn, Values: names}}}
	}
	for _, test := range []struct {
		terms []v1.NodeSelectorTerm
		want  int // nodes; -1 for all
	}{
		{[]v1.NodeSelectorTerm{named("a")}, 1},
		{[]v1.NodeSelectorTerm{named("a"), named("b")}, 2},
		{[]v1.NodeSelectorTerm{named("a"), {}}, -1},
	} {
		p := pod(func(p *v1.Pod) {
			p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{NodeSelectorTerms: test.terms}}}
		})
		_, names, status := plugin.PreFilter(t.Context(), framework.NewPodInfo(p), framework.NewSnapshot())
		if status != nil || (names == nil) != (test.want < 0) || names != nil && len(names) != test.want {
			t.Errorf("terms %v name %v (%v), want %d", test.terms, names, status, test.want)
		}
	}
}

func TestPrioritySort(t *testing.T) {
	plugin := newPlugin(t, prioritysort.New).(framework.QueueSorter)
	queued := func(priority int32, age time.Duration) *framework.QueuedPod {
		return &framework.QueuedPod{
			PodInfo:   framework.NewPodInfo(pod(func(p *v1.Pod) { p.Spec.Priority = &priority })),
			Timestamp: time.Unix(1000, 0).Add(-age),
		}
	}
	if !plugin.Less(queued(2, 0), queued(1, time.Hour)) || !plugin.Less(queued(1, time.Hour), queued(1, 0)) || plugin.Less(queued(1, 0), queued(1, 0)) {
		t.Error("pods do not come by priority, then by age")
	}
}
