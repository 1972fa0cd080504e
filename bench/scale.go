// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/internal/simulatednode"
)

const (
	replicas      = 3 // of each Deployment
	podsPerNode   = 100
	manyObjects   = 5000 // in the namespace whose deletion is measured
	clients       = 16   // that create at the same time
	scalePatience = 20 * time.Minute
	calm          = 75 // seconds after which a server has given back what it needed for a time of load
)

// scale measures what controllers do with many Deployments, whose pods run on simulated nodes: nothing but the API,
// the controllers and the scheduler has work to do.
func scale(ctx context.Context, o options, r *results) error {
	h, err := newHost(o)
	if err != nil {
		return err
	}
	defer h.close()
	h.flags = []string{"--simulated-nodes", strconv.Itoa(o.deployments*replicas/podsPerNode + 1)}
	if _, err := h.start(ctx); err != nil {
		return err
	}
	client, err := h.client()
	if err != nil {
		return err
	}
	if err := wait(ctx, o.settle); err != nil {
		return err
	}
	if err := h.profileAnew(); err != nil {
		return err
	}
	written, err := writesSoFar(ctx, client)
	if err != nil {
		return err
	}
	if err := deployments(ctx, h, client, r); err != nil {
		return err
	}
	if err := wait(ctx, o.settle+calm); err != nil {
		return err
	}
	if err := written.report(ctx, client, float64(o.deployments*replicas), r); err != nil {
		return err
	}
	if err := h.profileAnew(); err != nil {
		return err
	}
	before, _, err := total(h, "")
	if err != nil {
		return err
	}
	if err := wait(ctx, o.seconds); err != nil {
		return err
	}
	after, _, err := total(h, "")
	if err != nil {
		return err
	}
	if err := h.profileAnew(); err != nil {
		return err
	}
	r.add("scale-cpu", fmt.Sprintf("CPU when idle with all of them, over %d s", o.seconds), 100*(after.cpu-before.cpu).Seconds()/float64(o.seconds), "% of a core", budget{later: 2})
	r.add("scale-memory", "resident memory then", after.resident()/mega, "MB", noBudget)
	return namespace(ctx, client, r)
}

// deployments creates them, and waits until all pods are Ready.
func deployments(ctx context.Context, h *host, client kubernetes.Interface, r *results) error {
	ctx, cancel := context.WithTimeoutCause(ctx, scalePatience, fmt.Errorf("not all pods are Ready after %s", scalePatience))
	defer cancel()
	n := h.options.deployments
	before, _, err := total(h, "")
	if err != nil {
		return err
	}
	begin := time.Now()
	ready := make(chan error, 1)
	go func() {
		seen := map[string]bool{}
		ready <- await(ctx, func(ctx context.Context) (watch.Interface, error) {
			return client.AppsV1().Deployments("scale").Watch(ctx, metav1.ListOptions{})
		}, func(e watch.Event) bool {
			if d, ok := e.Object.(*appsv1.Deployment); ok && d.Status.ReadyReplicas == replicas {
				seen[d.Name] = true
			}
			return len(seen) == n
		})
	}()
	if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "scale"}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := inParallel(ctx, n, func(ctx context.Context, i int) error {
		_, err := client.AppsV1().Deployments("scale").Create(ctx, deployment(fmt.Sprint("d-", i)), metav1.CreateOptions{})
		return err
	}); err != nil {
		return fmt.Errorf("create Deployments: %w", err)
	}
	fmt.Fprintf(os.Stderr, "%d Deployments created after %.1f s\n", n, time.Since(begin).Seconds())
	if err := <-ready; err != nil {
		return err
	}
	took := time.Since(begin)
	after, _, err := total(h, "")
	if err != nil {
		return err
	}
	r.add("scale-ready", fmt.Sprintf("%d Deployments of %d replicas until all are Ready", n, replicas), took.Seconds(), "s", noBudget)
	r.add("scale-cpu-used", "  CPU time used for that", (after.cpu - before.cpu).Seconds(), "s", noBudget)
	return nil
}

func deployment(name string) *appsv1.Deployment {
	labels, n := map[string]string{"app": name}, int32(replicas)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				NodeSelector: map[string]string{simulatednode.Label: "true"},
				Containers:   []corev1.Container{{Name: "main", Image: image}},
			}},
		},
	}
}

// namespace measures the deletion of one with many objects.
func namespace(ctx context.Context, client kubernetes.Interface, r *results) error {
	ctx, cancel := context.WithTimeoutCause(ctx, scalePatience, fmt.Errorf("the namespace is there after %s", scalePatience))
	defer cancel()
	namespaces := client.CoreV1().Namespaces()
	if _, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "many"}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := inParallel(ctx, manyObjects, func(ctx context.Context, i int) error {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m-", i)}, Data: map[string]string{"key": "value"}}
		_, err := client.CoreV1().ConfigMaps("many").Create(ctx, m, metav1.CreateOptions{})
		return err
	}); err != nil {
		return fmt.Errorf("create ConfigMaps: %w", err)
	}
	w, err := namespaces.Watch(ctx, named("many"))
	if err != nil {
		return err
	}
	defer w.Stop()
	begin := time.Now()
	if err := namespaces.Delete(ctx, "many", metav1.DeleteOptions{}); err != nil {
		return err
	}
	for event := range w.ResultChan() {
		if event.Type == watch.Deleted {
			r.add("scale-namespace", fmt.Sprintf("delete a namespace with %d objects", manyObjects), time.Since(begin).Seconds(), "s", noBudget)
			return nil
		}
	}
	return context.Cause(ctx)
}

func inParallel(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(clients)
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

// upstreamWrites is what kube-controller-manager, kube-scheduler and as many simulated kubelets write for each pod of such a
// Deployment, by their source in 1.37. For each pod: its creation and binding, two statuses (waiting, then ready; this bench's
// kubelets write one), and two events (SuccessfulCreate, Scheduled). For each Deployment: its creation and one write of its revision, the
// ReplicaSet's creation, the event ScalingReplicaSet, and as each pod of three becomes ready by itself, three or four statuses of the
// ReplicaSet and as many of the Deployment, of which at least two each are always written.
const upstreamWrites = 6 + (4+2+2)/float64(replicas)

// writes are how many there were, by what was written.
type writes map[string]float64

// report adds what was written since, for each of the pods. Events come last, so it is for after a time of rest.
func (w writes) report(ctx context.Context, client kubernetes.Interface, pods float64, r *results) error {
	now, err := writesSoFar(ctx, client)
	if err != nil {
		return err
	}
	sum := 0.0
	for what := range now {
		now[what] = (now[what] - w[what]) / pods
		sum += now[what]
	}
	r.add("scale-writes", "  writes to the API per pod, of all that took part, in the end", sum, "", budget{later: upstreamWrites})
	for _, what := range slices.Sorted(maps.Keys(now)) {
		if now[what] >= 0.01 {
			r.add("scale-writes-"+what, "    "+what, now[what], "", noBudget)
		}
	}
	return nil
}

// writesSoFar counts the writes that the API server has been asked for, whoever asked, but for the signs of life of nodes.
func writesSoFar(ctx context.Context, client kubernetes.Interface) (writes, error) {
	raw, err := client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	all := writes{}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), "} ")
		if !ok || !strings.HasPrefix(name, "apiserver_request_total{") || !isWrite(name) || label(name, "resource") == "leases" {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("read metric %s: %w", name, err)
		}
		what := label(name, "verb") + " " + label(name, "resource")
		if part := label(name, "subresource"); part != "" {
			what += "/" + part
		}
		all[what] += n
	}
	return all, lines.Err()
}

// label is the value of a metric's label.
func label(metric, name string) string {
	_, rest, _ := strings.Cut(metric, name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

func isWrite(metric string) bool {
	for _, verb := range []string{"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"} {
		if strings.Contains(metric, `verb="`+verb+`"`) {
			return true
		}
	}
	return false
}
