// SPDX-License-Identifier: Apache-2.0

package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-base/metrics"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/controllers/resourceclaim"
	"github.com/skiff-k8s/skiff/controllers/resourcequota"
	"github.com/skiff-k8s/skiff/internal/parttest"
	"github.com/skiff-k8s/skiff/kubelet/simulated"
	"github.com/skiff-k8s/skiff/scheduler"
	"github.com/skiff-k8s/skiff/testenv"
)

// These tests run the scheduler against the real API server, on simulated nodes.

// start runs a scheduler until stop is called, or the test ends.
func start(t testing.TB, config *restclient.Config, change ...func(*scheduler.Config)) (stop func()) {
	t.Helper()
	client := kubernetes.NewForConfigOrDie(config)
	return parttest.Run(t, client, func(factory informers.SharedInformerFactory) (func(context.Context) error, error) {
		var c scheduler.Config
		for _, f := range change {
			f(&c)
		}
		s, err := scheduler.New(c, client, factory, nil)
		if err != nil {
			return nil, err
		}
		return s.Run, nil
	})
}

func newPod(name string, change ...func(*v1.Pod)) *v1.Pod {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: v1.PodSpec{TerminationGracePeriodSeconds: ptr.To[int64](0), Containers: []v1.Container{{
			Name: "c", Image: "img", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1")}},
		}}},
	}
	for _, f := range change {
		f(pod)
	}
	return pod
}

type api struct {
	testing.TB
	*testenv.Env
}

func (a api) create(pods ...*v1.Pod) {
	a.Helper()
	for _, pod := range pods {
		if _, err := a.Client.CoreV1().Pods(pod.Namespace).Create(a.Context(), pod, metav1.CreateOptions{}); err != nil {
			a.Fatal(err)
		}
	}
}

func (a api) pod(name string) *v1.Pod {
	a.Helper()
	pod, err := a.Client.CoreV1().Pods("default").Get(a.Context(), name, metav1.GetOptions{})
	if err != nil {
		a.Fatal(err)
	}
	return pod
}

func scheduled(pod *v1.Pod) (reason, message string) {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodScheduled {
			return c.Reason, c.Message
		}
	}
	return "", ""
}

func (a api) must(_ any, err error) {
	a.Helper()
	if err != nil {
		a.Fatal(err)
	}
}

func (a api) runClaimControllers() {
	a.Helper()
	parttest.Run(a, a.Client, func(factory informers.SharedInformerFactory) (func(context.Context) error, error) {
		forPods, err := resourceclaim.NewForPods(a.Client, factory, record.NewFakeRecorder(100))
		if err != nil {
			return nil, err
		}
		runner := reconcile.Runner{Controllers: []reconcile.Controller{forPods, resourceclaim.New(a.Client, factory)}}
		return runner.Run, nil
	})
}

// Pods get devices by templates of claims; who finds none waits for one that is given back.
func TestDevices(t *testing.T) {
	a := api{t, testenv.Start(t, testenv.SimulatedNodes(simulated.Config{Nodes: 2}))}
	start(t, a.Config)
	a.runClaimControllers()
	resources, ctx, must := a.Client.ResourceV1(), t.Context(), a.must
	must(resources.DeviceClasses().Create(ctx, &resourcev1.DeviceClass{
		ObjectMeta: metav1.ObjectMeta{Name: "gpu"},
		Spec: resourcev1.DeviceClassSpec{Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{
			Expression: `device.driver == "gpu.example.com" && device.attributes["gpu.example.com"].big`,
		}}}},
	}, metav1.CreateOptions{}))
	device := func(name string, big bool) resourcev1.Device {
		return resourcev1.Device{Name: name, Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"big": {BoolValue: &big}}}
	}
	must(resources.ResourceSlices().Create(ctx, &resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "slice"},
		Spec: resourcev1.ResourceSliceSpec{
			Driver: "gpu.example.com", NodeName: ptr.To("simulated-1"), Pool: resourcev1.ResourcePool{Name: "simulated-1", ResourceSliceCount: 1},
			Devices: []resourcev1.Device{device("small", false), device("one", true), device("two", true)},
		},
	}, metav1.CreateOptions{}))
	must(resources.ResourceClaimTemplates("default").Create(ctx, &resourcev1.ResourceClaimTemplate{
		ObjectMeta: metav1.ObjectMeta{Name: "gpu", Namespace: "default"},
		Spec: resourcev1.ResourceClaimTemplateSpec{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{
			Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}}},
		}}},
	}, metav1.CreateOptions{}))
	// The second of the big ones is broken.
	must(resources.DeviceTaintRules().Create(ctx, &resourcev1.DeviceTaintRule{
		ObjectMeta: metav1.ObjectMeta{Name: "broken"},
		Spec: resourcev1.DeviceTaintRuleSpec{
			DeviceSelector: &resourcev1.DeviceTaintSelector{Device: ptr.To("two")},
			Taint:          resourcev1.DeviceTaint{Key: "broken", Effect: resourcev1.DeviceTaintEffectNoSchedule},
		},
	}, metav1.CreateOptions{}))

	withDevice := func(p *v1.Pod) {
		p.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "gpu", ResourceClaimTemplateName: ptr.To("gpu")}}
		p.Spec.Containers[0].Resources.Claims = []v1.ResourceClaim{{Name: "gpu"}}
	}
	a.create(newPod("a", withDevice))
	parttest.Eventually(t, "the first pod is placed", func() bool { return a.pod("a").Spec.NodeName == "simulated-1" })
	claims, err := resources.ResourceClaims("default").List(ctx, metav1.ListOptions{})
	if err != nil || len(claims.Items) != 1 {
		t.Fatalf("claims: %v, %v", claims, err)
	}
	c := claims.Items[0]
	if !strings.HasPrefix(c.Name, "a-gpu-") || c.Status.Allocation.Devices.Results[0].Device != "one" || len(c.Status.ReservedFor) != 1 || c.Status.ReservedFor[0].Name != "a" {
		t.Errorf("claim of the first pod is %v", c)
	}

	a.create(newPod("b", withDevice))
	parttest.Eventually(t, "the second pod is told that there is none", func() bool {
		_, message := scheduled(a.pod("b"))
		return strings.HasPrefix(message, "0/2 nodes are available: 2 cannot allocate all claims.")
	})
	if err := a.Client.CoreV1().Pods("default").Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	parttest.Eventually(t, "the second pod gets the first one's device", func() bool { return a.pod("b").Spec.NodeName == "simulated-1" })

	a.create(newPod("c", withDevice))
	parttest.Eventually(t, "the third pod is told that there is none", func() bool {
		_, message := scheduled(a.pod("c"))
		return message != ""
	})
	if err := resources.DeviceTaintRules().Delete(ctx, "broken", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	parttest.Eventually(t, "the third pod gets the device that is whole again", func() bool { return a.pod("c").Spec.NodeName == "simulated-1" })

	a.create(newPod("d", withDevice, func(p *v1.Pod) { p.Spec.ResourceClaims[0].ResourceClaimTemplateName = ptr.To("none") }))
	a.create(newPod("e"))
	parttest.Eventually(t, "a pod without claims is placed", func() bool { return a.pod("e").Spec.NodeName != "" })
	if reason, _ := scheduled(a.pod("d")); reason != "" || a.pod("d").Spec.NodeName != "" {
		t.Errorf("a pod whose claim cannot be made is on %q, %q", a.pod("d").Spec.NodeName, reason)
	}
}

// An extended resource that a DeviceClass offers is a claim that the scheduler makes, and ends with the pod; a device plugin's on another node is
// as good.
func TestExtendedResources(t *testing.T) {
	a := api{t, testenv.Start(t, testenv.SimulatedNodes(simulated.Config{Nodes: 2}))}
	start(t, a.Config)
	a.runClaimControllers()
	resources, ctx := a.Client.ResourceV1(), t.Context()
	withGPU := func(p *v1.Pod) {
		list := p.Spec.Containers[0].Resources.Requests
		list["example.com/gpu"] = resource.MustParse("1")
		p.Spec.Containers[0].Resources.Limits = list
	}
	a.create(newPod("a", withGPU))
	parttest.Eventually(t, "nothing offers the resource", func() bool {
		_, message := scheduled(a.pod("a"))
		return strings.Contains(message, " Insufficient example.com/gpu.")
	})
	a.must(resources.ResourceSlices().Create(ctx, gpus("simulated-1", resourcev1.Device{Name: "one"}), metav1.CreateOptions{}))
	a.must(resources.DeviceClasses().Create(ctx, &resourcev1.DeviceClass{
		ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: ptr.To("example.com/gpu")},
	}, metav1.CreateOptions{}))
	parttest.Eventually(t, "the pod is where the device is", func() bool { return a.pod("a").Spec.NodeName == "simulated-1" })
	status := a.pod("a").Status.ExtendedResourceClaimStatus
	if status == nil || len(status.RequestMappings) != 1 || status.RequestMappings[0].ResourceName != "example.com/gpu" {
		t.Fatalf("extendedResourceClaimStatus is %v", status)
	}
	c, err := resources.ResourceClaims("default").Get(ctx, status.ResourceClaimName, metav1.GetOptions{})
	if err != nil || len(c.Status.ReservedFor) != 1 || c.Status.Allocation.Devices.Results[0].Device != "one" || c.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" {
		t.Errorf("the claim is %v, %v", c, err)
	}

	a.create(newPod("b", withGPU))
	parttest.Eventually(t, "there is no second device", func() bool {
		_, message := scheduled(a.pod("b"))
		return strings.HasPrefix(message, "0/2 nodes are available: 2 cannot allocate all claims.")
	})
	patch := []byte(`{"status": {"capacity": {"example.com/gpu": "1"}, "allocatable": {"example.com/gpu": "1"}}}`)
	a.must(a.Client.CoreV1().Nodes().Patch(ctx, "simulated-0", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"))
	parttest.Eventually(t, "the second pod is where a device plugin has some", func() bool { return a.pod("b").Spec.NodeName == "simulated-0" })
	if status := a.pod("b").Status.ExtendedResourceClaimStatus; status != nil {
		t.Errorf("a pod with a device plugin's device has the claim %v", status)
	}
}

// A quota counts the devices of pods and of claims once each, whether they are asked for as claims, as an extended resource, or by the
// name that every class has.
func TestExtendedResourcesInQuota(t *testing.T) {
	// No controller runs that would make the namespace of Leases, and take the taint from the node.
	a := api{t, testenv.Start(t, testenv.Admission("ServiceAccount", "NamespaceLifecycle", "TaintNodesByCondition"), testenv.SimulatedNodes(simulated.Config{Nodes: 1}))}
	start(t, a.Config)
	a.runClaimControllers()
	parttest.Run(t, a.Client, func(factory informers.SharedInformerFactory) (func(context.Context) error, error) {
		quotas, err := resourcequota.New(a.Client, metadata.NewForConfigOrDie(a.Config), a.Client.Discovery(), factory)
		if err != nil {
			return nil, err
		}
		runner := reconcile.Runner{Controllers: []reconcile.Controller{quotas}}
		return runner.Run, nil
	})
	const explicit, implicit = "example.com/gpu", "deviceclass.resource.kubernetes.io/gpu"
	resources, quotas, ctx := a.Client.ResourceV1(), a.Client.CoreV1().ResourceQuotas("default"), t.Context()
	hard := v1.ResourceList{}
	for _, name := range []v1.ResourceName{"count/resourceclaims.resource.k8s.io", "requests." + explicit, "requests." + implicit, "gpu.deviceclass.resource.k8s.io/devices"} {
		hard[name] = resource.MustParse("5")
	}
	a.must(quotas.Create(ctx, &v1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: v1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{}))
	used := func(claims, devices int64) {
		t.Helper()
		parttest.Eventually(t, fmt.Sprintf("%d claims and %d devices are used", claims, devices), func() bool {
			q, err := quotas.Get(ctx, "q", metav1.GetOptions{})
			if err != nil || len(q.Status.Used) != len(hard) {
				return false
			}
			for name, amount := range q.Status.Used {
				if want := map[bool]int64{true: claims, false: devices}[strings.HasPrefix(string(name), "count/")]; amount.Value() != want {
					return false
				}
			}
			return true
		})
	}
	used(0, 0)
	a.must(resources.ResourceSlices().Create(ctx, gpus("simulated-0", resourcev1.Device{Name: "1"}, resourcev1.Device{Name: "2"}, resourcev1.Device{Name: "3"}, resourcev1.Device{Name: "4"}, resourcev1.Device{Name: "5"}), metav1.CreateOptions{}))
	a.must(resources.DeviceClasses().Create(ctx, &resourcev1.DeviceClass{
		ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: ptr.To(explicit)},
	}, metav1.CreateOptions{}))

	a.create(newPod("a", func(p *v1.Pod) { // the container and the sidecar have two devices each, which the others use before
		c := p.Spec.Containers[0]
		c.Resources.Requests = v1.ResourceList{explicit: resource.MustParse("1"), implicit: resource.MustParse("1")}
		c.Resources.Limits = c.Resources.Requests
		p.Spec.Containers[0] = c
		for _, name := range []string{"first", "sidecar", "second"} {
			c.Name = name
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		}
		p.Spec.InitContainers[1].RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
	}))
	parttest.Eventually(t, "the pod has its devices", func() bool { return a.pod("a").Spec.NodeName != "" })
	used(1, 4)
	claim := func(devices int64) error {
		_, err := resources.ResourceClaims("default").Create(ctx, &resourcev1.ResourceClaim{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "gpu-", Namespace: "default"},
			Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{
				Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: devices}}},
			}},
		}, metav1.CreateOptions{})
		return err
	}
	if err := claim(2); err == nil || !strings.Contains(err.Error(), "exceeded quota: q") {
		t.Errorf("a claim of more than is left: %v", err)
	}
	a.must(nil, claim(1))
	used(2, 5)
	a.must(nil, a.Client.CoreV1().Pods("default").Delete(ctx, "a", metav1.DeleteOptions{}))
	a.must(nil, resources.ResourceClaims("default").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	used(0, 0)
}

// gpus is what the driver of GPUs publishes about a node.
func gpus(node string, devices ...resourcev1.Device) *resourcev1.ResourceSlice {
	return &resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "gpus-" + node},
		Spec: resourcev1.ResourceSliceSpec{
			Driver: "gpu.example.com", NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, ResourceSliceCount: 1}, Devices: devices,
		},
	}
}

// A pod waits for its device to become ready; if it does not, it gets another. While it waits it is nominated to its node.
func TestBindingConditions(t *testing.T) {
	a := api{t, testenv.Start(t, testenv.SimulatedNodes(simulated.Config{Nodes: 1}))}
	start(t, a.Config)
	a.runClaimControllers()
	resources, ctx := a.Client.ResourceV1(), t.Context()
	slow := func(name string) resourcev1.Device {
		return resourcev1.Device{Name: name, BindingConditions: []string{"attached"}, BindingFailureConditions: []string{"broken"}}
	}
	a.must(resources.ResourceSlices().Create(ctx, gpus("simulated-0", slow("one"), slow("two")), metav1.CreateOptions{}))
	a.must(resources.DeviceClasses().Create(ctx, &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}}, metav1.CreateOptions{}))
	a.must(resources.ResourceClaims("default").Create(ctx, &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "gpu", Namespace: "default"},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{
			Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}}},
		}},
	}, metav1.CreateOptions{}))
	a.create(newPod("a", func(p *v1.Pod) {
		p.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "gpu", ResourceClaimName: ptr.To("gpu")}}
		p.Spec.Containers[0].Resources.Claims = []v1.ResourceClaim{{Name: "gpu"}}
	}))
	device := func() string {
		c, err := resources.ResourceClaims("default").Get(ctx, "gpu", metav1.GetOptions{})
		if err != nil || c.Status.Allocation == nil {
			return ""
		}
		return c.Status.Allocation.Devices.Results[0].Device
	}
	report := func(device, condition string) {
		t.Helper()
		a.must(nil, retry.RetryOnConflict(retry.DefaultRetry, func() error {
			c, err := resources.ResourceClaims("default").Get(ctx, "gpu", metav1.GetOptions{})
			if err != nil {
				return err
			}
			c.Status.Devices = []resourcev1.AllocatedDeviceStatus{{
				Driver: "gpu.example.com", Pool: "simulated-0", Device: device,
				Conditions: []metav1.Condition{{Type: condition, Status: metav1.ConditionTrue, Reason: "Test", LastTransitionTime: metav1.Now()}},
			}}
			_, err = resources.ResourceClaims("default").UpdateStatus(ctx, c, metav1.UpdateOptions{})
			return err
		}))
	}
	parttest.Eventually(t, "the claim has a device", func() bool { return device() != "" })
	if node := a.pod("a").Spec.NodeName; node != "" {
		t.Errorf("the pod is on %s before its device is ready", node)
	}
	report(device(), "broken")
	parttest.Eventually(t, "the claim was given up", func() bool {
		c, err := resources.ResourceClaims("default").Get(ctx, "gpu", metav1.GetOptions{})
		return err == nil && c.Status.Allocation != nil && len(c.Status.Devices) == 0
	})
	if node := a.pod("a").Spec.NodeName; node != "" {
		t.Errorf("the pod is on %s before its second device is ready", node)
	}
	parttest.Eventually(t, "the pod is nominated", func() bool { return a.pod("a").Status.NominatedNodeName == "simulated-0" })
	report(device(), "attached")
	parttest.Eventually(t, "the pod has a node", func() bool { return a.pod("a").Spec.NodeName == "simulated-0" })
	if node := a.pod("a").Status.NominatedNodeName; node != "" {
		t.Errorf("the pod is still nominated to %s", node)
	}
}

// mortal is a transport that stops in the middle of some write: before the server has heard of it, or before the scheduler has heard
// back. From then on nothing goes through.
type mortal struct {
	next  http.RoundTripper
	left  atomic.Int64 // writes
	heard bool         // the last write reaches the server
	died  chan struct{}
}

var errDead = errors.New("this scheduler is dead")

func (m *mortal) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodGet {
		return m.next.RoundTrip(req)
	}
	switch left := m.left.Add(-1); {
	case left > 0:
		return m.next.RoundTrip(req)
	case left < 0:
		return nil, errDead
	}
	defer close(m.died)
	if m.heard {
		if resp, err := m.next.RoundTrip(req); err == nil {
			_ = resp.Body.Close()
		}
	}
	return nil, errDead
}

// A scheduler that dies at any write is followed by another, until all pods are placed: each once, and never more on a node than fit. Meanwhile
// a rival binds some of the pods before it does, and nodes are deleted.
func TestSchedulerDies(t *testing.T) {
	const pods, nodes, perNode = 1000, 100, 11
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	template, err := simulated.ParseTemplate(fmt.Sprintf(`
metadata: {name: "n{{.Index}}"}
status: {capacity: {cpu: "%d", memory: 1Gi, pods: "110"}}`, perNode))
	if err != nil {
		t.Fatal(err)
	}
	a := api{t, testenv.Start(t, testenv.SimulatedNodes(simulated.Config{Nodes: nodes, Template: template}))}
	var moved, placed atomic.Int64
	factory := informers.NewSharedInformerFactory(a.Client, 0)
	see := func(was, is string) {
		switch {
		case was == "" && is != "":
			placed.Add(1)
		case was != is:
			moved.Add(1)
		}
	}
	_, err = factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(now any) { see("", now.(*v1.Pod).Spec.NodeName) }, // placed already, if the watch had to begin anew
		UpdateFunc: func(old, now any) { see(old.(*v1.Pod).Spec.NodeName, now.(*v1.Pod).Spec.NodeName) },
	})
	if err != nil {
		t.Fatal(err)
	}
	factory.StartWithContext(t.Context())
	factory.WaitForCacheSync(t.Context().Done())
	a.must(nil, wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		list, err := a.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) == nodes, err
	}))
	var conflicts atomic.Int64
	go func() {
		for i := range pods {
			a.create(newPod(fmt.Sprint("p", i)))
			if i%10 == 0 {
				rival := &v1.Binding{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i)}, Target: v1.ObjectReference{Kind: "Node", Name: "rival"}}
				if err := a.Client.CoreV1().Pods("default").Bind(a.Context(), rival, metav1.CreateOptions{}); err != nil {
					conflicts.Add(1) // the scheduler was first
				}
			}
		}
	}()
	deaths := 0
	for deadline := time.Now().Add(5 * time.Minute); placed.Load() < pods; deaths++ {
		m := &mortal{heard: r.IntN(2) == 0, died: make(chan struct{})}
		m.left.Store(1 + r.Int64N(120))
		config := restclient.CopyConfig(a.Config)
		config.Wrap(func(next http.RoundTripper) http.RoundTripper { m.next = next; return m })
		if deaths < 5 { // as many nodes go; what is on them stays, as nobody collects it
			a.must(nil, a.Client.CoreV1().Nodes().Delete(t.Context(), fmt.Sprint("n", deaths), metav1.DeleteOptions{}))
		}
		stop := start(t, config)
		for waiting := true; waiting; {
			select {
			case <-m.died:
				waiting = false
			case <-time.After(50 * time.Millisecond):
				waiting = placed.Load() < pods
			}
			if time.Now().After(deadline) {
				a.logWaiting()
				t.Fatalf("%d of %d pods are placed after 5 min and %d deaths", placed.Load(), pods, deaths)
			}
		}
		stop()
	}
	t.Logf("%d pods placed by %d schedulers, and a rival that came too late for %d", placed.Load(), deaths, conflicts.Load())
	list, err := a.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	on := make(map[string]int)
	for _, pod := range list.Items {
		if on[pod.Spec.NodeName]++; pod.Spec.NodeName != "rival" && on[pod.Spec.NodeName] > perNode || pod.Spec.NodeName == "" {
			t.Errorf("node %q has %d pods, has room for %d", pod.Spec.NodeName, on[pod.Spec.NodeName], perNode)
		}
	}
	if len(list.Items) != pods || moved.Load() != 0 {
		t.Errorf("%d pods, of which %d changed their node", len(list.Items), moved.Load())
	}
}

// logWaiting tells how many pods there are, and why those without a node have none.
func (a api) logWaiting() {
	list, err := a.Client.CoreV1().Pods("default").List(a.Context(), metav1.ListOptions{})
	if err != nil {
		a.Error(err)
		return
	}
	waiting := make(map[string]int)
	for i := range list.Items {
		if pod := &list.Items[i]; pod.Spec.NodeName == "" {
			_, message := scheduled(pod)
			waiting[message]++
		}
	}
	a.Logf("%d pods are there; those without a node say %v", len(list.Items), waiting)
}

// lossy is a transport on which some writes get lost before the server has heard of them, and of others the answer.
type lossy struct {
	next   http.RoundTripper
	writes atomic.Int64
}

var errLost = errors.New("connection reset by peer")

func (l *lossy) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodGet {
		return l.next.RoundTrip(req)
	}
	switch l.writes.Add(1) % 5 {
	case 0:
		return nil, errLost
	case 1:
		if resp, err := l.next.RoundTrip(req); err == nil {
			_ = resp.Body.Close()
		}
		return nil, errLost
	}
	return l.next.RoundTrip(req)
}

// What a binding that got no answer assumed of its node ends: if the pod was bound it counts there, if not the room is free for others. In the end all
// pods are bound, each once, and all room is taken.
func TestBindingsGetLost(t *testing.T) {
	const nodes, perNode = 20, 10
	template, err := simulated.ParseTemplate(fmt.Sprintf(`
metadata: {name: "n{{.Index}}"}
status: {capacity: {cpu: "%d", memory: 1Gi, pods: "110"}}`, perNode))
	if err != nil {
		t.Fatal(err)
	}
	a := api{t, testenv.Start(t, testenv.SimulatedNodes(simulated.Config{Nodes: nodes, Template: template}))}
	config := restclient.CopyConfig(a.Config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &lossy{next: next} })
	start(t, config, func(c *scheduler.Config) { c.InitialBackoff, c.MaxBackoff = 10*time.Millisecond, 100*time.Millisecond })
	each(nodes*perNode, func(i int) { a.create(newPod(fmt.Sprint("p", i))) })
	var on map[string]int
	a.must(nil, wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		list, err := a.Client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		on = make(map[string]int)
		for _, pod := range list.Items {
			on[pod.Spec.NodeName]++
		}
		return on[""] == 0, nil
	}))
	for node, pods := range on {
		if pods != perNode {
			t.Errorf("node %s has %d pods, want %d", node, pods, perNode)
		}
	}
}

// BenchmarkThroughAPI measures how many pods get their nodes per second through the real API server and store. To compare it with what the machine
// does at that moment it also says how many pods were created per second just before, by eight clients.
func BenchmarkThroughAPI(b *testing.B) {
	for _, name := range []string{"Basic", "PodAffinity", "PodAntiAffinity", "TopologySpreading", "Preemption", "UnschedulableInTheWay"} {
		i := slices.IndexFunc(scheduler.Shapes, func(s scheduler.Shape) bool { return s.Name == name })
		for _, nodes := range []int{100, 1000, 5000} {
			b.Run(fmt.Sprintf("%s/nodes=%d", name, nodes), func(b *testing.B) {
				for range b.N {
					runThroughAPI(b, &scheduler.Shapes[i], nodes)
				}
			})
		}
	}
}

func runThroughAPI(b *testing.B, shape *scheduler.Shape, nodes int) {
	b.StopTimer()
	a := api{b, testenv.Start(b)}
	defer a.Stop()
	list := shape.Nodes(nodes)
	each(nodes, func(i int) { a.must(a.Client.CoreV1().Nodes().Create(a.Context(), list[i], metav1.CreateOptions{})) })
	for _, name := range []string{shape.Pods.Namespace, "sched-0"} {
		a.must(a.Client.CoreV1().Namespaces().Create(a.Context(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))
	}
	a.must(a.Client.SchedulingV1().PriorityClasses().Create(a.Context(), &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 10}, metav1.CreateOptions{}))
	create := func(pods []*v1.Pod) {
		each(len(pods), func(i int) {
			if pods[i].Spec.Priority != nil {
				pods[i].Spec.PriorityClassName = "high"
			}
			a.create(pods[i])
		})
	}
	for i := range shape.Before {
		before := shape.Before[i].Make(nodes)
		for j, pod := range before {
			pod.Name = fmt.Sprint(pod.Name, "-", i)
			if !shape.Before[i].NoPlace {
				pod.Spec.NodeName = scheduler.NodeName(j % nodes)
			}
		}
		create(before)
	}
	pods := shape.Pods.Make(nodes)
	began := time.Now()
	create(pods)
	creates := float64(len(pods)) / time.Since(began).Seconds()
	placed := make(chan struct{}, len(pods))
	factory := informers.NewSharedInformerFactoryWithOptions(a.Client, 0, informers.WithNamespace(shape.Pods.Namespace))
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.FilteringResourceEventHandler{
		FilterFunc: func(obj any) bool { pod, ok := obj.(*v1.Pod); return ok && pod.Spec.NodeName != "" },
		Handler:    cache.ResourceEventHandlerFuncs{AddFunc: func(any) { placed <- struct{}{} }},
	})
	a.must(nil, err)
	ctx, cancel := context.WithCancel(b.Context())
	factory.StartWithContext(ctx)
	factory.WaitForCacheSync(ctx.Done())
	registry := metrics.NewKubeRegistry()
	b.StartTimer()
	stop := start(b, a.Config, func(c *scheduler.Config) { c.Metrics = registry })
	for scheduler.Decisions(b, registry) == 0 { // before, its informers fill, which would be most of what few pods take
		time.Sleep(time.Millisecond)
	}
	began = time.Now()
	used := scheduler.CPUTime()
	for range pods {
		<-placed
	}
	b.StopTimer()
	rate := float64(len(pods)) / time.Since(began).Seconds()
	stop()
	used = scheduler.CPUTime() - used // events included
	cancel()
	factory.Shutdown()
	b.ReportMetric(rate, "pods/s")
	b.ReportMetric(creates, "creates/s")
	b.ReportMetric(float64(used)/float64(time.Microsecond)/float64(len(pods)), "cpu-µs/pod")
	b.ReportMetric(1000*scheduler.Attempts(b, registry, 0.99), "p99-ms")
	b.ReportMetric(0, "ns/op")
}

// each calls f for the numbers below n, eight at a time.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 8 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}
