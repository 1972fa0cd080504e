// SPDX-License-Identifier: Apache-2.0

// Package crds brings the Gateway API into a cluster: the CustomResourceDefinitions of the standard channel, and the policy
// that keeps others from replacing them by older or experimental ones.
//
// What is there already stays as it is. Where a user has brought the API in another version or channel, nothing is added to it. What an
// older Skiff has installed is brought up to date.
//
// Ten definitions, once they are served, cost the API server 30 MB of live memory (60 MB resident) and two seconds of a core. So
// nothing is installed before somebody uses the API: package apiserver/ondemand knows when that is, and until then shows clients what
// Discovery says.
package crds

import (
	"bufio"
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/util/wait"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	gatewayconsts "sigs.k8s.io/gateway-api/pkg/consts"
	"sigs.k8s.io/yaml"
)

// Group is the API group of the definitions.
const Group = "gateway.networking.k8s.io"

// The names of the embedded files.
const (
	File          = "standard.yaml.zst"
	DiscoveryFile = "discovery.json"
)

//go:embed files
var files embed.FS

// The label of what Skiff has installed.
const (
	managedBy = "app.kubernetes.io/managed-by"
	skiff     = "skiff"
)

// ErrMissing means that this binary was built without the definitions.
var ErrMissing = errors.New("built without the Gateway API: run make")

// Definitions is where CustomResourceDefinitions are.
var Definitions = apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions")

var resources = map[string]schema.GroupVersionResource{
	"CustomResourceDefinition":         Definitions,
	"ValidatingAdmissionPolicy":        {Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicies"},
	"ValidatingAdmissionPolicyBinding": {Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicybindings"},
}

// Discovery is what discovery says of the resources, best version first; nil if this binary was built without them.
func Discovery() ([]apidiscoveryv2.APIVersionDiscovery, error) {
	raw, err := files.ReadFile("files/" + DiscoveryFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []apidiscoveryv2.APIVersionDiscovery
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	if err != nil {
		return nil, fmt.Errorf("read the discovery of the Gateway API: %w", err)
	}
	return out, nil
}

// Objects returns all that belongs to the Gateway API, definitions first.
func Objects() ([]*unstructured.Unstructured, error) {
	packed, err := files.ReadFile("files/" + File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrMissing
	}
	if err != nil {
		return nil, err
	}
	decoder, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer decoder.Close()
	var definitions, others []*unstructured.Unstructured
	documents := utilyaml.NewYAMLReader(bufio.NewReader(decoder))
	for {
		raw, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return append(definitions, others...), nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the Gateway API: %w", err)
		}
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(raw, &object.Object); err != nil {
			return nil, fmt.Errorf("read the Gateway API: %w", err)
		}
		labels := object.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels[managedBy] = skiff
		object.SetLabels(labels)
		switch {
		case object.GetKind() == "":
		case object.GetKind() == "CustomResourceDefinition":
			definitions = append(definitions, object)
		default:
			others = append(others, object)
		}
	}
}

// Install creates what is missing, and returns when all of it is served. store has the cluster's CustomResourceDefinitions.
func Install(ctx context.Context, client dynamic.Interface, store cache.Store) error {
	objects, err := Objects()
	if err != nil {
		return err
	}
	foreign, err := foreignBundle(ctx, client, objects)
	if err != nil || foreign {
		return err
	}
	var definitions []string
	for _, object := range objects {
		resource, ok := resources[object.GetKind()]
		if !ok {
			return fmt.Errorf("install the Gateway API: %s is not expected in it", object.GetKind())
		}
		if resource == Definitions {
			definitions = append(definitions, object.GetName())
		}
		if _, err := client.Resource(resource).Create(ctx, object, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("install %s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	return await(ctx, store, definitions)
}

// await returns when definitions are served.
func await(ctx context.Context, store cache.Store, definitions []string) error {
	return wait.PollUntilContextCancel(ctx, 10*time.Millisecond, true, func(context.Context) (bool, error) {
		return !slices.ContainsFunc(definitions, func(name string) bool {
			obj, found, _ := store.GetByKey(name)
			crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition)
			return !found || !ok || !established(crd)
		}), nil
	})
}

// foreignBundle tells whether the user has brought the Gateway API in another version or channel than ours.
func foreignBundle(ctx context.Context, client dynamic.Interface, ours []*unstructured.Unstructured) (bool, error) {
	for _, object := range ours {
		if object.GetKind() != "CustomResourceDefinition" {
			continue
		}
		there, err := client.Resource(Definitions).Get(ctx, object.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("look for %s: %w", object.GetName(), err)
		}
		for _, annotation := range []string{gatewayconsts.BundleVersionAnnotation, gatewayconsts.ChannelAnnotation} {
			if there.GetAnnotations()[annotation] != object.GetAnnotations()[annotation] {
				return true, nil
			}
		}
	}
	return false, nil
}

// Upgrade brings what an older Skiff has installed up to date. Where any definition is somebody else's, or newer, or of another
// channel, all stays as it is.
func Upgrade(ctx context.Context, client dynamic.Interface) error {
	objects, err := Objects()
	if err != nil {
		return err
	}
	there := map[*unstructured.Unstructured]*unstructured.Unstructured{}
	for _, object := range objects {
		have, err := client.Resource(resources[object.GetKind()]).Get(ctx, object.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look for %s %s: %w", object.GetKind(), object.GetName(), err)
		}
		if !isOlder(have, object) {
			return nil
		}
		there[object] = have
	}
	for _, object := range objects {
		resource := client.Resource(resources[object.GetKind()])
		if have := there[object]; have != nil {
			object.SetResourceVersion(have.GetResourceVersion())
			_, err = resource.Update(ctx, object, metav1.UpdateOptions{})
		} else {
			_, err = resource.Create(ctx, object, metav1.CreateOptions{})
		}
		if err != nil {
			return fmt.Errorf("bring %s %s up to date: %w", object.GetKind(), object.GetName(), err)
		}
	}
	return nil
}

// isOlder tells whether an object was installed by an older Skiff than this one.
func isOlder(have, ours *unstructured.Unstructured) bool {
	if have.GetLabels()[managedBy] != skiff || have.GetAnnotations()[gatewayconsts.ChannelAnnotation] != ours.GetAnnotations()[gatewayconsts.ChannelAnnotation] {
		return false
	}
	before, err := version.ParseSemantic(have.GetAnnotations()[gatewayconsts.BundleVersionAnnotation])
	if err != nil {
		return false
	}
	return before.LessThan(version.MustParseSemantic(ours.GetAnnotations()[gatewayconsts.BundleVersionAnnotation]))
}

// Installed tells whether the cluster serves the Gateway API.
func Installed(store cache.Store) bool { return find(store).usable() }
