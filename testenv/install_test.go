// SPDX-License-Identifier: Apache-2.0

package testenv_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/skiff-k8s/skiff/testenv"
	"github.com/skiff-k8s/skiff/testenv/controllers"
)

// serveWebhooks is what a user's webhook server does with what Env says.
func serveWebhooks(t *testing.T, env *testenv.Env, handler http.Handler) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(env.Webhooks.CertDir, "tls.crt"), filepath.Join(env.Webhooks.CertDir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", net.JoinHostPort(env.Webhooks.Host, strconv.Itoa(env.Webhooks.Port)), &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

// Definitions in a folder serve when Start returns, and webhooks find the test's own server.
func TestInstall(t *testing.T) {
	env := testenv.Start(t, testenv.CRDs("testdata"), testenv.Webhooks("testdata/crds.yaml"))
	ctx := t.Context()
	tools := dynamic.NewForConfigOrDie(env.Config).Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "tools"})
	if list, err := tools.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("tools: %v, %v; want none", list, err)
	}
	gadgets := dynamic.NewForConfigOrDie(env.Config).Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "gadgets"}).Namespace("default")
	gadget := func(name string, size int64) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": map[string]any{"name": name}, "size": size}}
	}
	serveWebhooks(t, env, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: !strings.HasPrefix(review.Request.Name, "bad"), Result: &metav1.Status{Message: "by " + r.URL.Path}}
		_ = json.NewEncoder(w).Encode(review)
	}))
	if _, err := gadgets.Create(ctx, gadget("small", 0), metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a size below the minimum: %v, want Invalid", err)
	}
	eventually(t, func() error { // the webhook is known soon
		name := fmt.Sprintf("bad%d", time.Now().UnixNano())
		_, err := gadgets.Create(ctx, gadget(name, 1), metav1.CreateOptions{})
		if err == nil || !strings.Contains(err.Error(), `admission webhook "critic.example.com" denied the request: by /critic`) {
			return fmt.Errorf("create %s: %w", name, err)
		}
		return nil
	})
	if _, err := gadgets.Create(ctx, gadget("good", 1), metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
}

// With the controllers, dependents go with their owner, and namespaces with what is in them.
func TestControllers(t *testing.T) {
	env := testenv.Start(t)
	controllers.Run(t, env)
	ctx, core := t.Context(), env.Client.CoreV1()
	owner, err := core.ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dependent := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "dependent", OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: owner.UID}}}}
	if _, err := core.ConfigMaps("default").Create(ctx, dependent, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := core.ConfigMaps("n").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := core.ConfigMaps("default").Delete(ctx, "owner", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := core.Namespaces().Delete(ctx, "n", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	gone := func(what string, err error) error {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%s is there: %w", what, err)
	}
	eventually(t, func() error {
		_, err := core.ConfigMaps("default").Get(ctx, "dependent", metav1.GetOptions{})
		return gone("the dependent", err)
	})
	eventually(t, func() error {
		_, err := core.Namespaces().Get(ctx, "n", metav1.GetOptions{})
		return gone("the namespace", err)
	})
}

func eventually(t *testing.T, ask func() error) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
