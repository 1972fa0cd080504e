// SPDX-License-Identifier: Apache-2.0

package ttlafterfinished

import (
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/controllers/metrics"
)

// A finished Job stays for its whole TTL, then goes. One that runs stays.
func TestDeletesAfterTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		running := &batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{Name: "running", Namespace: "default"},
			Spec:       batchv1.JobSpec{TTLSecondsAfterFinished: ptr.To[int32](60)},
		}
		finished := running.DeepCopy()
		finished.Name = "finished"
		finished.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		cluster := controllertest.New(t, running, finished)
		cluster.Run(New(cluster.Clientset, cluster.Factory, metrics.New().TTL))
		gone := func(name string) bool {
			_, err := cluster.BatchV1().Jobs("default").Get(t.Context(), name, metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		}
		time.Sleep(59 * time.Second)
		synctest.Wait()
		if gone("finished") {
			t.Error("deleted before its TTL had passed")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !gone("finished") || gone("running") {
			t.Errorf("finished is gone: %t, running is gone: %t", gone("finished"), gone("running"))
		}
	})
}
