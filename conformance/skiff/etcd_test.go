// SPDX-License-Identifier: Apache-2.0

package skiff

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/test/integration/etcd"
)

// later are resources that upstream still writes in a beta version, for the release before it to read. Skiff has
// no release before it, and writes the version that is to stay; upstream 1.37 reads both.
var later = map[string]string{
	"clustertrustbundles": "v1", "podcertificaterequests": "v1", "devicetaintrules": "v1", "storageversionmigrations": "v1",
}

// database is where a server keeps its objects, as a path in its host.
const database = "/var/lib/skiff/server/db/member/snap/db"

// Objects MUST lie in etcd under the keys, in the encoding and in the version that upstream's kube-apiserver has for
// them, for it to open our data and for us to open its. What upstream has is what its own test of that says.
func TestEtcdLayout(t *testing.T) {
	const namespace = "layout"
	b := ownCluster(t, nil)
	b.namespace(namespace)
	expected := etcd.GetEtcdStorageDataForNamespace(namespace)
	kinds := b.kinds()
	stored := map[schema.GroupVersionResource]schema.GroupVersionKind{}
	for _, gvr := range slices.SortedFunc(maps.Keys(expected), compareResources) {
		kind, served := kinds[gvr]
		if !served {
			if strings.HasSuffix(gvr.Group, ".com") || strings.Contains(gvr.Version, "alpha") || strings.Contains(gvr.Version, "beta") {
				continue // upstream's test has custom resources of its own; the others are off by default
			}
			t.Errorf("%s is not served", gvr)
			continue
		}
		want := expected[gvr]
		path := "/apis/" + gvr.Group
		if gvr.Group == "" {
			path = "/api"
		}
		path += "/" + gvr.Version
		if strings.Contains(want.ExpectedEtcdPath, "/"+namespace+"/") {
			path += "/namespaces/" + namespace
		}
		if _, err := b.try(t.Context(), want.Stub, "create", "--raw", path+"/"+gvr.Resource, "-f", "-"); err != nil {
			t.Errorf("create %s: %v", gvr, err)
			continue
		}
		stored[gvr] = gvr.GroupVersion().WithKind(kind)
		if want.ExpectedGVK != nil {
			stored[gvr] = *want.ExpectedGVK
		}
		if version, ok := later[gvr.Resource]; ok {
			stored[gvr] = stored[gvr].GroupKind().WithVersion(version)
		}
	}
	if err := b.own.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := readDatabase(t, filepath.Join(b.own.Host().Path(database)))
	for _, gvr := range slices.SortedFunc(maps.Keys(stored), compareResources) {
		value, ok := all[expected[gvr].ExpectedEtcdPath]
		if !ok {
			t.Errorf("%s: nothing lies under %s", gvr, expected[gvr].ExpectedEtcdPath)
			continue
		}
		if got, want := envelope(value), wantEnvelope(stored[gvr]); got != want {
			t.Errorf("%s lies under %s as %s, want %s", gvr, expected[gvr].ExpectedEtcdPath, got, want)
		}
	}
	if len(stored) < 60 {
		t.Errorf("looked at %d resources only", len(stored))
	}
}

func compareResources(x, y schema.GroupVersionResource) int {
	return cmp.Or(strings.Compare(x.Group, y.Group), strings.Compare(x.Version, y.Version), strings.Compare(x.Resource, y.Resource))
}

// kinds asks the API which resources there are.
func (b *bench) kinds() map[schema.GroupVersionResource]string {
	b.t.Helper()
	kinds := map[schema.GroupVersionResource]string{}
	for version := range strings.FieldsSeq(b.kubectl("", "api-versions")) {
		gv, err := schema.ParseGroupVersion(version)
		if err != nil {
			b.t.Fatal(err)
		}
		path := "/apis/" + version
		if gv.Group == "" {
			path = "/api/" + version
		}
		var list struct {
			Resources []struct{ Name, Kind string }
		}
		if err := json.Unmarshal([]byte(b.kubectl("", "get", "--raw", path)), &list); err != nil {
			b.t.Fatal(err)
		}
		for _, r := range list.Resources {
			kinds[gv.WithResource(r.Name)] = r.Kind
		}
	}
	return kinds
}

// readDatabase reads the last value of each key, without etcd.
func readDatabase(t *testing.T, path string) map[string][]byte {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	all := map[string][]byte{}
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("key")).ForEach(func(revision, raw []byte) error { // in the order of revisions
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(raw, &kv); err != nil {
				return fmt.Errorf("read revision %x: %w", revision, err)
			}
			if tombstone := bytes.HasSuffix(revision, []byte("t")) && len(revision) == 18; tombstone {
				delete(all, string(kv.Key))
			} else {
				all[string(kv.Key)] = kv.Value
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// envelope says how a value is encoded, and as what.
func envelope(value []byte) string {
	if raw, ok := bytes.CutPrefix(value, []byte("k8s\x00")); ok {
		var unknown runtime.Unknown
		if err := unknown.Unmarshal(raw); err != nil {
			return err.Error()
		}
		return fmt.Sprintf("protobuf %s %s", unknown.APIVersion, unknown.Kind)
	}
	var object runtime.TypeMeta
	if err := json.Unmarshal(value, &object); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("JSON %s %s", object.APIVersion, object.Kind)
}

// wantEnvelope is protobuf, but for the two groups whose servers upstream has from elsewhere.
func wantEnvelope(gvk schema.GroupVersionKind) string {
	encoding := "protobuf"
	if gvk.Group == "apiextensions.k8s.io" || gvk.Group == "apiregistration.k8s.io" {
		encoding = "JSON"
	}
	return encoding + " " + gvk.GroupVersion().String() + " " + gvk.Kind
}
