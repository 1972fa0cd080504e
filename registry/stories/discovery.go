// SPDX-License-Identifier: Apache-2.0

package stories

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DiscoveryLines are the resources of a group version, a line each.
func DiscoveryLines(list *metav1.APIResourceList) []string {
	var out []string
	for _, r := range list.APIResources {
		scope := "cluster"
		if r.Namespaced {
			scope = "namespaced"
		}
		kind := r.Kind
		if r.Version != "" || r.Group != "" { // of another version than the list, as that of scale
			kind = fmt.Sprintf("%s/%s.%s", r.Group, r.Version, r.Kind)
		}
		out = append(out, fmt.Sprintf("%s %s %s %s verbs=%s singular=%s short=%s categories=%s", list.GroupVersion, r.Name, kind, scope,
			strings.Join(r.Verbs, ","), r.SingularName, strings.Join(r.ShortNames, ","), strings.Join(r.Categories, ",")))
	}
	return out
}
