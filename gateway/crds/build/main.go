// SPDX-License-Identifier: Apache-2.0

// Command build makes the file that package crds carries: `go run ./gateway/crds/build`, from the module's root. It holds the
// standard channel of the Gateway API in the version that go.mod names. Nothing is done when it is there already.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apimachinery/pkg/version"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/gateway/crds"
)

const (
	module = "sigs.k8s.io/gateway-api"
	files  = "gateway/crds/files"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bundle the Gateway API:", err)
		os.Exit(1)
	}
}

func run() error {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}} {{.Dir}}", module).Output()
	if err != nil {
		return fmt.Errorf("find module %s: %w", module, err)
	}
	bundle, dir, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	inputs := filepath.Join(files, "inputs") // the version that the file was made from
	if have, err := os.ReadFile(inputs); err == nil && string(have) == bundle {
		return nil
	}
	manifests, err := collect(filepath.Join(dir, "config", "crd", "standard"))
	if err != nil {
		return err
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(files, crds.File), encoder.EncodeAll(manifests, nil), 0o644); err != nil {
		return err
	}
	discovery, err := describe(manifests)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(files, crds.DiscoveryFile), discovery, 0o644); err != nil {
		return err
	}
	return os.WriteFile(inputs, []byte(bundle), 0o644)
}

// describe makes what discovery says of the resources, by version.
func describe(manifests []byte) ([]byte, error) {
	versions := map[string]*apidiscoveryv2.APIVersionDiscovery{}
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(manifests)))
	for {
		raw, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.Unmarshal(raw, &crd); err != nil {
			return nil, err
		}
		if crd.Kind != "CustomResourceDefinition" {
			continue
		}
		for _, v := range crd.Spec.Versions {
			if !v.Served {
				continue
			}
			if versions[v.Name] == nil {
				versions[v.Name] = &apidiscoveryv2.APIVersionDiscovery{Version: v.Name, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
			}
			versions[v.Name].Resources = append(versions[v.Name].Resources, resource(&crd, v))
		}
	}
	var all []apidiscoveryv2.APIVersionDiscovery
	for _, name := range slices.SortedFunc(maps.Keys(versions), func(a, b string) int { return version.CompareKubeAwareVersionStrings(b, a) }) {
		all = append(all, *versions[name])
	}
	return json.Marshal(all)
}

func resource(crd *apiextensionsv1.CustomResourceDefinition, v apiextensionsv1.CustomResourceDefinitionVersion) apidiscoveryv2.APIResourceDiscovery {
	kind := &metav1.GroupVersionKind{Group: crd.Spec.Group, Version: v.Name, Kind: crd.Spec.Names.Kind}
	out := apidiscoveryv2.APIResourceDiscovery{
		Resource: crd.Spec.Names.Plural, SingularResource: crd.Spec.Names.Singular, ResponseKind: kind,
		Scope: apidiscoveryv2.ResourceScope(crd.Spec.Scope), ShortNames: crd.Spec.Names.ShortNames, Categories: crd.Spec.Names.Categories,
		Verbs: []string{"delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"},
	}
	if out.Scope == "Namespaced" {
		out.Scope = apidiscoveryv2.ScopeNamespace
	}
	if v.Subresources != nil && v.Subresources.Status != nil {
		out.Subresources = []apidiscoveryv2.APISubresourceDiscovery{{Subresource: "status", ResponseKind: kind, Verbs: []string{"get", "patch", "update"}}}
	}
	return out
}

// collect joins the manifests of a folder to one stream of YAML documents.
func collect(dir string) ([]byte, error) {
	var all bytes.Buffer
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list manifests: %w", err)
	}
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) != ".yaml" || entry.Name() == "kustomization.yaml" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("read manifest: %w", err)
		}
		fmt.Fprintf(&all, "---\n%s\n", content)
	}
	if all.Len() == 0 {
		return nil, errors.Join(fmt.Errorf("no manifests in %s", dir), fs.ErrNotExist)
	}
	return all.Bytes(), nil
}
