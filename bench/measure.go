// SPDX-License-Identifier: Apache-2.0

package main

import (
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
	var apis, readies []time.Duration
	for n := range o.runs {
		h, err := newHost(o)
		if err != nil {
			return err
		}
		api, ready, err := h.start(ctx)
		if err == nil {
			apis, readies = append(apis, api), append(readies, ready)
			fmt.Fprintf(os.Stderr, "start %d: API after %.2f s, Node Ready after %.2f s\n", n+1, api.Seconds(), ready.Seconds())
			if n == o.runs-1 {
				r.seconds("api", "first start to a serving API", apis, budget{1.5, 1.5})
				r.seconds("ready", "first start to a Ready Node", readies, budget{4, 2})
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

// measureRunning takes the figures of the server that has just become Ready.
func measureRunning(ctx context.Context, h *host, r *results) error {
	client, err := h.client()
	if err != nil {
		return err
	}
	if err := idle(ctx, h, r); err != nil {
		return err
	}
	if err := latencies(ctx, client, r); err != nil {
		return err
	}
	if err := pods(ctx, h, client, r); err != nil {
		return err
	}
	stop, err := h.stop(ctx)
	if err != nil {
		return fmt.Errorf("stop the server: %w", err)
	}
	r.add("stop", "SIGTERM to the end of the server", stop.Seconds(), "s", noBudget)
	return restarts(ctx, h, r)
}

// idle watches the server while nobody asks anything of it.
func idle(ctx context.Context, h *host, r *results) error {
	if err := wait(ctx, h.options.settle); err != nil {
		return err
	}
	before, err := usage(h.server.PID())
	if err != nil {
		return err
	}
	if err := wait(ctx, h.options.seconds); err != nil {
		return err
	}
	after, err := usage(h.server.PID())
	if err != nil {
		return err
	}
	r.add("cpu", fmt.Sprintf("CPU when idle, over %d s", h.options.seconds), 100*(after.cpu-before.cpu).Seconds()/float64(h.options.seconds), "% of a core", budget{later: 1})
	r.add("memory", "resident memory when idle", after.resident()/mega, "MB", budget{250, 150})
	r.add("memory-anonymous", "  anonymous", after.anonymous/mega, "MB", noBudget)
	r.add("memory-file", "  file-backed", after.file/mega, "MB", noBudget)
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

// pods starts a pod that is Ready when it runs, again and again, and looks at the last one's shim.
func pods(ctx context.Context, h *host, client kubernetes.Interface, r *results) error {
	var took []time.Duration
	for i := range h.options.runs {
		name := fmt.Sprintf("bench-%d", i)
		begin := time.Now()
		if err := startPod(ctx, client, name); err != nil {
			return fmt.Errorf("start pod %s: %w", name, err)
		}
		took = append(took, time.Since(begin))
		if i == h.options.runs-1 {
			shims, n, err := shimUsage(h)
			if err != nil {
				return err
			}
			if n > 0 {
				r.add("shim", "resident memory of a pod's shim", shims.resident()/mega/float64(n), "MB", noBudget)
				r.add("shim-anonymous", "  anonymous", shims.anonymous/mega/float64(n), "MB", noBudget)
			}
		}
		if err := removePod(ctx, client, name); err != nil {
			return fmt.Errorf("remove pod %s: %w", name, err)
		}
	}
	r.seconds("pod", "create a pod until it is Ready", took, noBudget)
	return nil
}

func startPod(ctx context.Context, client kubernetes.Interface, name string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pods := client.CoreV1().Pods(metav1.NamespaceDefault)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](0),
			Containers: []corev1.Container{{
				Name: "main", Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sleep", "3600"},
			}},
		},
	}
	if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return err
	}
	return await(ctx, func(ctx context.Context) (watch.Interface, error) { return pods.Watch(ctx, named(name)) }, podIsReady)
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
	var apis, readies []time.Duration
	for range h.options.runs {
		api, ready, err := h.start(ctx)
		if err != nil {
			return fmt.Errorf("start again: %w", err)
		}
		apis, readies = append(apis, api), append(readies, ready)
		if _, err := h.stop(ctx); err != nil {
			return fmt.Errorf("stop the server: %w", err)
		}
	}
	r.seconds("api-again", "start again to a serving API", apis, budget{1.5, 1.5})
	r.seconds("ready-again", "start again to a Ready Node", readies, budget{4, 2})
	return nil
}

func median(d []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[len(sorted)/2]
}
