// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig/controller"
	"k8s.io/client-go/dynamic"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/encryption"
	"github.com/skiff-k8s/skiff/testenv"
)

// key is a secret of 32 bytes, as an EncryptionConfiguration has it.
func key(letter string) string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(letter, 32)))
}

func encryptionFile(t *testing.T, file, providers string) {
	t.Helper()
	content := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, widgets.example.com]\n  providers:\n" + providers
	if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// What the file names is encrypted in etcd, built in or not; keys change while the server runs, what was
// written with an old one is read, and is written with the new one when it is next written.
func TestEncryptionAtRest(t *testing.T) {
	old := controller.EncryptionConfigFileChangePollDuration
	controller.EncryptionConfigFileChangePollDuration = 20 * time.Millisecond
	t.Cleanup(func() { controller.EncryptionConfigFileChangePollDuration = old })
	file := filepath.Join(t.TempDir(), "encryption.yaml")
	ring := func(provider, names string) string {
		var keys []string
		for name := range strings.FieldsSeq(names) {
			keys = append(keys, fmt.Sprintf("{name: %s, secret: %q}", name, key(name[:1])))
		}
		return "  - " + provider + ": {keys: [" + strings.Join(keys, ", ") + "]}\n"
	}
	encryptionFile(t, file, ring("aescbc", "a")+"  - identity: {}\n")
	keys, err := encryption.Load(t.Context(), file, true)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	env := testenv.Start(t, testenv.Dir(dir), testenv.Configure(func(c *apiserver.Config) { c.Transformers, c.HealthChecks = keys, keys.HealthChecks }))
	done := make(chan struct{})
	go func() { defer close(done); keys.Follow(t.Context()) }()
	t.Cleanup(func() { <-done })
	ctx, secrets := t.Context(), env.Client.CoreV1().Secrets("default")
	stored := func(path string) []byte {
		t.Helper()
		response, err := env.Store.Client().Get(ctx, "/registry/"+path)
		if err != nil || len(response.Kvs) != 1 {
			t.Fatalf("read /registry/%s: %v, %v", path, response, err)
		}
		return response.Kvs[0].Value
	}
	write := func(name, value string) {
		t.Helper()
		secret, err := secrets.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"k": value}}, metav1.CreateOptions{})
		} else if err == nil {
			secret.StringData = map[string]string{"k": value}
			_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write("s", "hidden-treasure")
	if raw := stored("secrets/default/s"); !bytes.HasPrefix(raw, []byte("k8s:enc:aescbc:v1:a:")) || bytes.Contains(raw, []byte("treasure")) {
		t.Errorf("stored %q, want it encrypted with key a", raw)
	}
	define(t, env.Config, widgetDefinition())
	if _, err := dynamic.NewForConfigOrDie(env.Config).Resource(widgets).Namespace("default").Create(ctx, widget("w", 3), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if raw := stored("example.com/widgets/default/w"); !bytes.HasPrefix(raw, []byte("k8s:enc:aescbc:v1:a:")) {
		t.Errorf("the custom resource is stored as %q, want it encrypted", raw)
	}
	if _, err := env.Client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if raw := stored("configmaps/default/c"); !bytes.HasPrefix(raw, []byte("k8s\x00")) {
		t.Errorf("the ConfigMap is stored as %q, want it plain", raw)
	}

	known := ring("aescbc", "a")
	for provider, names := range map[string]string{"aesgcm": "b", "secretbox": "c"} {
		known = ring(provider, names) + known
		encryptionFile(t, file, known)
		n := 0
		eventually(t, "the key of "+provider, func() error {
			n++
			write("s", fmt.Sprintf("%s-%d", provider, n))
			if raw := stored("secrets/default/s"); !bytes.HasPrefix(raw, []byte("k8s:enc:"+provider+":v1:"+names+":")) {
				return fmt.Errorf("stored %.40q", raw)
			}
			return nil
		})
	}
	// Back to the first key, with all of them known: what each wrote is read by a new server, from etcd.
	write("t", "by the last")
	env.Stop()
	encryptionFile(t, file, ring("aescbc", "a")+ring("aesgcm", "b")+ring("secretbox", "c"))
	again, err := encryption.Load(t.Context(), file, false)
	if err != nil {
		t.Fatal(err)
	}
	second := testenv.Start(t, testenv.Dir(dir), testenv.Configure(func(c *apiserver.Config) { c.Transformers = again }))
	secret, err := second.Client.CoreV1().Secrets("default").Get(ctx, "t", metav1.GetOptions{})
	if err != nil || string(secret.Data["k"]) != "by the last" {
		t.Errorf("read by a new server: %v, %v", secret, err)
	}
}

// Requests are recorded as the policy says.
func TestAuditLog(t *testing.T) {
	dir := t.TempDir()
	policy, log := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "audit.log")
	const rules = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, resources: [{group: "", resources: [secrets]}]}
- {level: RequestResponse, verbs: [create], resources: [{group: "", resources: [configmaps]}]}
- {level: None}
`
	if err := os.WriteFile(policy, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	audit := options.NewAuditOptions()
	audit.PolicyFile, audit.LogOptions.Path = policy, log
	if errs := audit.Validate(); len(errs) > 0 {
		t.Fatal(errs)
	}
	env := testenv.Start(t, testenv.Configure(func(c *apiserver.Config) { c.Audit = audit }))
	ctx, core := t.Context(), env.Client.CoreV1()
	if _, err := core.Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "treasure"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := core.ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Data: map[string]string{"k": "public"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := core.ConfigMaps("default").Get(ctx, "c", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	env.Stop() // which writes what was recorded
	file, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got := map[string]auditv1.Event{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var event auditv1.Event
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			t.Fatal(err)
		}
		got[event.Verb+" "+event.ObjectRef.Resource] = event
	}
	if len(got) != 2 {
		t.Errorf("recorded %v, want two creates", got)
	}
	secret, config := got["create secrets"], got["create configmaps"]
	if secret.User.Username != "admin" || secret.RequestObject != nil || secret.ResponseStatus.Code != 201 {
		t.Errorf("the Secret: %+v; want who created it, and not what is in it", secret)
	}
	if config.RequestObject == nil || !strings.Contains(string(config.ResponseObject.Raw), "public") {
		t.Errorf("the ConfigMap: %+v; want what was sent and answered", config)
	}
}
