// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/pki"
	"github.com/skiff-k8s/skiff/testenv"
)

// What aggregated API servers are told of users is current: another authority is in it, and what somebody changes or
// deletes comes back.
func TestAuthenticationIsKept(t *testing.T) {
	env := testenv.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	dir := t.TempDir()
	keys, err := pki.New(pki.Config{Dir: dir, NodeName: "n"})
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.New(pki.Config{Dir: t.TempDir(), NodeName: "n"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := env.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := publishAuthentication(ctx, env.Client, keys); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	go func() { done <- keys.Follow(ctx) }()
	go func() { done <- keepAuthentication(ctx, env.Client, keys) }()
	defer func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}()
	configMaps := env.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	await := func(what, want string, change func(m *corev1.ConfigMap)) {
		t.Helper()
		for ctx.Err() == nil {
			m, err := configMaps.Get(ctx, authenticationInfo, metav1.GetOptions{})
			if err == nil && m.Data["client-ca-file"] == want && m.Data["x"] == "" {
				return
			}
			change(m) // again: it may not be watched yet
			time.Sleep(50 * time.Millisecond)
		}
		t.Fatal(what)
	}
	own := string(keys.ClientCA.PEM())
	both := own + string(other.ClientCA.PEM())
	await("another authority is not in it", both, func(*corev1.ConfigMap) {
		if err := os.WriteFile(filepath.Join(dir, "client-ca.crt"), []byte(both), 0o644); err != nil {
			t.Fatal(err)
		}
	})
	m, err := configMaps.Get(ctx, authenticationInfo, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.Data["x"], m.Data["client-ca-file"] = "y", "nonsense"
	if _, err := configMaps.Update(ctx, m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	await("a change stays", both, func(*corev1.ConfigMap) {})
	if err := configMaps.Delete(ctx, authenticationInfo, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await("it stays away", both, func(*corev1.ConfigMap) {})
}
