// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver"
)

// The audit log says which controller wrote what, by the names of their service accounts.
func TestControllersInTheAuditLog(t *testing.T) {
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, verbs: [create]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	audit := options.NewAuditOptions()
	audit.PolicyFile, audit.LogOptions.Path = policy, filepath.Join(dir, "audit.log")
	c := serve(t, func(_ kubernetes.Interface, cfg *apiserver.Config) { cfg.Audit = audit })
	t.Cleanup(c.control(c.deps()))
	c.namespace("ns")
	c.deployment("ns", "web", 1)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := c.CoreV1().Services("ns").Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("all are in the audit log", func(context.Context) error {
		writers := createdBy(t, audit.LogOptions.Path)
		for resource, want := range map[string]string{
			"replicasets": "deployment-controller", "pods": "replicaset-controller", "endpointslices": "endpointslice-controller",
			"endpoints": "endpoint-controller", "serviceaccounts": "service-account-controller",
		} {
			if want = "system:serviceaccount:kube-system:" + want; writers[resource] != want {
				return fmt.Errorf("%s were created by %q, want %q", resource, writers[resource], want)
			}
		}
		return nil
	})
}

// createdBy says who created the resources in an audit log.
func createdBy(t *testing.T, path string) map[string]string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	writers := map[string]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var event auditv1.Event
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			continue // is being written
		}
		if event.ObjectRef != nil && event.ObjectRef.Namespace == "ns" && event.ObjectRef.Subresource == "" {
			writers[event.ObjectRef.Resource] = event.User.Username
		}
	}
	return writers
}
