// SPDX-License-Identifier: Apache-2.0

package serviceaccounttoken

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
)

func day(ago time.Duration) string { return time.Now().Add(-ago).UTC().Format(time.DateOnly) }

// A token that was made unasked is marked after a year without use, and deleted a year after that.
func TestClean(t *testing.T) {
	// A bubble's clock starts with the year 2000.
	const year = 366 * 24 * time.Hour
	for _, test := range []struct {
		name           string
		labels         map[string]string
		since          time.Duration // how long use has been noted
		age            time.Duration
		unasked        bool // the account refers to it
		mounted        bool
		marked, exists bool // at the end
	}{
		{name: "never used", since: 2 * year, age: 2 * year, unasked: true, marked: true, exists: true},
		{name: "used lately", labels: map[string]string{lastUsedLabel: "1999-12-31"}, since: 2 * year, age: 2 * year, unasked: true, exists: true},
		{name: "used long ago", labels: map[string]string{lastUsedLabel: "1998-12-01"}, since: 2 * year, age: 2 * year, unasked: true, marked: true, exists: true},
		{name: "used nobody knows when", labels: map[string]string{lastUsedLabel: "yesterday"}, since: 2 * year, age: 2 * year, unasked: true, exists: true},
		{name: "young", since: 2 * year, age: time.Hour, unasked: true, exists: true},
		{name: "asked for", since: 2 * year, age: 2 * year, exists: true},
		{name: "mounted", since: 2 * year, age: 2 * year, unasked: true, mounted: true, exists: true},
		{name: "use has not been noted for long", since: time.Hour, age: 2 * year, unasked: true, exists: true},
		{name: "marked", labels: map[string]string{invalidSinceLabel: "1999-12-31"}, since: 2 * year, age: 2 * year, unasked: true, marked: true, exists: true},
		{name: "marked long ago", labels: map[string]string{invalidSinceLabel: "1998-01-01"}, since: 2 * year, age: 2 * year, unasked: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				secret := &corev1.Secret{
					ObjectMeta: metav1.ObjectMeta{Name: "t", Namespace: "ns", Labels: map[string]string{}, CreationTimestamp: metav1.NewTime(time.Now().Add(-test.age)),
						Annotations: map[string]string{corev1.ServiceAccountNameKey: "sa"}},
					Type: corev1.SecretTypeServiceAccountToken,
					Data: map[string][]byte{"token": []byte("t"), "namespace": []byte("ns")},
				}
				for k, v := range test.labels {
					secret.Labels[k] = v
				}
				account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "sa", Namespace: "ns"}}
				if test.unasked {
					account.Secrets = []corev1.ObjectReference{{Name: "t"}}
				}
				objects := []runtime.Object{secret, account, &corev1.ConfigMap{
					ObjectMeta: metav1.ObjectMeta{Name: TrackingConfigMap, Namespace: "kube-system"}, Data: map[string]string{TrackingKey: day(test.since)},
				}}
				if test.mounted {
					objects = append(objects, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}, Spec: corev1.PodSpec{
						Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "t"}}}},
					}})
				}
				c := controllertest.New(t, objects...)
				c.Run(New(Deps{Client: c, Cleaner: c}, c.Factory))
				time.Sleep(time.Minute)
				synctest.Wait()
				got, err := c.CoreV1().Secrets("ns").Get(t.Context(), "t", metav1.GetOptions{})
				if apierrors.IsNotFound(err) != !test.exists || test.exists && (got.Labels[invalidSinceLabel] != "") != test.marked {
					t.Errorf("secret = %v, %v; want it to exist: %v, to be marked: %v", got.Labels, err, test.exists, test.marked)
				}
			})
		})
	}
}
