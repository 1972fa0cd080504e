// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig/controller"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/encryption"
)

// writeKeys makes the file one that encrypts Secrets with the first of the keys, each named by a letter, and reads what the others wrote.
func writeKeys(t *testing.T, file, letters string) {
	t.Helper()
	var keys []string
	for _, letter := range letters {
		secret := base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(letter), 32)))
		keys = append(keys, fmt.Sprintf("{name: %c, secret: %q}", letter, secret))
	}
	content := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n" +
		"  - aescbc: {keys: [" + strings.Join(keys, ", ") + "]}\n"
	if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// failedReloads is how many files could not be used.
func failedReloads(t *testing.T) (n float64) {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "apiserver_encryption_config_controller_automatic_reloads_total" {
			continue
		}
		for _, metric := range family.Metric {
			if slices.ContainsFunc(metric.Label, func(l *dto.LabelPair) bool { return l.GetName() == "status" && l.GetValue() == "failure" }) {
				n += metric.GetCounter().GetValue()
			}
		}
	}
	return n
}

// Keys are changed as the documentation says, while the server runs: the new one is made known, then used, then a StorageVersionMigration
// writes all anew, and the old one is taken away. Nothing is unreadable at any time, and nothing is left that the old key wrote.
func TestKeysAreRotated(t *testing.T) {
	old := controller.EncryptionConfigFileChangePollDuration
	controller.EncryptionConfigFileChangePollDuration = 20 * time.Millisecond
	t.Cleanup(func() { controller.EncryptionConfigFileChangePollDuration = old })
	file := filepath.Join(t.TempDir(), "encryption.yaml")
	writeKeys(t, file, "a")
	keys, err := encryption.Load(t.Context(), file, true)
	if err != nil {
		t.Fatal(err)
	}
	followed := make(chan struct{})
	go func() { defer close(followed); keys.Follow(t.Context()) }()
	t.Cleanup(func() { <-followed })
	var etcd *clientv3.Client
	c := serve(t, func(_ kubernetes.Interface, cfg *apiserver.Config) {
		etcd, cfg.Transformers, cfg.HealthChecks = cfg.Store.Client(), keys, keys.HealthChecks
	})
	c.control(c.deps())
	c.namespace("ns")
	ctx, n := t.Context(), 0
	write := func() {
		t.Helper()
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("s", n)}, StringData: map[string]string{"n": fmt.Sprint(n)}}
		if _, err := c.CoreV1().Secrets("ns").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		n++
	}
	// by counts what lies in etcd by the key that wrote it, and reads all.
	by := func() map[string]int {
		t.Helper()
		stored, err := etcd.Get(ctx, "/registry/secrets/ns/s", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, kv := range stored.Kvs {
			rest, encrypted := bytes.CutPrefix(kv.Value, []byte("k8s:enc:aescbc:v1:"))
			if !encrypted || bytes.Contains(kv.Value, []byte("Secret")) {
				t.Fatalf("%s is stored as %.40q", kv.Key, kv.Value)
			}
			name, _, _ := bytes.Cut(rest, []byte(":"))
			count[string(name)]++
		}
		for i := range n { // from etcd itself, not from the watch cache
			secret, err := c.CoreV1().Secrets("ns").Get(ctx, fmt.Sprint("s", i), metav1.GetOptions{})
			if err != nil || string(secret.Data["n"]) != fmt.Sprint(i) {
				t.Fatalf("Secret %d: %v, %v", i, secret.Data, err)
			}
		}
		return count
	}
	use := func(letters string) {
		t.Helper()
		writeKeys(t, file, letters)
		c.eventually("key "+letters[:1]+" is used", func(context.Context) error {
			before := by()[letters[:1]]
			write()
			if by()[letters[:1]] != before+1 {
				return fmt.Errorf("stored by %v", by())
			}
			return nil
		})
	}
	for range 20 {
		write()
	}
	use("ab") // a second server would have to know b before the first uses it
	use("ba")
	if count := by(); count["a"] < 20 || count["b"] == 0 {
		t.Errorf("stored by %v, want the old ones by a and a new one by b", count)
	}
	migration := &storagemigrationv1.StorageVersionMigration{
		ObjectMeta: metav1.ObjectMeta{Name: "rotate"}, Spec: storagemigrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Resource: "secrets"}},
	}
	if _, err := c.StoragemigrationV1().StorageVersionMigrations().Create(ctx, migration, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("all is written anew", func(ctx context.Context) error {
		m, err := c.StoragemigrationV1().StorageVersionMigrations().Get(ctx, "rotate", metav1.GetOptions{})
		if err != nil || !meta.IsStatusConditionTrue(m.Status.Conditions, string(storagemigrationv1.MigrationSucceeded)) {
			return fmt.Errorf("%+v, %w", m.Status, err)
		}
		return nil
	})
	if count := by(); count["b"] != n || len(count) != 1 {
		t.Errorf("stored by %v, want %d by b", count, n)
	}

	// A file that cannot be used changes nothing.
	failed := failedReloads(t)
	writeKeys(t, file, "")
	c.eventually("the file is looked at", func(context.Context) error {
		if failedReloads(t) == failed {
			return fmt.Errorf("it is not yet")
		}
		return nil
	})
	write()
	if count := by(); count["b"] != n {
		t.Errorf("after a broken file: stored by %v, want %d by b", count, n)
	}
	use("cb") // it is the reload that shows that a is gone
	writeKeys(t, file, "c")
	c.eventually("what b wrote cannot be read", func(ctx context.Context) error {
		if _, err := c.CoreV1().Secrets("ns").Get(ctx, "s0", metav1.GetOptions{}); err == nil {
			return fmt.Errorf("it can")
		}
		return nil
	})
	writeKeys(t, file, "cb")
	c.eventually("with b again it can", func(ctx context.Context) error {
		_, err := c.CoreV1().Secrets("ns").Get(ctx, "s0", metav1.GetOptions{})
		return err
	})
}
