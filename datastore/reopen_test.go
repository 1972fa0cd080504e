// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"fmt"
	"testing"
)

// A member that has more in its log than etcd keeps in memory elects itself when it has taken all of it in, and no sooner: raft
// would look for what is no longer in memory, and end the process.
func TestElectsItselfAfterMany(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for i := range 20 * catchUpAlone {
		if _, err := s.Client().Put(t.Context(), fmt.Sprintf("/registry/many/%d", i), "value"); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	for range 30 {
		s := open(t, dir)
		s.Close()
	}
}
