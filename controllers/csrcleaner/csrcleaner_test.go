// SPDX-License-Identifier: Apache-2.0

package csrcleaner

import (
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
)

// Each request stays for as long as it may be of use.
func TestCleans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		request := func(name string, certificate string, conditions ...certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequest {
			r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Now()}}
			r.Status.Certificate = []byte(certificate)
			for _, c := range conditions {
				r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: c, LastUpdateTime: metav1.Now()})
			}
			return r
		}
		cluster := controllertest.New(t,
			request("pending", ""),
			request("approved", "", certificatesv1.CertificateApproved),
			request("issued", "a certificate", certificatesv1.CertificateApproved),
			request("denied", "", certificatesv1.CertificateDenied),
			request("failed", "", certificatesv1.CertificateApproved, certificatesv1.CertificateFailed),
		)
		cluster.Run(New(cluster.Clientset, cluster.Factory))
		left := func() (names []string) {
			list, err := cluster.CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range list.Items {
				names = append(names, r.Name)
			}
			return names
		}
		for _, step := range []struct {
			wait time.Duration
			left int
		}{{59 * time.Minute, 5}, {2 * time.Minute, 2}, {22 * time.Hour, 2}, {2 * time.Hour, 0}} {
			time.Sleep(step.wait)
			synctest.Wait()
			if names := left(); len(names) != step.left {
				t.Errorf("%s later there are %v, want %d", step.wait, names, step.left)
			}
		}
	})
}
