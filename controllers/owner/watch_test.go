// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Who may adopt an object is whoever selects it, in its namespace; who selects everything or nothing adopts nobody.
func TestAdopters(t *testing.T) {
	selects := func(name string, labels map[string]string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: labels, MatchExpressions: map[string][]metav1.LabelSelectorRequirement{
			"broken": {{Key: "app", Operator: "Resembles"}},
		}[name]}
	}
	selectors := map[string]*metav1.LabelSelector{
		"web": selects("web", map[string]string{"app": "web"}), "db": selects("db", map[string]string{"app": "db"}),
		"all": selects("all", nil), "broken": selects("broken", nil), "none": nil,
	}
	adopters := Adopters[*corev1.ReplicationController]{
		In: func(namespace string) ([]*corev1.ReplicationController, error) {
			if namespace != "ns" {
				return nil, fmt.Errorf("asked for namespace %q", namespace)
			}
			var all []*corev1.ReplicationController
			for _, name := range []string{"web", "db", "all", "broken", "none"} {
				all = append(all, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}})
			}
			return all, nil
		},
		Selector: func(c *corev1.ReplicationController) *metav1.LabelSelector { return selectors[c.Name] },
	}
	unlabelled := pod("p", "", "")
	unlabelled.Labels = nil
	for _, tc := range []struct {
		orphan *corev1.Pod
		want   string
	}{
		{pod("p", "web", ""), "[ns/web]"},
		{pod("p", "other", ""), "[]"},
		{unlabelled, "[]"},
	} {
		if got := fmt.Sprint(adopters.Of(tc.orphan)); got != tc.want {
			t.Errorf("adopters of a pod with labels %v are %s, want %s", tc.orphan.Labels, got, tc.want)
		}
	}
}
