// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// ShouldRestart tells whether a container or init container that ended with an exit code is started
// again: its first rule that matches decides, then its own policy, then that of the pod.
func ShouldRestart(c *corev1.Container, spec *corev1.PodSpec, exitCode int32) bool {
	if c.RestartPolicy == nil {
		return restarts(string(spec.RestartPolicy), exitCode)
	}
	for _, r := range c.RestartPolicyRules {
		if r.ExitCodes == nil {
			continue
		}
		listed := slices.Contains(r.ExitCodes.Values, exitCode)
		if listed == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			return true // all actions of rules start it again
		}
	}
	return restarts(string(*c.RestartPolicy), exitCode)
}

func restarts(policy string, exitCode int32) bool {
	switch policy {
	case string(corev1.RestartPolicyAlways):
		return true
	case string(corev1.RestartPolicyOnFailure):
		return exitCode != 0
	}
	return false
}

// AllCouldRestart tells whether some container has a rule that starts the whole pod again.
func AllCouldRestart(spec *corev1.PodSpec) bool {
	for c := range Containers(spec, nil) {
		for _, r := range c.RestartPolicyRules {
			if r.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
				return true
			}
		}
	}
	return false
}
