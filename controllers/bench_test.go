// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/kubelet/simulated"
	"github.com/skiff-k8s/skiff/scheduler"
)

// BenchmarkDeployments measures Deployments of three replicas from their creation until all pods are Ready, with the
// real API server, controllers and scheduler, and nodes that are simulated: go test -bench Deployments -benchtime 1000x.
func BenchmarkDeployments(b *testing.B) {
	const replicas = 3
	c := serve(b)
	var writes atomic.Int64
	deps := c.depsWith(func(_ string, next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.Method != http.MethodGet && !strings.HasSuffix(r.URL.Path, "/events") {
				writes.Add(1)
			}
			return next.RoundTrip(r)
		})
	})
	schedules, err := scheduler.New(scheduler.Config{}, c, deps.Informers, nil)
	if err != nil {
		b.Fatal(err)
	}
	nodes, err := simulated.New(simulated.Config{Nodes: b.N*replicas/100 + 1}, c, deps.Informers)
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
	c.namespace("bench")
	watch, err := c.AppsV1().Deployments("bench").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer watch.Stop()
	labels := map[string]string{"app": "bench"}

	before, used := writes.Load(), cpuTime(b)
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
	pods := float64(b.N * replicas)
	b.ReportMetric(pods/b.Elapsed().Seconds(), "pods/s")
	b.ReportMetric(float64(writes.Load()-before)/pods, "controller-writes/pod")
	b.ReportMetric((cpuTime(b)-used).Seconds()*1000/pods, "cpu-ms/pod")
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
