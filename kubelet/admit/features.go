// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	versionutil "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-helpers/nodedeclaredfeatures"

	"github.com/skiff-k8s/skiff/internal/podcontainers"
)

// AppArmor refuses a pod that wants an AppArmor profile of a machine that has no AppArmor: it would run without any.
func AppArmor(pod *v1.Pod, enabled bool) *Rejection {
	if enabled || !confined(pod) {
		return nil
	}
	return rejected("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host")
}

// confined says whether a profile is asked for.
func confined(pod *v1.Pod) bool {
	asks := func(p *v1.AppArmorProfile) bool { return p != nil && p.Type != v1.AppArmorProfileTypeUnconfined }
	if sc := pod.Spec.SecurityContext; sc != nil && asks(sc.AppArmorProfile) {
		return true
	}
	for c := range podcontainers.All(pod) {
		if c.SecurityContext != nil && asks(c.SecurityContext.AppArmorProfile) {
			return true
		}
	}
	for key, value := range pod.Annotations {
		if strings.HasPrefix(key, v1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix) && value != v1.DeprecatedAppArmorBetaProfileNameUnconfined {
			return true
		}
	}
	return false
}

// Features refuses a pod that makes use of what this node does not declare to do.
func Features(pod *v1.Pod, declared []string, version *versionutil.Version) *Rejection {
	const reason = "PodFeatureUnsupported"
	framework := nodedeclaredfeatures.DefaultFramework
	needs, err := framework.InferForPodScheduling(&nodedeclaredfeatures.PodInfo{Spec: &pod.Spec, Status: &pod.Status}, version)
	if err != nil {
		return rejected(reason, fmt.Sprintf("Failed to infer pod's feature requirements: %v", err))
	}
	if needs.IsEmpty() {
		return nil
	}
	match, err := framework.MatchNodeFeatureSet(needs, framework.TryMap(declared))
	switch {
	case err != nil:
		return rejected(reason, fmt.Sprintf("Failed to match pod's feature requirements against the node: %v", err))
	case !match.IsMatch:
		return rejected(reason, "Pod requires node features that are not available: "+strings.Join(match.UnsatisfiedRequirements, ", "))
	}
	return nil
}
