// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/testenv"
)

// From nothing to the first object that a client has written.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		env := testenv.Start(b, testenv.Dir(b.TempDir()))
		if _, err := env.Client.CoreV1().ConfigMaps("default").Create(b.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		env.Stop()
		b.StartTimer()
	}
}
