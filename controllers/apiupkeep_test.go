// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A migration ends, says so, and the next one for the same resource runs after it.
func TestStorageVersionMigration(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	for i := range 3 {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m", i)}}
		if _, err := c.CoreV1().ConfigMaps("ns").Create(ctx, m, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, resource := range map[string]metav1.GroupResource{
		"one": {Resource: "configmaps"}, "two": {Resource: "configmaps"}, "bindings": {Resource: "bindings"},
	} {
		m := &storagemigrationv1.StorageVersionMigration{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagemigrationv1.StorageVersionMigrationSpec{Resource: resource}}
		if _, err := c.StoragemigrationV1().StorageVersionMigrations().Create(ctx, m, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]storagemigrationv1.MigrationConditionType{
		"one": storagemigrationv1.MigrationSucceeded, "two": storagemigrationv1.MigrationSucceeded, "bindings": storagemigrationv1.MigrationFailed,
	} {
		c.eventually(fmt.Sprintf("migration %s has %s", name, want), func(ctx context.Context) error {
			m, err := c.StoragemigrationV1().StorageVersionMigrations().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			running := meta.FindStatusCondition(m.Status.Conditions, string(storagemigrationv1.MigrationRunning))
			if !meta.IsStatusConditionTrue(m.Status.Conditions, string(want)) || running == nil || running.Reason != "MigrationCompleted" {
				return fmt.Errorf("status is %+v", m.Status)
			}
			return nil
		})
	}
}

// An expression that does not fit its types is named in the status of its policy.
func TestValidatingAdmissionPolicyStatus(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
				RuleWithOperations: admissionregistrationv1.RuleWithOperations{
					Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
					Rule:       admissionregistrationv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
				},
			}}},
			Validations: []admissionregistrationv1.Validation{
				{Expression: "object.spec.replicas > 1"},
				{Expression: "object.spec.replicas > '1'"},
			},
		},
	}
	if _, err := c.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(ctx, policy, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("the policy is checked", func(ctx context.Context) error {
		p, err := c.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(ctx, "p", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if p.Status.ObservedGeneration != p.Generation || p.Status.TypeChecking == nil {
			return fmt.Errorf("status is %+v", p.Status)
		}
		warnings := p.Status.TypeChecking.ExpressionWarnings
		if len(warnings) != 1 || warnings[0].FieldRef != "spec.validations[1].expression" || !strings.Contains(warnings[0].Warning, "no matching overload") {
			t.Fatalf("warnings are %+v", warnings)
		}
		return nil
	})
}
