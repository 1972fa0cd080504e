// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	restclient "k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controllers/nodeipam"
	"github.com/skiff-k8s/skiff/kubelet/simulated"
	"github.com/skiff-k8s/skiff/pki"
	"github.com/skiff-k8s/skiff/scheduler"
	"github.com/skiff-k8s/skiff/testenv"
)

// BenchmarkDeployments measures Deployments of three replicas from their creation until all pods are Ready, with the
// real API server, controllers and scheduler, and nodes that are simulated; then what all that costs at rest, and how long
// it takes to delete the namespace: go test -bench Deployments -benchtime 1000x -timeout 30m.
func BenchmarkDeployments(b *testing.B) {
	const replicas, atRest = 3, 30 * time.Second
	env := testenv.Start(b, testenv.Admission())
	c := &cluster{Interface: env.Client, t: b}
	keys, err := pki.New(pki.Config{Dir: b.TempDir(), NodeName: "server"})
	if err != nil {
		b.Fatal(err)
	}
	requests := &requests{counts: map[string]int{}}
	config := func(user string) *restclient.Config {
		config := env.ConfigFor(user, "system:authenticated")
		config.Wrap(func(next http.RoundTripper) http.RoundTripper { return requests.wrap(user, next) })
		return config
	}
	client := func(user string) kubernetes.Interface { return kubernetes.NewForConfigOrDie(config(user)) }
	deps := controllers.Deps{
		ClientFor: client, MetadataFor: func(name string) metadata.Interface { return metadata.NewForConfigOrDie(config(name)) }, ConfigFor: config,
		Discovery: env.Client.Discovery(), ManagerClient: client("manager"), APIServerClient: client("apiserver"),
		Informers: informers.NewSharedInformerFactory(env.Client, 0),
		RootCA:    keys.ServerCA.PEM(),
		PodRanges: []nodeipam.Range{{Cluster: netip.MustParsePrefix("10.42.0.0/16"), NodeBits: 24}},
	}
	schedules, err := scheduler.New(scheduler.Config{}, client("scheduler"), deps.Informers, nil)
	if err != nil {
		b.Fatal(err)
	}
	nodes, err := simulated.New(simulated.Config{Nodes: b.N*replicas/100 + 1}, client("kubelets"), deps.Informers)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	b.Cleanup(c.control(deps))
	b.Cleanup(func() {
		cancel()
		running.Wait()
	})
	for _, run := range []func(context.Context) error{schedules.Run, nodes.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				b.Error(err)
			}
		})
	}
	c.namespace(corev1.NamespaceNodeLease)
	c.namespace("bench")
	c.eventually("the account of pods", func(ctx context.Context) error {
		_, err := c.CoreV1().ServiceAccounts("bench").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	watch, err := c.AppsV1().Deployments("bench").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer watch.Stop()
	labels := map[string]string{"app": "bench"}

	requests.reset()
	used := cpuTime(b)
	b.ResetTimer()
	running.Go(func() {
		for i := range b.N {
			n := int32(replicas)
			labels["app"] = fmt.Sprint("d-", i)
			d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: labels["app"]}, Spec: appsv1.DeploymentSpec{
				Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
			}}
			if _, err := c.AppsV1().Deployments("bench").Create(ctx, d, metav1.CreateOptions{}); err != nil {
				b.Error(err)
			}
		}
	})
	ready := map[string]bool{}
	for len(ready) < b.N {
		select {
		case e := <-watch.ResultChan():
			if d, ok := e.Object.(*appsv1.Deployment); ok && d.Status.ReadyReplicas == replicas {
				ready[d.Name] = true
			}
		case <-time.After(2 * time.Minute):
			b.Fatalf("%d of %d are ready, and nothing happens any more", len(ready), b.N)
		}
	}
	b.StopTimer()
	watch.Stop()
	pods := float64(b.N * replicas)
	b.ReportMetric(pods/b.Elapsed().Seconds(), "pods/s")
	b.ReportMetric((cpuTime(b)-used).Seconds()*1000/pods, "cpu-ms/pod")
	time.Sleep(5 * time.Second) // until the last events are written
	writes, events := requests.report(pods)
	b.ReportMetric(writes/pods, "writes/pod")
	b.ReportMetric(events/pods, "events/pod")

	runtime.GC()
	used = cpuTime(b)
	time.Sleep(atRest)
	b.ReportMetric(100*(cpuTime(b)-used).Seconds()/atRest.Seconds(), "idle-cpu-%")

	start := time.Now()
	if err := c.CoreV1().Namespaces().Delete(ctx, "bench", metav1.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	for {
		_, err := c.CoreV1().Namespaces().Get(ctx, "bench", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			break
		}
		if time.Since(start) > 10*time.Minute {
			b.Fatal("the namespace is still there")
		}
		time.Sleep(50 * time.Millisecond)
	}
	b.ReportMetric(time.Since(start).Seconds(), "s-to-delete")
}

// requests counts what changes something, by who asks for what.
type requests struct {
	mu     sync.Mutex
	counts map[string]int // guarded by mu
}

func (r *requests) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts = map[string]int{}
}

func (r *requests) wrap(identity string, next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(request *http.Request) (*http.Response, error) {
		if request.Method != http.MethodGet {
			r.mu.Lock()
			r.counts[identity+" "+request.Method+" "+resourceOf(request.URL.Path)]++
			r.mu.Unlock()
		}
		return next.RoundTrip(request)
	})
}

// resourceOf returns resource and subresource of a path.
func resourceOf(path string) string {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	parts = parts[2:] // api/v1
	if strings.HasPrefix(path, "/apis/") {
		parts = parts[1:]
	}
	if len(parts) > 2 && parts[0] == "namespaces" {
		parts = parts[2:]
	}
	if len(parts) > 2 {
		return parts[0] + "/" + parts[2]
	}
	return parts[0]
}

// report prints the counts per pod and returns their sums.
func (r *requests) report(pods float64) (writes, events float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, what := range slices.Sorted(maps.Keys(r.counts)) {
		n := float64(r.counts[what])
		if strings.HasSuffix(what, " events") {
			events += n
		} else {
			writes += n
		}
		if n/pods > 0.01 {
			fmt.Printf("%6.2f per pod: %s\n", n/pods, what)
		}
	}
	return writes, events
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
