// SPDX-License-Identifier: Apache-2.0

package podcertificatecleaner

import (
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
)

func TestRequestsGoInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := controllertest.New(t, &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Name: "r", Namespace: "ns"}})
		c.Run(New(c, c.Factory))
		left := func() int {
			list, err := c.CertificatesV1().PodCertificateRequests("ns").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return len(list.Items)
		}
		time.Sleep(lifetime - time.Second)
		if left() != 1 {
			t.Error("gone too early")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if left() != 0 {
			t.Error("still there")
		}
	})
}
