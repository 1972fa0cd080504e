// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"encoding/pem"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Bundles are merged without duplicates, and a change of one is announced.
func TestTrustBundles(t *testing.T) {
	empty := &metav1.LabelSelector{}
	signer := "example.org/s"
	n := newNode(t, bundle("a", signer, "one", "two"), bundle("b", signer, "two", "three"), bundle("c", "", "four"))
	for began := time.Now(); ; { // until Run has begun
		if _, _, err := n.bundles.use("uid-1"); err == nil {
			break
		}
		if time.Since(began) > 5*time.Second {
			t.Fatal("Run has not begun")
		}
	}
	for _, c := range []struct {
		p    corev1.ClusterTrustBundleProjection
		want int
		err  string
	}{
		{corev1.ClusterTrustBundleProjection{Name: ptr("c")}, 1, ""},
		{corev1.ClusterTrustBundleProjection{Name: ptr("none")}, 0, "while getting ClusterTrustBundle"},
		{corev1.ClusterTrustBundleProjection{Name: ptr("none"), Optional: ptr(true)}, 0, ""},
		{corev1.ClusterTrustBundleProjection{SignerName: &signer, LabelSelector: empty}, 3, ""},
		{corev1.ClusterTrustBundleProjection{SignerName: &signer}, 0, "matched zero ClusterTrustBundles"},
		{corev1.ClusterTrustBundleProjection{SignerName: ptr("x/y"), LabelSelector: empty, Optional: ptr(true)}, 0, ""},
	} {
		got, err := n.bundles.get(t.Context(), "uid-1", &c.p)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%+v: %v, want %q", c.p, err, c.err)
		}
		if count := strings.Count(string(got), "BEGIN CERTIFICATE"); count != c.want {
			t.Errorf("%+v: %d certificates, want %d", c.p, count, c.want)
		}
	}
	for len(n.changed) > 0 {
		<-n.changed
	}
	if err := n.client.CertificatesV1().ClusterTrustBundles().Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	n.wait(t, "uid-1")
}

func bundle(name, signer string, certificates ...string) *certificatesv1.ClusterTrustBundle {
	var text strings.Builder
	for _, c := range certificates {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(c)}))
	}
	return &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: "# comment\n" + text.String()},
	}
}
