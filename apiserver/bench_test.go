// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	restclient "k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/testenv"
)

// From nothing to the first object that a client has written.
func BenchmarkStart(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		env := testenv.Start(b, testenv.Dir(b.TempDir()))
		if _, err := env.Client.CoreV1().ConfigMaps("default").Create(b.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		env.Stop()
		b.StartTimer()
	}
}

// The requests of clients in this process, with flow control and admission, on an etcd that does not wait for
// the disk.
func BenchmarkRequests(b *testing.B) {
	env := testenv.Start(b, testenv.Admission("ServiceAccount"), testenv.Configure(func(c *apiserver.Config) { c.MaxInFlight = 600 }))
	ctx, pods := b.Context(), env.Client.CoreV1().Pods("default")
	for i := range 500 {
		if _, err := pods.Create(ctx, benchPod(fmt.Sprintf("pod-%d", i)), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	n := 0
	create := func(b *testing.B) {
		n++
		if _, err := pods.Create(ctx, benchPod(fmt.Sprintf("new-%d", n)), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	transport, err := restclient.TransportFor(env.Config)
	if err != nil {
		b.Fatal(err)
	}
	list := func(accept string) func(*testing.B) {
		return func(b *testing.B) {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, env.Config.Host+"/api/v1/namespaces/default/pods?resourceVersion=0&fieldSelector=spec.nodeName%3D", nil)
			if err != nil {
				b.Fatal(err)
			}
			request.Header.Set("Accept", accept)
			response, err := transport.RoundTrip(request)
			if err != nil {
				b.Fatal(err)
			}
			size, err := io.Copy(io.Discard, response.Body)
			if err != nil || response.StatusCode != http.StatusOK {
				b.Fatal(size, err, response.Status)
			}
			_ = response.Body.Close()
		}
	}
	for _, c := range []struct {
		name string
		ask  func(*testing.B)
	}{
		{"Get", func(b *testing.B) {
			if _, err := pods.Get(ctx, "pod-7", metav1.GetOptions{}); err != nil {
				b.Fatal(err)
			}
		}},
		{"List500JSON", list("application/json")},
		{"List500Protobuf", list("application/vnd.kubernetes.protobuf")},
		{"List500Table", list("application/json;as=Table;v=v1;g=meta.k8s.io")},
		{"Patch", func(b *testing.B) {
			n++
			body := fmt.Appendf(nil, `{"metadata":{"annotations":{"n":"%d"}}}`, n)
			if _, err := pods.Patch(ctx, "pod-7", types.StrategicMergePatchType, body, metav1.PatchOptions{}); err != nil {
				b.Fatal(err)
			}
		}},
		{"Apply", func(b *testing.B) {
			n++
			if _, err := pods.Apply(ctx, applycorev1.Pod("pod-8", "default").WithAnnotations(map[string]string{"n": fmt.Sprint(n)}), metav1.ApplyOptions{FieldManager: "bench"}); err != nil {
				b.Fatal(err)
			}
		}},
		{"Create", create},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.ask(b)
			}
		})
	}
	b.Run("CreateWatchedBy20", func(b *testing.B) { watched(b, env, 20, create) })
}

// What a stored pod takes of memory: by itself, and with four versions of its status that watches may still ask for.
func BenchmarkMemoryOfPods(b *testing.B) {
	const pods = 1000
	env := testenv.Start(b)
	client, before := env.Client.CoreV1().Pods("default"), inUse()
	for i := range pods {
		if _, err := client.Create(b.Context(), benchPod(fmt.Sprintf("pod-%d", i)), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	created := inUse()
	for i := range 4 * pods {
		status := fmt.Appendf(nil, `{"status":{"phase":"Running","message":"%d"}}`, i)
		if _, err := client.Patch(b.Context(), fmt.Sprintf("pod-%d", i%pods), types.StrategicMergePatchType, status, metav1.PatchOptions{}, "status"); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(created-before)/pods, "B/pod")
	b.ReportMetric(float64(inUse()-created)/pods/4, "B/version")
}

// watched counts until all watchers have seen what was written.
func watched(b *testing.B, env *testenv.Env, watchers int, write func(*testing.B)) {
	list, err := env.Client.CoreV1().Pods("default").List(b.Context(), metav1.ListOptions{Limit: 1})
	if err != nil {
		b.Fatal(err)
	}
	var seen []chan struct{}
	var running sync.WaitGroup
	for range watchers {
		w, err := env.Client.CoreV1().Pods("default").Watch(b.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			b.Fatal(err)
		}
		events := make(chan struct{}, 1000)
		seen = append(seen, events)
		running.Go(func() {
			for range w.ResultChan() {
				events <- struct{}{}
			}
		})
		defer w.Stop()
	}
	b.ReportAllocs()
	for b.Loop() {
		write(b)
		for _, events := range seen {
			<-events
		}
	}
}

func benchPod(name string) *corev1.Pod {
	env := []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
	mounts := []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "bench", "name": name}},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{
				{Name: "a", Image: "registry.example/a:1", Env: env, VolumeMounts: mounts, Ports: []corev1.ContainerPort{{ContainerPort: 80}}},
				{Name: "b", Image: "registry.example/b:1", Env: env, VolumeMounts: mounts},
			},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		},
	}
}
