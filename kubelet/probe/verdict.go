// SPDX-License-Identifier: Apache-2.0

package probe

import v1 "k8s.io/api/core/v1"

// verdict counts equal answers in a row until a threshold decides.
type verdict struct {
	last bool
	row  int32
}

// add says whether the answer decides now, and whether the probe is over with that.
func (v *verdict) add(kind Type, spec *v1.Probe, ok bool) (decided, done bool) {
	if v.row == 0 || v.last != ok {
		v.last, v.row = ok, 0
	}
	v.row++
	threshold := spec.FailureThreshold
	if ok {
		threshold = spec.SuccessThreshold
	}
	if v.row < threshold {
		return false, false
	}
	return true, kind == Startup || kind == Liveness && !ok
}
