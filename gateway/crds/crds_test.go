// SPDX-License-Identifier: Apache-2.0

package crds

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apiextensionsinformers "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	gatewayconsts "sigs.k8s.io/gateway-api/pkg/consts"

	"github.com/skiff-k8s/skiff/testenv"
)

func definitions(t *testing.T, env *testenv.Env) (dynamic.Interface, cache.SharedIndexInformer) {
	factory := apiextensionsinformers.NewSharedInformerFactory(apiextensionsclient.NewForConfigOrDie(env.Config), 0)
	informer := factory.Apiextensions().V1().CustomResourceDefinitions().Informer()
	ctx, cancel := context.WithCancel(t.Context())
	factory.Start(ctx.Done())
	t.Cleanup(func() {
		cancel()
		factory.Shutdown()
	})
	factory.WaitForCacheSync(ctx.Done())
	return dynamic.NewForConfigOrDie(env.Config), informer
}

// What is shown before the API is installed is what is there afterwards.
func TestInstallation(t *testing.T) {
	env := testenv.Start(t)
	client, informer := definitions(t, env)
	if Installed(informer.GetStore()) {
		t.Fatal("it is installed from the beginning")
	}
	if err := Install(t.Context(), client, informer.GetStore()); err != nil {
		t.Fatal(err)
	}
	api := find(informer.GetStore())
	if !Installed(informer.GetStore()) || api.Bundle != gatewayconsts.BundleVersion {
		t.Errorf("installed is %+v", api)
	}
	for _, resource := range strings.Fields("gatewayclasses gateways listenersets httproutes grpcroutes tlsroutes tcproutes udproutes referencegrants backendtlspolicies") {
		if !api.Has(resource) {
			t.Errorf("%s are not served", resource)
		}
	}
	if _, err := client.Resource(resources["ValidatingAdmissionPolicyBinding"]).Get(t.Context(), "safe-upgrades.gateway.networking.k8s.io", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	promised, err := Discovery()
	if err != nil {
		t.Fatal(err)
	}
	var served []apidiscoveryv2.APIVersionDiscovery
	if err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		raw, err := env.Client.Discovery().RESTClient().Get().AbsPath("/apis").SetHeader("Accept", "application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList").Do(ctx).Raw()
		if err != nil {
			return false, err
		}
		var list apidiscoveryv2.APIGroupDiscoveryList
		if err := json.Unmarshal(raw, &list); err != nil {
			return false, err
		}
		for _, group := range list.Items {
			if group.Name == Group {
				served = group.Versions
			}
		}
		return equal(promised, served), nil
	}); err != nil {
		t.Errorf("promised is\n%+v\nserved is\n%+v", promised, served)
	}
}

// equal compares resources in any order.
func equal(a, b []apidiscoveryv2.APIVersionDiscovery) bool {
	sorted := func(in []apidiscoveryv2.APIVersionDiscovery) []apidiscoveryv2.APIVersionDiscovery {
		out := slices.Clone(in)
		for i := range out {
			out[i].Resources = slices.SortedFunc(slices.Values(out[i].Resources), func(x, y apidiscoveryv2.APIResourceDiscovery) int {
				return strings.Compare(x.Resource, y.Resource)
			})
		}
		return out
	}
	return apiequality.Semantic.DeepEqual(sorted(a), sorted(b))
}

// Where a user has brought another bundle, nothing is added to it, and nothing changed.
func TestUsersBundleStays(t *testing.T) {
	env := testenv.Start(t)
	client, informer := definitions(t, env)
	objects, err := Objects()
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		if object.GetName() == "gateways."+Group {
			annotations := object.GetAnnotations()
			annotations[gatewayconsts.BundleVersionAnnotation] = "v1.9.0"
			object.SetAnnotations(annotations)
			if _, err := client.Resource(Definitions).Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := Install(t.Context(), client, informer.GetStore()); err != nil {
		t.Fatal(err)
	}
	list, err := client.Resource(Definitions).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || list.Items[0].GetAnnotations()[gatewayconsts.BundleVersionAnnotation] != "v1.9.0" {
		t.Errorf("there are %d definitions", len(list.Items))
	}
}

// What an older Skiff has installed is brought up to date, with what it did not know; and nothing else is.
func TestUpgrade(t *testing.T) {
	env := testenv.Start(t)
	client, informer := definitions(t, env)
	if err := Install(t.Context(), client, informer.GetStore()); err != nil {
		t.Fatal(err)
	}
	const old = "v1.5.0"
	policies := client.Resource(resources["ValidatingAdmissionPolicyBinding"])
	change := func(name string, labels map[string]string, bundle string) {
		t.Helper()
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels, "annotations": map[string]string{gatewayconsts.BundleVersionAnnotation: bundle}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
			_, err := client.Resource(Definitions).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
			return err == nil, nil // the policy that forbids this is gone soon
		}); err != nil {
			t.Fatal(err)
		}
	}
	bundle := func(name string) string {
		t.Helper()
		crd, err := client.Resource(Definitions).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return crd.GetAnnotations()[gatewayconsts.BundleVersionAnnotation]
	}
	list, err := client.Resource(Definitions).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	objects, err := Objects()
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		if resource := resources[object.GetKind()]; resource != Definitions { // they may be missing, and forbid what follows
			if err := client.Resource(resource).Delete(t.Context(), object.GetName(), metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	ours := map[string]string{managedBy: skiff}
	for _, crd := range list.Items {
		change(crd.GetName(), ours, old)
	}

	// A user has taken one over.
	change("gateways."+Group, map[string]string{managedBy: "helm"}, old)
	if err := Upgrade(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	if got := bundle("httproutes." + Group); got != old {
		t.Errorf("a bundle of a user is made %s", got)
	}
	change("gateways."+Group, ours, "v9.0.0")
	if err := Upgrade(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	if got := bundle("httproutes." + Group); got != old {
		t.Errorf("a bundle that is newer in part is made %s", got)
	}

	change("gateways."+Group, ours, old)
	if err := client.Resource(Definitions).Delete(t.Context(), "udproutes."+Group, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		_, err := client.Resource(Definitions).Get(ctx, "udproutes."+Group, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := Upgrade(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gateways", "httproutes", "udproutes"} {
		if got := bundle(name + "." + Group); got != gatewayconsts.BundleVersion {
			t.Errorf("the definition of %s is of %s", name, got)
		}
	}
	if _, err := policies.Get(t.Context(), "safe-upgrades.gateway.networking.k8s.io", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}
