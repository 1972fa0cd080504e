// SPDX-License-Identifier: Apache-2.0

package nodettl

import (
	"fmt"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
)

func TestStepFor(t *testing.T) {
	step := 0
	for _, test := range []struct{ nodes, seconds int }{
		{1, 0}, {100, 0}, {101, 15}, {95, 15}, {89, 0}, {700, 30}, {460, 30}, {449, 15}, {5000, 300}, {1800, 300}, {1799, 60}, {0, 0},
	} {
		if step = stepFor(test.nodes, step); steps[step].seconds != test.seconds {
			t.Errorf("%d s with %d nodes, want %d", steps[step].seconds, test.nodes, test.seconds)
		}
	}
}

// A new node, and one whose annotation somebody has changed, gets what it should.
func TestAnnotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		objects := []runtime.Object{&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "spoiled", Annotations: map[string]string{corev1.ObjectTTLAnnotationKey: "x"}}}}
		for i := range 101 {
			objects = append(objects, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i)}})
		}
		c := controllertest.New(t, objects...)
		c.Run(New(c, c.Factory))
		for _, name := range []string{"spoiled", "n7"} {
			node, err := c.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil || node.Annotations[corev1.ObjectTTLAnnotationKey] != "15" {
				t.Errorf("%s = %v, %v; want 15 s", name, node.Annotations, err)
			}
		}
	})
}
