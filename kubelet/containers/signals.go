// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The names of signals differ by this: SIGRTMIN+3 of the API is SIGNAL_SIGRTMINPLUS3 of CRI.
var (
	toCRI   = strings.NewReplacer("+", "PLUS", "-", "MINUS")
	fromCRI = strings.NewReplacer("PLUS", "+", "MINUS", "-")
)

const signalPrefix = "SIGNAL_"

// stopSignal is what a container asks for; else its image decides.
func stopSignal(c *v1.Container) runtimeapi.Signal {
	if c.Lifecycle == nil || c.Lifecycle.StopSignal == nil {
		return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
	}
	return runtimeapi.Signal(runtimeapi.Signal_value[signalPrefix+toCRI.Replace(string(*c.Lifecycle.StopSignal))])
}

// SignalName is a signal of the runtime as the API has it; nil if the runtime does not say which.
func SignalName(s runtimeapi.Signal) *v1.Signal {
	if s == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return nil
	}
	name := v1.Signal(fromCRI.Replace(strings.TrimPrefix(s.String(), signalPrefix)))
	return &name
}
