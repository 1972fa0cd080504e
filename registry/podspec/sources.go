// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// sources checks a union: of all its members exactly one must be set. The first that is set is looked
// into, each further one is forbidden.
type sources struct {
	path *field.Path
	what string // what a member is, for the message: "volume", "handler"
	errs field.ErrorList
	n    int
}

// addSource adds one member of the union; it is a function only because methods have no type parameters.
func addSource[T any](s *sources, name string, source *T, check func(*field.Path, *T) field.ErrorList) {
	if source == nil {
		return
	}
	s.n++
	if s.n > 1 {
		if says, ok := misnamed[name]; ok {
			name = says
		}
		s.errs = append(s.errs, field.Forbidden(s.path.Child(name), "may not specify more than 1 "+s.what+" type"))
		return
	}
	s.errs = append(s.errs, check(s.path.Child(name), source)...)
}

func (s *sources) done() field.ErrorList {
	if s.n == 0 {
		s.errs = append(s.errs, field.Required(s.path, "must specify a "+s.what+" type"))
	}
	return s.errs
}

// misnamed are members that upstream's error names otherwise when there is one too many.
var misnamed = map[string]string{"cephfs": "cephFS", "downwardAPI": "downwarAPI"}
