// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/datastore"
	"github.com/skiff-k8s/skiff/testenv"
)

// newEndpoints is the part of a server of that address.
func newEndpoints(t *testing.T, env *testenv.Env, ip string) *apiEndpoints {
	t.Helper()
	info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !ok {
		t.Fatal("no protobuf")
	}
	codec := scheme.Codecs.CodecForVersions(info.Serializer, scheme.Codecs.UniversalDeserializer(), corev1.SchemeGroupVersion, corev1.SchemeGroupVersion)
	leases, destroy, err := env.Store.Raw(corev1.Resource("apiServerIPInfo"), datastore.Layout{Codec: codec, KeyPrefix: apiserver.MasterLeasesPrefix},
		func() runtime.Object { return &corev1.Endpoints{} }, func() runtime.Object { return &corev1.EndpointsList{} }) //nolint:staticcheck // see apiserver.MasterLeases
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(destroy)
	return &apiEndpoints{client: env.Client, leases: leases, etcd: env.Store.Client(), own: netip.MustParseAddr(ip), port: 6443}
}

// awaitEndpoints waits until Endpoints and EndpointSlice have these addresses.
func awaitEndpoints(t *testing.T, env *testenv.Env, limit time.Duration, want ...string) {
	t.Helper()
	look := func() error {
		e, err := env.Client.CoreV1().Endpoints("default").Get(t.Context(), apiService, metav1.GetOptions{})
		if err != nil {
			return err
		}
		var got, sliced []string
		for _, a := range e.Subsets[0].Addresses {
			got = append(got, a.IP)
		}
		slice, err := env.Client.DiscoveryV1().EndpointSlices("default").Get(t.Context(), apiService, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, a := range slice.Endpoints {
			sliced = append(sliced, a.Addresses...)
		}
		if !slices.Equal(got, want) || !slices.Equal(sliced, want) || slice.AddressType != discoveryv1.AddressTypeIPv4 || *slice.Ports[0].Port != 6443 {
			return fmt.Errorf("endpoints %v, slice %v", got, sliced)
		}
		return nil
	}
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		err := look()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%v, want %v", err, want)
		}
	}
}

// A single server is the endpoint, without a lease. Of several each adds itself; one that ends takes itself away, and one that
// dies is taken away by another.
func TestEndpoints(t *testing.T) {
	env := testenv.Start(t)
	first, second, third := newEndpoints(t, env, "192.0.2.1"), newEndpoints(t, env, "192.0.2.2"), newEndpoints(t, env, "192.0.2.10")
	for range 2 {
		if err := first.publishOwn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	awaitEndpoints(t, env, 0, "192.0.2.1")
	if got, err := env.Store.Client().Get(t.Context(), "/registry/masterleases/192.0.2.1"); err != nil || got.Count != 0 {
		t.Errorf("a lease of a single server: %v, %v", got, err)
	}
	running, stop := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- first.run(running) }()
	if err := third.renew(t.Context()); err != nil { // once: it dies
		t.Fatal(err)
	}
	leaving, leave := context.WithCancel(t.Context())
	go func() { done <- second.run(leaving) }()
	awaitEndpoints(t, env, 10*time.Second, "192.0.2.1", "192.0.2.2", "192.0.2.10")
	if got, err := env.Store.Client().Get(t.Context(), "/registry/masterleases/192.0.2.2"); err != nil || got.Count != 1 || got.Kvs[0].Lease == 0 {
		t.Errorf("the lease of one of several: %v, %v", got, err)
	}
	leave()
	if err := <-done; err != nil {
		t.Error(err)
	}
	awaitEndpoints(t, env, 5*time.Second, "192.0.2.1", "192.0.2.10")
	awaitEndpoints(t, env, 40*time.Second, "192.0.2.1") // without a word: its lease runs out
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	awaitEndpoints(t, env, 0, "192.0.2.1") // there is always one
}
