// SPDX-License-Identifier: Apache-2.0

package clustertrustbundle

import (
	"testing"
	"testing/synctest"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/controllers/metrics"
)

// There is one bundle of the signer, with the CA in it, whatever others do; bundles of other signers stay.
func TestOneBundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		outdated := bundle([]byte("old"))
		other := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
		c := controllertest.New(t, outdated, other)
		c.Run(New(c, c.Factory, []byte("new"), metrics.New().Bundles))
		want := bundle([]byte("new"))
		check := func(when string) {
			t.Helper()
			synctest.Wait()
			list, err := c.CertificatesV1().ClusterTrustBundles().List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			found := map[string]string{}
			for _, b := range list.Items {
				found[b.Name] = b.Spec.TrustBundle
			}
			if len(found) != 2 || found[want.Name] != "new" {
				t.Errorf("%s: bundles are %v", when, found)
			}
		}
		check("at the start")
		if err := c.CertificatesV1().ClusterTrustBundles().Delete(t.Context(), want.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		check("deleted by a user")
		spoiled := want.DeepCopy()
		spoiled.Spec.TrustBundle = "mine"
		if _, err := c.CertificatesV1().ClusterTrustBundles().Update(t.Context(), spoiled, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		check("changed by a user")
	})
}

func TestName(t *testing.T) {
	if got, want := bundle([]byte("ca")).Name, "kubernetes.io:kube-apiserver-serving:6959097001d10501ac7d54c0"; got != want {
		t.Errorf("name is %s, want %s", got, want)
	}
}
