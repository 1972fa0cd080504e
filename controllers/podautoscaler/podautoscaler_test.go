// SPDX-License-Identifier: Apache-2.0

package podautoscaler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	scalefake "k8s.io/client-go/scale/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/controllers/metrics"
)

// values are what the metrics say: per pod, or as a whole.
type values struct {
	mu     sync.Mutex // guards what follows
	perPod Samples
	whole  int64
	err    error
}

func (v *values) samples() (Samples, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.perPod), v.err
}

func (v *values) total() (int64, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.whole, v.err
}

// set changes the values.
func (v *values) set(change func(*values)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change(v)
}

func (v *values) Resource(context.Context, string, labels.Selector, corev1.ResourceName, string) (Samples, error) {
	return v.samples()
}

func (v *values) Pods(context.Context, string, labels.Selector, string, labels.Selector) (Samples, error) {
	return v.samples()
}

func (v *values) Object(context.Context, string, autoscalingv2.CrossVersionObjectReference, string, labels.Selector) (int64, error) {
	return v.total()
}

func (v *values) External(context.Context, string, string, labels.Selector) (int64, error) {
	return v.total()
}

// world is a Deployment of ready pods with an autoscaler.
type world struct {
	*controllertest.Cluster
	t      *testing.T
	values values

	mu    sync.Mutex // guards scale
	scale autoscalingv1.Scale
}

// replicas is how many are wanted.
func (w *world) replicas() int32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.scale.Spec.Replicas
}

func hpa(change ...func(*autoscalingv2.HorizontalPodAutoscaler)) *autoscalingv2.HorizontalPodAutoscaler {
	a := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
			MaxReplicas:    10,
			Metrics:        []autoscalingv2.MetricSpec{cpuUtilization(50)},
		},
	}
	for _, c := range change {
		c(a)
	}
	return a
}

func cpuUtilization(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
	}}
}

func external(value int64) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: "queue"},
		Target: autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: resource.NewQuantity(value, resource.DecimalSI)},
	}}
}

func pod(i int) *corev1.Pod {
	started := metav1.NewTime(time.Now().Add(-time.Hour))
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("web-", i), Namespace: "ns", Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")},
		}}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, StartTime: &started,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: started}},
		},
	}
}

// newWorld starts the controller. Call it in a synctest bubble.
func newWorld(t *testing.T, replicas int32, autoscalers ...*autoscalingv2.HorizontalPodAutoscaler) *world {
	t.Helper()
	var objects []runtime.Object
	for _, a := range autoscalers {
		objects = append(objects, a)
	}
	for i := range replicas {
		objects = append(objects, pod(int(i)))
	}
	w := &world{Cluster: controllertest.New(t, objects...), t: t}
	w.scale = autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns"}, Spec: autoscalingv1.ScaleSpec{Replicas: replicas},
		Status: autoscalingv1.ScaleStatus{Replicas: replicas, Selector: "app=web"},
	}
	scales := &scalefake.FakeScaleClient{}
	scales.AddReactor("get", "deployments", func(clienttesting.Action) (bool, runtime.Object, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return true, w.scale.DeepCopy(), nil
	})
	scales.AddReactor("update", "deployments", func(action clienttesting.Action) (bool, runtime.Object, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.scale.Spec = action.(clienttesting.UpdateAction).GetObject().(*autoscalingv1.Scale).Spec
		return true, w.scale.DeepCopy(), nil
	})
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{appsv1.SchemeGroupVersion})
	mapper.Add(appsv1.SchemeGroupVersion.WithKind("Deployment"), meta.RESTScopeNamespace)
	w.values.perPod = Samples{}
	w.use(200)
	w.Run(New(Deps{Client: w, Scales: scales, Mapper: mapper, Metrics: &w.values, Events: w.Events, Measured: metrics.New().Autoscaler}, w.Factory))
	return w
}

// use makes each pod use so many thousandths of a CPU.
func (w *world) use(milli int64) {
	w.values.set(func(v *values) {
		for i := range w.replicas() {
			v.perPod[fmt.Sprint("web-", i)] = Sample{Value: milli, Time: time.Now(), Window: 15 * time.Second}
		}
	})
}

// follow does what the Deployment controller and the kubelet would: pods are as many as wanted, and ready.
func (w *world) follow() {
	w.t.Helper()
	for _, p := range w.Cluster.Pods() {
		if err := w.CoreV1().Pods("ns").Delete(w.t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
			w.t.Fatal(err)
		}
	}
	w.values.set(func(v *values) { v.perPod = Samples{} })
	for i := range w.replicas() {
		if _, err := w.CoreV1().Pods("ns").Create(w.t.Context(), pod(int(i)), metav1.CreateOptions{}); err != nil {
			w.t.Fatal(err)
		}
	}
	w.mu.Lock()
	w.scale.Status.Replicas = w.scale.Spec.Replicas
	w.mu.Unlock()
	synctest.Wait()
}

// after lets time pass and wants so many replicas.
func (w *world) after(d time.Duration, want int32) {
	w.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	if got := w.replicas(); got != want {
		w.t.Errorf("%d replicas after %s, want %d", got, d, want)
	}
}

// condition returns "True Reason: message".
func (w *world) condition(t autoscalingv2.HorizontalPodAutoscalerConditionType) string {
	w.t.Helper()
	a, err := w.AutoscalingV2().HorizontalPodAutoscalers("ns").Get(w.t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range a.Status.Conditions {
		if c.Type == t {
			return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
		}
	}
	return ""
}

func (w *world) wantCondition(t autoscalingv2.HorizontalPodAutoscalerConditionType, want string) {
	w.t.Helper()
	if got := w.condition(t); !strings.HasPrefix(got, want) {
		w.t.Errorf("%s is %q, want %q", t, got, want)
	}
}

// More load is answered at once, less load when it has been less for five minutes.
func TestUpAtOnceDownLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, hpa())
		w.use(1000) // twice of what is wished
		w.after(period, 4)
		w.wantCondition(autoscalingv2.AbleToScale, "True SucceededRescale: the HPA controller was able to update the target scale to 4")
		w.wantCondition(autoscalingv2.ScalingActive, "True ValidMetricFound: the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)")
		if got := <-w.Events.Events; got != "Normal SuccessfulRescale New size: 4; reason: cpu resource utilization (percentage of request) above target" {
			t.Errorf("event is %q", got)
		}
		w.follow()
		w.use(100)
		w.after(4*time.Minute, 4)
		w.wantCondition(autoscalingv2.AbleToScale, "True ScaleDownStabilized: ")
		w.after(2*time.Minute, 1)
		if got := <-w.Events.Events; got != "Normal SuccessfulRescale New size: 1; reason: All metrics below target" {
			t.Errorf("event is %q", got)
		}
		a, err := w.AutoscalingV2().HorizontalPodAutoscalers("ns").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if s := a.Status; len(s.CurrentMetrics) != 1 || *s.CurrentMetrics[0].Resource.Current.AverageUtilization != 10 || s.CurrentMetrics[0].Resource.Current.AverageValue.String() != "100m" || s.LastScaleTime == nil {
			t.Errorf("status is %+v", s)
		}
	})
}

func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, hpa(func(a *autoscalingv2.HorizontalPodAutoscaler) { a.Spec.MinReplicas = ptr.To[int32](5) }))
		w.after(0, 5)
		if got := <-w.Events.Events; got != "Normal SuccessfulRescale New size: 5; reason: Current number of replicas below Spec.MinReplicas" {
			t.Errorf("event is %q", got)
		}
		w.mu.Lock()
		w.scale.Spec.Replicas = 20
		w.mu.Unlock()
		w.after(period, 10)
		w.follow()
		w.use(2000)
		w.after(period, 10)
		w.wantCondition(autoscalingv2.ScalingLimited, "True TooManyReplicas: the desired replica count is more than the maximum replica count")
	})
}

// Without a behavior a target at most doubles, or gets four replicas.
func TestGrowthIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, hpa())
		w.use(5000)
		w.after(period, 6)
		w.wantCondition(autoscalingv2.ScalingLimited, "True ScaleUpLimit: the desired replica count is increasing faster than the maximum scale rate")
	})
}

func behavior(up, down *autoscalingv2.HPAScalingRules) func(*autoscalingv2.HorizontalPodAutoscaler) {
	return func(a *autoscalingv2.HorizontalPodAutoscaler) {
		a.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: up, ScaleDown: down}
	}
}

func rules(window int32, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
	return &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window, SelectPolicy: ptr.To(autoscalingv2.MaxChangePolicySelect), Policies: policies}
}

// One pod a minute up, half of the pods a minute down.
func TestBehavior(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, hpa(behavior(
			rules(0, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 1, PeriodSeconds: 60}),
			rules(0, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 50, PeriodSeconds: 60}),
		)))
		w.use(1000)
		w.after(period, 3)
		w.follow()
		w.use(1000)
		w.after(30*time.Second, 3)
		w.wantCondition(autoscalingv2.ScalingLimited, "True ScaleUpLimit: ")
		w.after(40*time.Second, 4)
		w.follow()
		time.Sleep(2 * time.Minute)
		w.use(1)
		w.after(period, 2)
		w.follow()
		w.use(1)
		w.after(30*time.Second, 2)
		w.wantCondition(autoscalingv2.ScalingLimited, "True ScaleDownLimit: ")
		w.after(40*time.Second, 1)
	})
}

func TestDisabledDirection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := rules(0)
		down.SelectPolicy = ptr.To(autoscalingv2.DisabledPolicySelect)
		w := newWorld(t, 4, hpa(behavior(rules(0), down)))
		w.use(1)
		w.after(time.Hour, 4)
	})
}

func TestToleranceOfBehavior(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := rules(0, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 9, PeriodSeconds: 60})
		up.Tolerance = ptr.To(resource.MustParse("0.5"))
		w := newWorld(t, 2, hpa(behavior(up, rules(300))))
		w.use(740) // 1.48 times what is wished
		w.after(time.Hour, 2)
		w.use(800)
		w.after(period, 4)
	})
}

// What a metric says that cannot be had, nobody knows; the target stays as it is, and the reason is told.
func TestMetricsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, hpa())
		w.values.set(func(v *values) { v.err = errors.New("no such API") })
		w.after(period, 2)
		w.wantCondition(autoscalingv2.ScalingActive, "False FailedGetResourceMetric: the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: no such API")
		for _, want := range []string{
			"Warning FailedGetResourceMetric failed to get cpu utilization: unable to get metrics for resource cpu: no such API",
			"Warning FailedComputeMetricsReplicas invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: failed to get cpu utilization: unable to get metrics for resource cpu: no such API",
		} {
			if got := <-w.Events.Events; got != want {
				t.Errorf("event is %q, want %q", got, want)
			}
		}
	})
}

func TestMissingRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, hpa())
		p := w.Cluster.Pods()[0]
		p.Spec.Containers[0].Resources.Requests = nil
		if _, err := w.CoreV1().Pods("ns").Update(t.Context(), &p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.after(period, 1)
		w.wantCondition(autoscalingv2.ScalingActive, "False FailedGetResourceMetric: the HPA was unable to compute the replica count: failed to get cpu utilization: missing request for cpu in container c of Pod web-0")
	})
}

func TestNoTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, hpa(func(a *autoscalingv2.HorizontalPodAutoscaler) { a.Spec.ScaleTargetRef.Kind = "Nothing" }))
		w.after(period, 1)
		w.wantCondition(autoscalingv2.AbleToScale, "False FailedGetScale: the HPA controller was unable to get the target's current scale: no matches for ")
	})
}

func TestTwoForTheSamePods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, hpa(), hpa(func(a *autoscalingv2.HorizontalPodAutoscaler) { a.Name = "other" }))
		w.after(2*period, 2)
		w.wantCondition(autoscalingv2.ScalingActive, "False AmbiguousSelector: pods by selector app=web are controlled by more than one HPA (e.g. [ns/web ns/other])")
	})
}

// Only what an autoscaler has scaled to zero is woken by it.
func TestZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0, hpa())
		w.after(period, 0)
		w.wantCondition(autoscalingv2.ScalingActive, "False ScalingDisabled: scaling is disabled since the replica count of the target is zero")
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, hpa(func(a *autoscalingv2.HorizontalPodAutoscaler) {
			a.Spec.MinReplicas, a.Spec.Metrics = ptr.To[int32](0), []autoscalingv2.MetricSpec{external(10)}
		}))
		w.values.set(func(v *values) { v.whole = 0 })
		w.after(6*time.Minute, 0)
		w.wantCondition(autoscalingv2.ScaledToZero, "True ScaledToZero: ")
		w.follow()
		w.values.set(func(v *values) { v.whole = 25000 })
		w.after(period, 3)
		w.wantCondition(autoscalingv2.ScaledToZero, "False NotScaledToZero: ")
	})
}

// A changed spec is acted upon at once.
func TestSpecChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, hpa(func(a *autoscalingv2.HorizontalPodAutoscaler) { a.Spec.MinReplicas = ptr.To[int32](2) }))
		w.after(time.Second, 2)
		a, err := w.AutoscalingV2().HorizontalPodAutoscalers("ns").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		a.Spec.MinReplicas = ptr.To[int32](4)
		a.Generation++
		if _, err := w.AutoscalingV2().HorizontalPodAutoscalers("ns").Update(t.Context(), a, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.after(0, 4)
	})
}
