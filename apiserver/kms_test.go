// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
	plugin "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/testing/v2"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/encryption"
	"github.com/skiff-k8s/skiff/testenv"
)

// kms are servers, one after the other, on the same data, whose keys a plugin keeps.
type kms struct {
	t         *testing.T
	dir, file string
	env       *testenv.Env
	stop      context.CancelFunc
}

func (k *kms) start() {
	k.t.Helper()
	ctx, stop := context.WithCancel(k.t.Context())
	keys, err := encryption.Load(ctx, k.file, true)
	if err != nil {
		k.t.Fatal(err)
	}
	k.env = testenv.Start(k.t, testenv.Dir(k.dir), testenv.Configure(func(c *apiserver.Config) { c.Transformers, c.HealthChecks = keys, keys.HealthChecks }))
	followed := make(chan struct{})
	go func() { defer close(followed); keys.Follow(ctx) }()
	k.stop = func() {
		k.env.Stop()
		stop()
		<-followed
	}
	k.t.Cleanup(k.stop)
}

// keyOf is the ID of the plugin's key that a Secret was written with, as etcd has it.
func (k *kms) keyOf(name string) string {
	k.t.Helper()
	response, err := k.env.Store.Client().Get(k.t.Context(), "/registry/secrets/default/"+name)
	if err != nil || len(response.Kvs) != 1 {
		k.t.Fatalf("read %s: %v, %v", name, response, err)
	}
	rest, ok := bytes.CutPrefix(response.Kvs[0].Value, []byte("k8s:enc:kms:v2:keeper:"))
	object := &kmstypes.EncryptedObject{}
	if !ok {
		k.t.Fatalf("%s is stored as %.60q", name, response.Kvs[0].Value)
	}
	if err := proto.Unmarshal(rest, object); err != nil {
		k.t.Fatal(err)
	}
	return object.GetKeyID()
}

func (k *kms) create(name string) {
	k.t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"k": "of " + name}}
	if _, err := k.env.Client.CoreV1().Secrets("default").Create(k.t.Context(), secret, metav1.CreateOptions{}); err != nil {
		k.t.Fatalf("create %s: %v", name, err)
	}
}

func (k *kms) read(name string) *corev1.Secret {
	k.t.Helper()
	secret, err := k.env.Client.CoreV1().Secrets("default").Get(k.t.Context(), name, metav1.GetOptions{})
	if err != nil || string(secret.Data["k"]) != "of "+name {
		k.t.Fatalf("read %s: %v, %v", name, secret.Data, err)
	}
	return secret
}

// The plugin that keeps the key is not needed for each request: the server goes on without it, and says so. A new server needs it for what
// was written before; when it has another key, what is written anew has that one.
func TestKeyManagementService(t *testing.T) {
	socket := filepath.Join("/tmp", fmt.Sprintf("skiff-kms-%d.sock", os.Getpid())) // a socket's path must be short
	k := &kms{t: t, dir: t.TempDir(), file: filepath.Join(t.TempDir(), "encryption.yaml")}
	encryptionFile(t, k.file, "  - kms: {apiVersion: v2, name: keeper, endpoint: unix://"+socket+", timeout: 3s}\n")
	keeper := plugin.NewBase64Plugin(t, socket)
	k.start()
	k.create("a")
	if key := k.keyOf("a"); key != "1" {
		t.Errorf("a is written with key %s, want 1", key)
	}

	keeper.EnterFailedState()
	k.create("b")
	k.read("a")
	keeper.ExitFailedState()
	keeper.CleanUp()
	k.create("c")
	k.read("b")
	eventually(t, "the server says that the keeper of keys is away", func() error {
		err := k.env.Client.CoreV1().RESTClient().Get().AbsPath("/healthz/kms-providers").MaxRetries(0).Do(t.Context()).Error()
		if err == nil || !strings.Contains(err.Error(), "KMS Provider keeper") {
			return fmt.Errorf("it says %v", err)
		}
		return nil
	})
	k.stop()

	keeper = plugin.NewBase64Plugin(t, socket)
	keeper.UpdateKeyID()
	k.start()
	for _, name := range []string{"a", "b", "c"} {
		secret := k.read(name)
		if key := k.keyOf(name); key != "1" {
			t.Errorf("%s is written with key %s before it is written anew", name, key)
		}
		if _, err := k.env.Client.CoreV1().Secrets("default").Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if key := k.keyOf(name); key != "2" {
			t.Errorf("%s is written with key %s, want 2", name, key)
		}
	}
}
