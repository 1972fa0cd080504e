// SPDX-License-Identifier: Apache-2.0

package node

import (
	"k8s.io/component-helpers/nodedeclaredfeatures"
	"k8s.io/component-helpers/nodedeclaredfeatures/types"
)

// declaredFeatures names, sorted, what this kubelet does that not every node of a cluster may do yet. Without a name in the
// Node's status, admission refuses changes of pods that need it, and the scheduler keeps such pods off the node.
func declaredFeatures() []string {
	does := types.FeatureGateMap{
		"ExtendWebSocketsToKubelet":               true,
		"InPlacePodLevelResourcesVerticalScaling": true,
		"InPlacePodVerticalScalingInitContainers": true,
		"RestartAllContainersOnContainerExits":    true,
	}
	return nodedeclaredfeatures.DefaultFramework.DiscoverNodeFeatures(&nodedeclaredfeatures.NodeConfiguration{FeatureGates: does})
}
