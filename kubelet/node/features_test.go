// SPDX-License-Identifier: Apache-2.0

package node

import (
	"slices"
	"testing"

	"k8s.io/component-helpers/nodedeclaredfeatures"
)

// What is declared is known to those who ask for it, and in the order that validation wants.
func TestDeclaredFeatures(t *testing.T) {
	got := declaredFeatures()
	if len(got) != 4 || !slices.IsSorted(got) {
		t.Errorf("declared features = %q", got)
	}
	if set := nodedeclaredfeatures.DefaultFramework.TryMap(got); set.IsEmpty() {
		t.Errorf("nobody knows %q", got)
	}
}
