// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// priorityClassColumns are what kubectl prints, in the order and the words of upstream.
func priorityClassColumns() []rest.Column[*schedulingv1.PriorityClass] {
	type P = *schedulingv1.PriorityClass
	doc := schedulingv1.PriorityClass{}
	return []rest.Column[P]{
		rest.Name[P](),
		rest.Number("Value", rest.Doc(doc, "value"), func(o P) int32 { return o.Value }),
		rest.Bool("Global-Default", rest.Doc(doc, "globalDefault"), func(o P) bool { return o.GlobalDefault }),
		rest.Age[P](),
		rest.Text("PreemptionPolicy", rest.Doc(doc, "preemptionPolicy"), func(o P) string { return string(ptr.Deref(o.PreemptionPolicy, "")) }),
	}
}
