// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

const calls = 200 // of each kind that API latencies are the median of

// measure takes all figures: starts on hosts where there was nothing, then the rest on the last of them.
func measure(ctx context.Context, o options, r *results) error {
	var starts []startup
	for n := range o.runs {
		h, err := newHost(o)
		if err != nil {
			return err
		}
		took, err := h.start(ctx)
		if err == nil {
			starts = append(starts, took)
			fmt.Fprintf(os.Stderr, "start %d: API after %.2f s, Node Ready after %.2f s\n", n+1, took.api.Seconds(), took.ready.Seconds())
			if n == o.runs-1 {
				r.addStarts("first", "first start", starts)
				err = measureRunning(ctx, h, r)
			}
		}
		h.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// addStarts adds the medians of starts.
func (r *results) addStarts(key, name string, starts []startup) {
	pick := func(what func(startup) time.Duration) (took []time.Duration) {
		for _, s := range starts {
			took = append(took, what(s))
		}
		return took
	}
	r.seconds(key+"-api", name+" to a serving API", pick(func(s startup) time.Duration { return s.api }), budget{1.5, 1.5})
	r.seconds(key+"-ready", name+" to a Ready Node", pick(func(s startup) time.Duration { return s.ready }), budget{4, 2})
	r.seconds(key+"-cpu", "  CPU time used for that", pick(func(s startup) time.Duration { return s.cpu }), noBudget)
}

// measureRunning takes the figures of the server that has just become Ready.
func measureRunning(ctx context.Context, h *host, r *results) error {
	client, err := h.client()
	if err != nil {
		return err
	}
	if h.options.node {
		if err := node(ctx, h, client, r); err != nil {
			return err
		}
		_, err := h.stop(ctx)
		return err
	}
	if err := idle(ctx, h, r); err != nil {
		return err
	}
	if h.options.idle {
		_, err := h.stop(ctx)
		return err
	}
	if err := latencies(ctx, client, r); err != nil {
		return err
	}
	if err := pods(ctx, h, client, r); err != nil {
		return err
	}
	if err := node(ctx, h, client, r); err != nil {
		return err
	}
	stop, err := h.stop(ctx)
	if err != nil {
		return fmt.Errorf("stop the server: %w", err)
	}
	r.add("stop", "SIGTERM to the end of the server", stop.Seconds(), "s", noBudget)
	return restarts(ctx, h, r)
}

// idle watches the server, and all that it has started, while nobody asks anything of it.
func idle(ctx context.Context, h *host, r *results) error {
	if err := wait(ctx, h.options.settle); err != nil {
		return err
	}
	before, _, err := total(h, "")
	if err != nil {
		return err
	}
	if err := wait(ctx, h.options.seconds); err != nil {
		return err
	}
	after, processes, err := total(h, "")
	if err != nil {
		return err
	}
	r.add("cpu", fmt.Sprintf("CPU when idle, over %d s", h.options.seconds), 100*(after.cpu-before.cpu).Seconds()/float64(h.options.seconds), "% of a core", budget{later: 1})
	r.add("memory", "resident memory when idle, all processes", after.resident()/mega, "MB", budget{250, 150})
	r.add("memory-anonymous", "  anonymous", after.anonymous/mega, "MB", noBudget)
	r.add("memory-file", "  file-backed", after.file/mega, "MB", noBudget)
	r.add("processes", "processes", float64(processes), "", noBudget)
	r.add("threads", "threads", after.threads, "", noBudget)
	return nil
}

func wait(ctx context.Context, seconds int) error {
	select {
	case <-time.After(time.Duration(seconds) * time.Second):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// latencies asks for ConfigMaps, one call after the other.
func latencies(ctx context.Context, client kubernetes.Interface, r *results) error {
	maps := client.CoreV1().ConfigMaps(metav1.NamespaceDefault)
	for _, kind := range []struct {
		key, name string
		call      func(i int) error
	}{
		{"create", "create a ConfigMap", func(i int) error {
			object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("bench-%d", i)}, Data: map[string]string{"key": "value"}}
			_, err := maps.Create(ctx, object, metav1.CreateOptions{})
			return err
		}},
		{"get", "get a ConfigMap", func(i int) error {
			_, err := maps.Get(ctx, fmt.Sprintf("bench-%d", i), metav1.GetOptions{})
			return err
		}},
		{"list", fmt.Sprintf("list %d ConfigMaps", calls), func(int) error {
			_, err := maps.List(ctx, metav1.ListOptions{})
			return err
		}},
	} {
		took := make([]time.Duration, calls)
		for i := range took {
			begin := time.Now()
			if err := kind.call(i); err != nil {
				return fmt.Errorf("%s: %w", kind.name, err)
			}
			took[i] = time.Since(begin)
		}
		r.add(kind.key, kind.name+" (median)", median(took).Seconds()*1000, "ms", noBudget)
	}
	return maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
}

// pods starts a pod that is Ready when it runs, again and again, first by the API and then by kubectl, and looks at
// the last one's shim.
func pods(ctx context.Context, h *host, client kubernetes.Interface, r *results) error {
	var byAPI, byKubectl []time.Duration
	for i := range 2 * h.options.runs {
		name, create, took := fmt.Sprintf("bench-%d", i), createPod, &byAPI
		if i >= h.options.runs {
			create, took = kubectlRun, &byKubectl
		}
		begin := time.Now()
		if err := startPod(ctx, h, client, name, create); err != nil {
			return fmt.Errorf("start pod %s: %w", name, err)
		}
		*took = append(*took, time.Since(begin))
		if i == 2*h.options.runs-1 {
			if err := shims(h, r); err != nil {
				return err
			}
		}
		if err := removePod(ctx, client, name); err != nil {
			return fmt.Errorf("remove pod %s: %w", name, err)
		}
	}
	r.seconds("pod", "create a pod until it is Ready", byAPI, noBudget)
	r.seconds("kubectl-run", "kubectl run until the pod is Ready", byKubectl, noBudget)
	return nil
}

func shims(h *host, r *results) error {
	sum, n, err := total(h, "containerd-shim")
	if err != nil {
		return err
	}
	if n > 0 {
		r.add("shim", "resident memory of a pod's shim", sum.resident()/mega/float64(n), "MB", noBudget)
		r.add("shim-anonymous", "  anonymous", sum.anonymous/mega/float64(n), "MB", noBudget)
	}
	return nil
}

type createFunc func(ctx context.Context, h *host, client kubernetes.Interface, name string) error

func startPod(ctx context.Context, h *host, client kubernetes.Interface, name string, create createFunc) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := create(ctx, h, client, name); err != nil {
		return err
	}
	pods := client.CoreV1().Pods(metav1.NamespaceDefault)
	return await(ctx, func(ctx context.Context) (watch.Interface, error) { return pods.Watch(ctx, named(name)) }, podIsReady)
}

func createPod(ctx context.Context, _ *host, client kubernetes.Interface, name string) error {
	_, err := client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, sleeper(name), metav1.CreateOptions{})
	return err
}

// sleeper is a pod that does nothing for an hour.
func sleeper(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](0),
			Containers: []corev1.Container{{
				Name: "main", Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sleep", "3600"},
			}},
		},
	}
}

func kubectlRun(ctx context.Context, h *host, _ kubernetes.Interface, name string) error {
	out, err := h.Command(ctx, h.options.binary, "kubectl", "--kubeconfig="+kubeconfig, "run", name, "--image="+image,
		"--image-pull-policy=IfNotPresent", "--grace-period=0", `--overrides={"spec":{"terminationGracePeriodSeconds":0}}`,
		"--", "sleep", "3600").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func removePod(ctx context.Context, client kubernetes.Interface, name string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pods := client.CoreV1().Pods(metav1.NamespaceDefault)
	w, err := pods.Watch(ctx, named(name))
	if err != nil {
		return err
	}
	defer w.Stop()
	if err := pods.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	for event := range w.ResultChan() {
		if event.Type == watch.Deleted {
			return nil
		}
	}
	return context.Cause(ctx)
}

// restarts starts the server on the data of its last run, with no pods.
func restarts(ctx context.Context, h *host, r *results) error {
	var starts []startup
	for range h.options.runs {
		took, err := h.start(ctx)
		if err != nil {
			return fmt.Errorf("start again: %w", err)
		}
		starts = append(starts, took)
		if _, err := h.stop(ctx); err != nil {
			return fmt.Errorf("stop the server: %w", err)
		}
	}
	r.addStarts("again", "start again", starts)
	return nil
}

func median[T cmp.Ordered](d []T) T {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[len(sorted)/2]
}
