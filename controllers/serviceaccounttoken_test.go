// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A token Secret is filled, and goes with its account; the account's reference goes with the Secret.
func TestServiceAccountTokenSecrets(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	account, err := c.CoreV1().ServiceAccounts("ns").Create(ctx, &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Name: "sa"}, Secrets: []corev1.ObjectReference{{Name: "one"}, {Name: "other"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	create := func(name, account string) {
		t.Helper()
		_, err := c.CoreV1().Secrets("ns").Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: account}},
			Type:       corev1.SecretTypeServiceAccountToken,
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	create("one", "sa")
	create("two", "sa")
	create("lost", "nobody")
	filled := func(name string) {
		t.Helper()
		c.eventually("Secret "+name+" is filled", func(ctx context.Context) error {
			s, err := c.CoreV1().Secrets("ns").Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if string(s.Data["token"]) != "token of sa in "+name || string(s.Data["ca.crt"]) != "the CA" || string(s.Data["namespace"]) != "ns" ||
				s.Annotations[corev1.ServiceAccountUIDKey] != string(account.UID) {
				return fmt.Errorf("data is %q, annotations %q", s.Data, s.Annotations)
			}
			return nil
		})
	}
	gone := func(name string) {
		t.Helper()
		c.eventually("Secret "+name+" is gone", func(ctx context.Context) error {
			_, err := c.CoreV1().Secrets("ns").Get(ctx, name, metav1.GetOptions{})
			if err == nil {
				return errors.New("it is there")
			}
			if !apierrors.IsNotFound(err) {
				return err
			}
			return nil
		})
	}
	filled("one")
	filled("two")
	gone("lost")
	if err := c.CoreV1().Secrets("ns").Delete(ctx, "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("the account does not refer to it", func(ctx context.Context) error {
		sa, err := c.CoreV1().ServiceAccounts("ns").Get(ctx, "sa", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(sa.Secrets) != 1 || sa.Secrets[0].Name != "other" {
			return fmt.Errorf("it refers to %v", sa.Secrets)
		}
		return nil
	})
	if err := c.CoreV1().ServiceAccounts("ns").Delete(ctx, "sa", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	gone("two")
}
