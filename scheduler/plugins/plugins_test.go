// SPDX-License-Identifier: Apache-2.0

package plugins_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
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
	"github.com/skiff-k8s/skiff/scheduler/metrics"
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
	"github.com/skiff-k8s/skiff/scheduler/plugins/shape"
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
		Client: client, Informers: factory, Metrics: metrics.New(nil),
		Need: func(context.Context, ...framework.Kind) error {
			core.PersistentVolumes().Informer()
			core.PersistentVolumeClaims().Informer()
			core.Services().Informer()
			storage.StorageClasses().Informer()
			storage.CSINodes().Informer()
			storage.CSIDrivers().Informer()
			storage.CSIStorageCapacities().Informer()
			storage.VolumeAttachments().Informer()
			resources := factory.Resource().V1()
			resources.DeviceClasses().Informer()
			resources.ResourceClaims().Informer()
			resources.ResourceSlices().Informer()
			factory.StartWithContext(ctx)
			return factory.WaitForCacheSyncWithContext(ctx).Err
		},
		Shared: func(_ string, value func() any) any { return value() },
	})
	if err != nil {
		t.Fatal(err)
	}
	factory.StartWithContext(ctx)
	factory.WaitForCacheSyncWithContext(ctx)
	return plugin
}

// scores is what a plugin gives to each of the nodes.
func scores(plugin framework.Plugin, state framework.State, pod *framework.PodInfo, nodes []*framework.NodeInfo) (all []int64) {
	for _, n := range nodes {
		all = append(all, plugin.(framework.Scorer).Score(state, pod, n))
	}
	return all
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

func attachment(pv, node string) *storagev1.VolumeAttachment {
	return &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: pv + "-" + node},
		Spec:       storagev1.VolumeAttachmentSpec{Attacher: "csi.example.com", NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &pv}},
	}
}

// storage is a class whose driver tells what is left on a node.
func storage(node, left string) []runtime.Object {
	return []runtime.Object{
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "told"}, Provisioner: "csi.example.com", VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)},
		&storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "csi.example.com"}, Spec: storagev1.CSIDriverSpec{StorageCapacity: ptr.To(true)}},
		capacity(node, left),
	}
}

func capacity(node, left string) *storagev1.CSIStorageCapacity {
	return &storagev1.CSIStorageCapacity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: node}, StorageClassName: "told", Capacity: ptr.To(resource.MustParse(left)),
		NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{v1.LabelHostname: node}},
	}
}

// sized is a claim of the class that storage makes.
func sized(name, size string) *v1.PersistentVolumeClaim {
	c := claim(name, "", "told", v1.ReadWriteOnce)
	c.Spec.Resources.Requests = v1.ResourceList{v1.ResourceStorage: resource.MustParse(size)}
	return c
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
	demanding := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "csi.example.com"}, Spec: storagev1.CSIDriverSpec{PreventPodSchedulingIfMissing: ptr.To(true)}}
	local := csiVolume("local", nil)
	local.Spec.NodeAffinity = &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
		MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{"other"}}},
	}}}}
	deleted, lost := claim("deleted", "", "none"), claim("lost", "gone", "")
	deleted.DeletionTimestamp, deleted.Finalizers = &metav1.Time{Time: time.Now()}, []string{"f"}
	lost.Status.Phase = v1.ClaimLost

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
		{"volume attached for nobody", nodevolumelimits.New, []runtime.Object{limited, claim("c", "x", ""), csiVolume("x", nil), csiVolume("y", nil), attachment("y", "n")}, pod(claims("c")), node("n"), "node(s) exceed max volume count"},
		{"volume attached elsewhere", nodevolumelimits.New, []runtime.Object{limited, claim("c", "x", ""), csiVolume("x", nil), csiVolume("y", nil), attachment("y", "other")}, pod(claims("c")), node("n"), ""},
		{"driver is missing", nodevolumelimits.New, []runtime.Object{demanding, claim("c", "x", ""), csiVolume("x", nil)}, pod(claims("c")), node("n"), "csi.example.com CSI driver is not installed on the node"},
		{"driver is there", nodevolumelimits.New, []runtime.Object{demanding, limited, claim("c", "x", ""), csiVolume("x", nil)}, pod(claims("c")), node("n"), ""},
		{"volume elsewhere, and none for another claim", volumebinding.New(volumebinding.Args{}), []runtime.Object{claim("c", "local", ""), local, claim("d", "", "manual"), wait}, pod(claims("c", "d")), node("n"), "node(s) didn't match PersistentVolume's node affinity, node(s) didn't find available persistent volumes to bind"},
		{"no space", volumebinding.New(volumebinding.Args{}), slices.Concat(storage("n", "4Gi"), []runtime.Object{sized("c", "5Gi")}), pod(claims("c")), node("n"), "node(s) did not have enough free storage"},
		{"claim lost, and another deleted", volumebinding.New(volumebinding.Args{}), []runtime.Object{deleted, lost}, pod(claims("lost", "deleted")), node("n"), `persistentvolumeclaim "lost" bound to non-existent persistentvolume "gone"`},
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
		{"by shape", noderesources.NewFit(noderesources.FitArgs{Strategy: noderesources.RequestedToCapacityRatio, Shape: shape.Shape{{Utilization: 0, Score: 10}, {Utilization: 100, Score: 0}}}), pod(requests("1", "1Gi")), []*framework.NodeInfo{node("empty"), half}, []int64{75, 25}},
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
			got := scores(plugin, state, info, test.nodes)
			if n, ok := plugin.(framework.Normalizer); ok {
				n.Normalize(state, test.nodes, got)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("scores are %v, want %v", got, test.want)
			}
		})
	}
}

// Nodes with more storage left rate higher: what the claims would use of it is counted together. Where there are volumes already, those that would
// be used up least do.
func TestStorageScores(t *testing.T) {
	wait := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "manual"}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
	made := func(node, size string) *v1.PersistentVolume {
		pv := csiVolume(node, nil)
		pv.Spec.StorageClassName, pv.Spec.AccessModes = "manual", []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}
		pv.Spec.Capacity = v1.ResourceList{v1.ResourceStorage: resource.MustParse(size)}
		pv.Status.Phase = v1.VolumeAvailable
		pv.Spec.NodeAffinity = &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
			MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{node}}},
		}}}}
		return pv
	}
	manual := sized("m", "1Gi")
	manual.Spec.StorageClassName = ptr.To("manual")
	for _, test := range []struct {
		name    string
		args    volumebinding.Args
		objects []runtime.Object
		pod     *v1.Pod
		want    []int64 // of nodes x and y
	}{
		{"made where more is left", volumebinding.Args{}, slices.Concat(storage("x", "4Gi"), []runtime.Object{capacity("y", "20Gi"), sized("c", "1Gi"), sized("d", "1Gi")}), pod(claims("c", "d")), []int64{50, 90}},
		{"packed, if so configured", volumebinding.Args{Shape: shape.Shape{{Utilization: 0, Score: 0}, {Utilization: 100, Score: 10}}}, slices.Concat(storage("x", "4Gi"), []runtime.Object{capacity("y", "20Gi"), sized("c", "1Gi"), sized("d", "1Gi")}), pod(claims("c", "d")), []int64{50, 10}},
		{"volumes that are there", volumebinding.Args{}, []runtime.Object{wait, made("x", "2Gi"), made("y", "4Gi"), manual}, pod(claims("m")), []int64{50, 75}},
		{"bound already", volumebinding.Args{}, []runtime.Object{claim("c", "pv", ""), csiVolume("pv", nil)}, pod(claims("c")), []int64{0, 0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			plugin := newPlugin(t, volumebinding.New(test.args), test.objects...)
			nodes, info := []*framework.NodeInfo{node("x"), node("y")}, framework.NewPodInfo(test.pod)
			state, _, status := plugin.(framework.PreFilter).PreFilter(t.Context(), info, framework.NewSnapshot(nodes...))
			if status != nil {
				t.Fatalf("PreFilter = %v", status.Message())
			}
			if got := scores(plugin, state, info, nodes); !slices.Equal(got, test.want) {
				t.Errorf("scores are %v, want %v", got, test.want)
			}
		})
	}
}

// Of resources that a DeviceClass offers, nodes have the devices that are of the class and that they can reach. Where a device plugin has some, these
// count.
func TestDeviceScores(t *testing.T) {
	gpu := v1.ResourceName("example.com/gpu")
	class := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{
		ExtendedResourceName: ptr.To(string(gpu)),
		Selectors:            []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.attributes["gpu.example.com"].size == "big"`}}},
	}}
	device := func(name, size string) resourcev1.Device {
		return resourcev1.Device{Name: name, Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"size": {StringValue: &size}}}
	}
	slice := func(name string, spec resourcev1.ResourceSliceSpec) *resourcev1.ResourceSlice {
		spec.Driver, spec.Pool = "gpu.example.com", resourcev1.ResourcePool{Name: name, ResourceSliceCount: 1}
		return &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
	}
	inZone := &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchExpressions: []v1.NodeSelectorRequirement{{Key: "zone", Operator: v1.NodeSelectorOpIn, Values: []string{"a"}}}}}}
	perDevice := []resourcev1.Device{device("y1", "big"), device("z1", "big"), device("y2", "big")}
	perDevice[0].NodeName, perDevice[1].NodeName, perDevice[2].NodeName = ptr.To("y"), ptr.To("z"), ptr.To("y")
	taken := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c", UID: "c"}}
	taken.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
		{Request: "r", Driver: "gpu.example.com", Pool: "x", Device: "x1"},
	}}}
	objects := []runtime.Object{
		class, taken,
		slice("x", resourcev1.ResourceSliceSpec{NodeName: ptr.To("x"), Devices: []resourcev1.Device{device("x1", "big"), device("x2", "big"), device("x3", "small")}}),
		slice("per-device", resourcev1.ResourceSliceSpec{PerDeviceNodeSelection: ptr.To(true), Devices: perDevice}),
		slice("zone", resourcev1.ResourceSliceSpec{NodeSelector: inZone, Devices: []resourcev1.Device{device("a1", "big"), device("a2", "big")}}),
	}
	wants := func(name v1.ResourceName) *v1.Pod {
		return pod(requests("1", "1Gi"), func(p *v1.Pod) { p.Spec.Containers[0].Resources.Requests[name] = resource.MustParse("1") })
	}
	plugged := node("plugged")
	plugged.Node.Status.Allocatable[gpu] = resource.MustParse("4")
	plugged.SetNode(plugged.Node)
	nodes := []*framework.NodeInfo{node("x", "zone=a"), node("y"), plugged, node("none")}
	args := func(name v1.ResourceName) noderesources.FitArgs {
		return noderesources.FitArgs{Resources: []noderesources.Weighted{{Name: name, Weight: 1}}}
	}
	byClass := v1.ResourceName("deviceclass.resource.kubernetes.io/gpu")
	for _, test := range []struct {
		name string
		make constructor
		pod  *v1.Pod
		want []int64
	}{
		{"least", noderesources.NewFit(args(gpu)), wants(gpu), []int64{50, 50, 75, 0}},
		{"by the class's own name", noderesources.NewFit(args(byClass)), wants(byClass), []int64{50, 50, 0, 0}},
		{"not asked for", noderesources.NewFit(args(gpu)), pod(requests("1", "1Gi")), []int64{0, 0, 0, 0}},
		{"balanced", noderesources.NewBalanced([]noderesources.Weighted{{Name: v1.ResourceCPU, Weight: 1}, {Name: gpu, Weight: 1}}), wants(gpu), []int64{75, 68, 75, 75}},
	} {
		t.Run(test.name, func(t *testing.T) {
			plugin := newPlugin(t, test.make, objects...)
			info := framework.NewPodInfo(test.pod)
			for range 2 { // the second time by what the first has learnt of the class
				state, status := plugin.(framework.PreScore).PreScore(t.Context(), info, framework.NewSnapshot(nodes...), nodes)
				if status != nil {
					t.Fatalf("PreScore = %v", status.Message())
				}
				if got := scores(plugin, state, info, nodes); !slices.Equal(got, test.want) {
					t.Errorf("scores are %v, want %v", got, test.want)
				}
			}
		})
	}
}

// What a DeviceClass may offer one day is not remembered of a node.
func TestDevicesAreNotLocal(t *testing.T) {
	for name, local := range map[v1.ResourceName]bool{"hugepages-2Mi": true, "example.com/gpu": false, "deviceclass.resource.kubernetes.io/gpu": false} {
		p := pod(requests("1", "1Gi"), func(p *v1.Pod) { p.Spec.Containers[0].Resources.Requests[name] = resource.MustParse("2Mi") })
		for _, make := range []constructor{noderesources.NewFit(noderesources.FitArgs{}), noderesources.NewBalanced(nil)} {
			plugin := newPlugin(t, make).(framework.Local)
			if _, ok := plugin.Sign(nil, framework.NewPodInfo(p)); ok != local {
				t.Errorf("%s keeps what it says of pods with %s: %t", plugin.Name(), name, ok)
			}
		}
	}
}

// A rejected pod is tried again when, and only when, what happened may let it fit.
func TestHints(t *testing.T) {
	labelled := func(labels ...string) *v1.Node { return node("n", labels...).Node }
	cordoned := labelled()
	cordoned.Spec.Unschedulable = true
	tainted := labelled("zone=a")
	tainted.Spec.Taints = []v1.Taint{{Key: "k", Effect: v1.TaintEffectNoSchedule}}
	added := nodeaffinity.New(nodeaffinity.Args{Added: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
		MatchExpressions: []v1.NodeSelectorRequirement{{Key: "a", Operator: v1.NodeSelectorOpExists}},
	}}}}})
	honouring := pod(spreadOver("zone", v1.DoNotSchedule), func(p *v1.Pod) {
		p.Spec.TopologySpreadConstraints[0].NodeTaintsPolicy = ptr.To(v1.NodeInclusionPolicyHonor)
	})
	running := func(change ...func(*v1.Pod)) *v1.Pod {
		p := pod(change...)
		p.Name, p.UID, p.Spec.NodeName = "other", "other", "n"
		return p
	}
	terminating := running(app("web"))
	terminating.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	csiNode := func(count *int32, drivers ...string) *storagev1.CSINode {
		n := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
		for _, d := range drivers {
			n.Spec.Drivers = append(n.Spec.Drivers, storagev1.CSINodeDriver{Name: d, Allocatable: &storagev1.VolumeNodeResources{Count: count}})
		}
		return n
	}
	class := func(mode storagev1.VolumeBindingMode, zones ...string) *storagev1.StorageClass {
		c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "c"}, VolumeBindingMode: &mode}
		if zones != nil {
			c.AllowedTopologies = []v1.TopologySelectorTerm{{MatchLabelExpressions: []v1.TopologySelectorLabelRequirement{{Key: "zone", Values: zones}}}}
		}
		return c
	}
	driver := func(told, required bool) *storagev1.CSIDriver {
		return &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{StorageCapacity: &told, PreventPodSchedulingIfMissing: &required}}
	}
	const (
		add, del, other = framework.Add, framework.Delete, framework.UpdateOther
		nodeLabel       = framework.UpdateNodeLabel
		nodeTaint       = framework.UpdateNodeTaint
		podLabel        = framework.UpdatePodLabel
		tolerations     = framework.UpdatePodTolerations
	)
	spread, affinity := podtopologyspread.New(podtopologyspread.Args{}), interpodaffinity.New(interpodaffinity.Args{})
	binding := volumebinding.New(volumebinding.Args{})
	spreading := pod(spreadOver("zone", v1.DoNotSchedule))
	for _, test := range []struct {
		name     string
		make     constructor
		pod      *v1.Pod
		kind     framework.Kind
		action   framework.Action
		old, now any
		want     bool
	}{
		{"uncordoned", nodeunschedulable.New, pod(), framework.Node, nodeTaint, cordoned, labelled(), true},
		{"taint of a node that was not cordoned", nodeunschedulable.New, pod(), framework.Node, nodeTaint, tainted, labelled(), false},
		{"added affinity", added, pod(), framework.Node, nodeLabel, labelled(), labelled("a=1"), true},
		{"not the added affinity", added, pod(), framework.Node, nodeLabel, labelled(), labelled("b=1"), false},
		{"counted pod came", spread, spreading, framework.AssignedPod, add, nil, running(app("web")), true},
		{"counted pod is terminating", spread, spreading, framework.AssignedPod, other, running(app("web")), terminating, true},
		{"counted pod is gone", spread, spreading, framework.AssignedPod, del, terminating, nil, true},
		{"another pod is gone", spread, spreading, framework.AssignedPod, del, running(app("db")), nil, false},
		{"still counted", spread, spreading, framework.AssignedPod, podLabel, running(app("web")), running(app("web"), func(p *v1.Pod) { p.Labels["x"] = "y" }), false},
		{"no longer counted", spread, spreading, framework.AssignedPod, podLabel, running(app("web")), running(app("db")), true},
		{"node in another domain", spread, spreading, framework.Node, nodeLabel, labelled("zone=a"), labelled("zone=b"), true},
		{"node in the same domain", spread, spreading, framework.Node, nodeLabel, labelled("zone=a"), labelled("zone=a", "x=y"), false},
		{"node without a domain", spread, spreading, framework.Node, add, nil, labelled(), false},
		{"domain is gone", spread, spreading, framework.Node, del, labelled("zone=a"), nil, true},
		{"taint that does not matter", spread, spreading, framework.Node, nodeTaint, labelled("zone=a"), tainted, false},
		{"taint that matters", spread, honouring, framework.Node, nodeTaint, labelled("zone=a"), tainted, true},
		{"tolerates more", spread, honouring, framework.TargetPod, tolerations, nil, nil, true},
		{"tolerates more, in vain", spread, spreading, framework.TargetPod, tolerations, nil, nil, false},
		{"wanted pod", affinity, pod(affine("zone", false)), framework.AssignedPod, podLabel, running(app("db")), running(app("web")), true},
		{"pod wanted before", affinity, pod(affine("zone", false)), framework.AssignedPod, podLabel, running(app("web")), running(app("web"), func(p *v1.Pod) { p.Labels["x"] = "y" }), false},
		{"unwanted pod is gone", affinity, pod(affine("zone", true)), framework.AssignedPod, del, running(app("web")), nil, true},
		{"more of a resource", noderesources.NewFit(noderesources.FitArgs{}), pod(requests("1", "1Gi")), framework.Node, add, nil, labelled(), true},
		{"too little of a resource", noderesources.NewFit(noderesources.FitArgs{}), pod(requests("9", "1Gi")), framework.Node, add, nil, labelled(), false},
		{"claim is free", volumerestrictions.New, pod(claims("c")), framework.AssignedPod, del, running(claims("c")), nil, true},
		{"another claim is free", volumerestrictions.New, pod(claims("c")), framework.AssignedPod, del, running(claims("d")), nil, false},
		{"disk is free", volumerestrictions.New, pod(ebs), framework.AssignedPod, del, running(ebs), nil, true},
		{"claim was made", volumerestrictions.New, pod(claims("c")), framework.PersistentClaim, add, nil, claim("c", "", ""), true},
		{"another claim was made", volumerestrictions.New, pod(claims("c")), framework.PersistentClaim, add, nil, claim("d", "", ""), false},
		{"more volumes", nodevolumelimits.New, pod(claims("c")), framework.CSINode, other, csiNode(ptr.To[int32](1), "d"), csiNode(ptr.To[int32](2), "d"), true},
		{"no limit any more", nodevolumelimits.New, pod(claims("c")), framework.CSINode, other, csiNode(ptr.To[int32](1), "d"), csiNode(nil, "d"), true},
		{"fewer volumes", nodevolumelimits.New, pod(claims("c")), framework.CSINode, other, csiNode(ptr.To[int32](2), "d"), csiNode(ptr.To[int32](1), "d"), false},
		{"driver is there", nodevolumelimits.New, pod(claims("c")), framework.CSINode, other, csiNode(nil), csiNode(nil, "d"), true},
		{"driver may be missing", nodevolumelimits.New, pod(claims("c")), framework.CSIDriver, other, driver(false, true), driver(false, false), true},
		{"pod with volumes is gone", nodevolumelimits.New, pod(claims("c")), framework.AssignedPod, del, running(claims("d")), nil, true},
		{"pod without volumes is gone", nodevolumelimits.New, pod(claims("c")), framework.AssignedPod, del, running(), nil, false},
		{"volume is detached", nodevolumelimits.New, pod(claims("c")), framework.VolumeAttachment, del, attachment("x", "n"), nil, true},
		{"volume in another zone", volumezone.New, pod(claims("c")), framework.PersistentVolume, other, csiVolume("x", map[string]string{v1.LabelTopologyZone: "a"}), csiVolume("x", map[string]string{v1.LabelTopologyZone: "b"}), true},
		{"volume changed otherwise", volumezone.New, pod(claims("c")), framework.PersistentVolume, other, csiVolume("x", nil), csiVolume("x", map[string]string{"a": "b"}), false},
		{"class that waits", volumezone.New, pod(claims("c")), framework.StorageClass, add, nil, class(storagev1.VolumeBindingWaitForFirstConsumer), true},
		{"class that does not", volumezone.New, pod(claims("c")), framework.StorageClass, add, nil, class(storagev1.VolumeBindingImmediate), false},
		{"class in more zones", binding, pod(claims("c")), framework.StorageClass, other, class(storagev1.VolumeBindingImmediate, "a"), class(storagev1.VolumeBindingImmediate, "a", "b"), true},
		{"class changed otherwise", binding, pod(claims("c")), framework.StorageClass, other, class(storagev1.VolumeBindingImmediate, "a"), class(storagev1.VolumeBindingImmediate, "a"), false},
		{"more storage", binding, pod(claims("c")), framework.CSIStorageCapacity, other, capacity("n", "1Gi"), capacity("n", "2Gi"), true},
		{"less storage", binding, pod(claims("c")), framework.CSIStorageCapacity, other, capacity("n", "2Gi"), capacity("n", "1Gi"), false},
		{"storage is no longer told", binding, pod(claims("c")), framework.CSIDriver, other, driver(true, false), driver(false, false), true},
		{"storage is told", binding, pod(claims("c")), framework.CSIDriver, other, driver(false, false), driver(true, false), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			plugin, event, got := newPlugin(t, test.make), &framework.Event{Kind: test.kind, Action: test.action, Old: test.old, New: test.now}, false
			for _, h := range plugin.(framework.Hinter).Hints() {
				got = got || h.Covers(event) && (h.Helps == nil || h.Helps(framework.NewPodInfo(test.pod), event))
			}
			if got != test.want {
				t.Errorf("the event helps: %v, want %v", got, test.want)
			}
		})
	}
}

// A node without a resource that a DeviceClass offers is worth a try, for it may have devices.
func TestHintForDevices(t *testing.T) {
	class := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: ptr.To("example.com/gpu")}}
	plugin := newPlugin(t, noderesources.NewFit(noderesources.FitArgs{}), class)
	wants := func(name v1.ResourceName) *framework.PodInfo {
		return framework.NewPodInfo(pod(requests("1", "1Gi"), func(p *v1.Pod) { p.Spec.Containers[0].Resources.Requests[name] = resource.MustParse("1") }))
	}
	came := &framework.Event{Kind: framework.Node, Action: framework.Add, New: node("n").Node}
	for name, want := range map[v1.ResourceName]bool{"example.com/gpu": true, "example.com/other": false} {
		info := wants(name)
		if _, _, status := plugin.(framework.PreFilter).PreFilter(t.Context(), info, framework.NewSnapshot()); status != nil {
			t.Fatal(status.Message())
		}
		got := false
		for _, h := range plugin.(framework.Hinter).Hints() {
			got = got || h.Covers(came) && (h.Helps == nil || h.Helps(info, came))
		}
		if got != want {
			t.Errorf("a node helps a pod that wants %s: %v, want %v", name, got, want)
		}
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
