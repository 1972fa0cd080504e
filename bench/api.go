// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	few        = 500 // pods in the smaller list
	apiClients = 16  // that ask at the same time
	jsonForm   = "application/json"
	tableForm  = "application/json;as=Table;v=v1;g=meta.k8s.io"
	protoForm  = "application/vnd.kubernetes.protobuf"
)

// api measures the API server of a control plane without a node, with so many pods that no scheduler takes.
func api(ctx context.Context, o options, r *results) error {
	h, err := newHost(o)
	if err != nil {
		return err
	}
	defer h.close()
	h.flags = []string{"--no-node"}
	took, err := h.startAPI(ctx)
	if err != nil {
		return err
	}
	r.add("api-start", "start of the control plane to a serving API", took.Seconds(), "s", budget{1.2, 1.2})
	if err := wait(ctx, o.settle); err != nil {
		return err
	}
	idle, err := usage(h.server.PID())
	if err != nil {
		return err
	}
	r.add("api-memory", "resident memory of the idle control plane", idle.resident()/mega, "MB", budget{110, 110})
	b, err := newAPIBench(ctx, h, r)
	if err != nil {
		return err
	}
	b.idle = idle
	for _, step := range []func(context.Context) error{b.fill, b.reads, b.writes, b.watches, b.after} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	_, err = h.stop(ctx)
	return err
}

// apiBench asks the API server and, beside it, the bare one.
type apiBench struct {
	h      *host
	r      *results
	client kubernetes.Interface
	server endpoint
	bare   endpoint
	idle   process      // before anything was asked
	n      atomic.Int64 // of the last object
}

// endpoint is a server as its clients see it, at one HTTP/2 connection.
type endpoint struct {
	url  string
	http *http.Client
}

func newAPIBench(ctx context.Context, h *host, r *results) (*apiBench, error) {
	config, err := h.config()
	if err != nil {
		return nil, err
	}
	b := &apiBench{h: h, r: r}
	b.server.url = config.Host
	if b.server.http, err = rest.HTTPClientFor(config); err != nil {
		return nil, err
	}
	if b.client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	for _, namespace := range []string{"few", "many", "new"} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
		if _, err := b.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
			return nil, err
		}
	}
	return b, b.startBare(ctx)
}

func (b *apiBench) startBare(ctx context.Context) error {
	if err := os.MkdirAll(b.h.Path(bareDir), 0o700); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	if _, err := b.h.Start(b.h.Command(ctx, program, "--bare", b.h.IP().String())); err != nil {
		return err
	}
	b.bare = endpoint{url: fmt.Sprintf("https://%s:%d", b.h.IP(), barePort), http: &http.Client{Transport: &http.Transport{
		DialContext: b.h.Dial, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // it is our own, in our own network namespace
	}}}
	deadline := time.Now().Add(patience)
	for {
		if err = b.bare.ask(ctx, http.MethodGet, "/get", "", "", nil); err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("start the bare server: %w", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// ask reads the answer, and looks at nothing but its code.
func (e endpoint) ask(ctx context.Context, method, path, accept, contentType string, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, method, e.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Accept", accept)
	request.Header.Set("Accept-Encoding", "identity") // as it is, in no time of the client
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := e.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer := io.Discard
	var text strings.Builder
	if response.StatusCode >= 300 {
		answer = &text
	}
	if _, err := io.Copy(answer, response.Body); err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s %s", method, path, response.Status, text.String())
	}
	return nil
}

// load lets clients ask at the same time, again and again for a while.
func (b *apiBench) load(ctx context.Context, clients int, ask func(ctx context.Context) error) (perSecond float64, took []time.Duration, err error) {
	begin := time.Now()
	end := begin.Add(time.Duration(b.h.options.apiSeconds) * time.Second)
	var mu sync.Mutex // guards took
	group, ctx := errgroup.WithContext(ctx)
	for range clients {
		group.Go(func() error {
			var mine []time.Duration
			for time.Now().Before(end) || len(mine) == 0 {
				asked := time.Now()
				if err := ask(ctx); err != nil {
					return err
				}
				mine = append(mine, time.Since(asked))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
			return nil
		})
	}
	err = group.Wait()
	return float64(len(took)) / time.Since(begin).Seconds(), took, err
}

// compare measures the same of both servers.
func (b *apiBench) compare(ctx context.Context, key, name string, clients int, ask, askBare func(ctx context.Context) error) error {
	before, err := usage(b.h.server.PID())
	if err != nil {
		return err
	}
	rate, took, err := b.load(ctx, clients, ask)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	after, err := usage(b.h.server.PID())
	if err != nil {
		return err
	}
	bare, _, err := b.load(ctx, clients, askBare)
	if err != nil {
		return fmt.Errorf("%s, bare: %w", name, err)
	}
	slices.Sort(took)
	b.r.add(key, name, rate, "/s", noBudget)
	b.r.add(key+"-p50", "  median", took[len(took)/2].Seconds()*1000, "ms", noBudget)
	b.r.add(key+"-p99", "  of a hundred the slowest", took[len(took)*99/100].Seconds()*1000, "ms", noBudget)
	b.r.add(key+"-cpu", "  CPU time of the server for each", (after.cpu-before.cpu).Seconds()*1000/float64(len(took)), "ms", noBudget)
	b.r.add(key+"-bare", "  bare server", bare, "/s", noBudget)
	return nil
}

// fill makes the pods, and says what memory they take.
func (b *apiBench) fill(ctx context.Context) error {
	before, err := usage(b.h.server.PID())
	if err != nil {
		return err
	}
	begin := time.Now()
	for namespace, n := range map[string]int{"few": few, "many": b.h.options.api} {
		if err := inParallel(ctx, n, func(ctx context.Context, i int) error {
			_, err := b.client.CoreV1().Pods(namespace).Create(ctx, apiPod(namespace, fmt.Sprint("pod-", i)), metav1.CreateOptions{})
			return err
		}); err != nil {
			return fmt.Errorf("create pods: %w", err)
		}
	}
	n := float64(few + b.h.options.api)
	b.r.add("api-fill", fmt.Sprintf("create %.0f pods", n), n/time.Since(begin).Seconds(), "/s", noBudget)
	if err := wait(ctx, b.h.options.settle); err != nil {
		return err
	}
	after, err := usage(b.h.server.PID())
	if err != nil {
		return err
	}
	b.r.add("api-memory-pod", "memory for each of them", (after.resident()-before.resident())/1024/n, "kB", noBudget)
	return nil
}

func (b *apiBench) reads(ctx context.Context) error {
	read := func(e endpoint, path, accept string) func(ctx context.Context) error {
		return func(ctx context.Context) error { return e.ask(ctx, http.MethodGet, path, accept, "", nil) }
	}
	for _, c := range []struct {
		key, name, path, accept, bare string
		clients                       int
	}{
		{"api-get", "get a pod", "/api/v1/namespaces/few/pods/pod-7", jsonForm, "/get", apiClients},
		{"api-get-proto", "get a pod, protobuf", "/api/v1/namespaces/few/pods/pod-7", protoForm, "/get", apiClients},
		{"api-list-few", "list 500 pods, JSON", "/api/v1/namespaces/few/pods", jsonForm, "/list?n=500", 4},
		{"api-list-few-proto", "list 500 pods, protobuf", "/api/v1/namespaces/few/pods", protoForm, "/list?n=500", 4},
		{"api-list-few-table", "list 500 pods, Table", "/api/v1/namespaces/few/pods", tableForm, "/list?n=500", 4},
		{"api-list-many", "list all pods of a namespace, JSON", "/api/v1/namespaces/many/pods", jsonForm, fmt.Sprint("/list?n=", b.h.options.api), 2},
		{"api-list-many-proto", "list all pods of a namespace, protobuf", "/api/v1/namespaces/many/pods", protoForm, fmt.Sprint("/list?n=", b.h.options.api), 2},
		{"api-list-many-table", "list all pods of a namespace, Table", "/api/v1/namespaces/many/pods", tableForm, fmt.Sprint("/list?n=", b.h.options.api), 2},
	} {
		if err := b.compare(ctx, c.key, c.name, c.clients, read(b.server, c.path, c.accept), read(b.bare, c.bare, jsonForm)); err != nil {
			return err
		}
	}
	return nil
}

// writes lets each client have an object of its own, so that there are no conflicts.
func (b *apiBench) writes(ctx context.Context) error {
	const maps = "/api/v1/namespaces/new/configmaps"
	pod := func(name string) []byte { return asJSON(apiPod("new", name)) }
	var mu sync.Mutex
	free := []int{} // objects that no client works on; guarded by mu
	for i := range apiClients {
		free = append(free, i)
		if err := b.server.ask(ctx, http.MethodPost, "/api/v1/namespaces/new/pods", jsonForm, jsonForm, pod(fmt.Sprint("mine-", i))); err != nil {
			return err
		}
		if err := b.server.ask(ctx, http.MethodPost, maps, jsonForm, jsonForm, configMap(i, 0)); err != nil {
			return err
		}
	}
	mine := func(do func(ctx context.Context, i int, n int64) error) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			mu.Lock()
			i := free[0]
			free = free[1:]
			mu.Unlock()
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				free = append(free, i)
			}()
			return do(ctx, i, b.n.Add(1))
		}
	}
	bareBody := pod("bare")
	put := func(ctx context.Context) error {
		return b.bare.ask(ctx, http.MethodPut, fmt.Sprint("/put/", b.n.Add(1)), "", jsonForm, bareBody)
	}
	for _, c := range []struct {
		key, name string
		do        func(ctx context.Context, i int, n int64) error
	}{
		{"api-create", "create a pod", func(ctx context.Context, _ int, n int64) error {
			return b.server.ask(ctx, http.MethodPost, "/api/v1/namespaces/new/pods", jsonForm, jsonForm, pod(fmt.Sprint("new-", n)))
		}},
		{"api-update", "update a ConfigMap", func(ctx context.Context, i int, n int64) error {
			return b.server.ask(ctx, http.MethodPut, fmt.Sprint(maps, "/map-", i), jsonForm, jsonForm, configMap(i, n))
		}},
		{"api-patch", "patch a pod, strategically", func(ctx context.Context, i int, n int64) error {
			return b.server.ask(ctx, http.MethodPatch, fmt.Sprint("/api/v1/namespaces/new/pods/mine-", i), jsonForm, "application/strategic-merge-patch+json",
				fmt.Appendf(nil, `{"metadata":{"annotations":{"n":"%d"}}}`, n))
		}},
		{"api-apply", "apply to a pod", func(ctx context.Context, i int, n int64) error {
			return b.server.ask(ctx, http.MethodPatch, fmt.Sprint("/api/v1/namespaces/new/pods/mine-", i, "?fieldManager=bench"), jsonForm, "application/apply-patch+yaml",
				fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"mine-%d","annotations":{"applied":"%d"}}}`, i, n))
		}},
	} {
		if err := b.compare(ctx, c.key, c.name, apiClients, mine(c.do), put); err != nil {
			return err
		}
	}
	return nil
}

// watches has a pod created again and again when all watchers have seen the last.
func (b *apiBench) watches(ctx context.Context) error {
	for _, watchers := range []int{20, 500} {
		if err := b.fanOut(ctx, watchers); err != nil {
			return fmt.Errorf("%d watchers: %w", watchers, err)
		}
	}
	return nil
}

func (b *apiBench) fanOut(ctx context.Context, watchers int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	list, err := b.client.CoreV1().Pods("new").List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	seen := make(chan struct{}, watchers)
	for range watchers {
		w, err := b.client.CoreV1().Pods("new").Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			return err
		}
		defer w.Stop()
		go func() {
			for e := range w.ResultChan() {
				if e.Type == watch.Added {
					seen <- struct{}{}
				}
			}
		}()
	}
	rate, took, err := b.load(ctx, 1, func(ctx context.Context) error {
		if err := b.server.ask(ctx, http.MethodPost, "/api/v1/namespaces/new/pods", jsonForm, jsonForm, asJSON(apiPod("new", fmt.Sprint("seen-", b.n.Add(1))))); err != nil {
			return err
		}
		for range watchers {
			select {
			case <-seen:
			case <-time.After(patience):
				return errors.New("not all have seen the pod")
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	key, name := fmt.Sprint("api-watch-", watchers), fmt.Sprintf("events seen by %d watchers, one pod after the other", watchers)
	b.r.add(key, name, rate*float64(watchers), "/s", noBudget)
	b.r.add(key+"-p50", "  create a pod until all have seen it (median)", median(took).Seconds()*1000, "ms", noBudget)
	return nil
}

// What a server has needed for a time of load it should have given back after a few minutes, all but half of what it had before.
const (
	muchAgain  = 1.5
	fewMinutes = 5 * time.Minute
)

// after says what memory is left in use, and what of it stays when all pods are gone. Pages of files count as resident, though the machine
// can have them back at any time: so those that are not are told apart.
func (b *apiBench) after(ctx context.Context) error {
	if err := wait(ctx, b.h.options.settle); err != nil {
		return err
	}
	loaded, err := usage(b.h.server.PID())
	if err != nil {
		return err
	}
	b.r.add("api-memory-after", "resident memory after all that", loaded.resident()/mega, "MB", noBudget)
	b.r.add("api-memory-after-anonymous", "  of it no pages of files", loaded.anonymous/mega, "MB", noBudget)
	for _, namespace := range []string{"few", "many", "new"} {
		if err := b.deletePods(ctx, namespace); err != nil {
			return err
		}
	}
	begin := time.Now()
	var empty process
	for {
		if empty, err = usage(b.h.server.PID()); err != nil {
			return err
		}
		if empty.anonymous <= muchAgain*b.idle.anonymous || time.Since(begin) > fewMinutes {
			break
		}
		if err := wait(ctx, 5); err != nil {
			return err
		}
	}
	b.r.add("api-memory-empty", "  and without the pods, in the end", empty.resident()/mega, "MB", noBudget)
	b.r.add("api-memory-empty-anonymous", "  of it no pages of files", empty.anonymous/mega, "MB", noBudget)
	b.r.add("api-memory-back", fmt.Sprintf("  time until that is %.1f times what it was before", muchAgain), time.Since(begin).Seconds(), "s", budget{later: fewMinutes.Seconds()})
	return nil
}

// deletePods asks again where they are more than one request gets through.
func (b *apiBench) deletePods(ctx context.Context, namespace string) error {
	for {
		err := b.client.CoreV1().Pods(namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, metav1.ListOptions{})
		if !apierrors.IsTimeout(err) || ctx.Err() != nil {
			return err
		}
	}
}

func asJSON(o any) []byte {
	raw, err := json.Marshal(o)
	if err != nil {
		panic(err) // it is one of ours
	}
	return raw
}

func configMap(i int, n int64) []byte {
	return fmt.Appendf(nil, `{"metadata":{"name":"map-%d"},"data":{"n":"%d","text":"some more of it"}}`, i, n)
}

// apiPod is a pod like many: two containers with a few settings, and a volume. It waits for a scheduler that is not there.
func apiPod(namespace, name string) *corev1.Pod {
	env := []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
	mounts := []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": "bench", "name": name}},
		Spec: corev1.PodSpec{
			SchedulerName: "none",
			Containers: []corev1.Container{
				{Name: "a", Image: "registry.example/a:1", Env: env, VolumeMounts: mounts, Ports: []corev1.ContainerPort{{ContainerPort: 80}}},
				{Name: "b", Image: "registry.example/b:1", Env: env, VolumeMounts: mounts},
			},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		},
	}
}
