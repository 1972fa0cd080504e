// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

// https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/
func TestStopSignal(t *testing.T) {
	for name, c := range map[string]struct {
		lifecycle *v1.Lifecycle
		want      runtimeapi.Signal
	}{
		"no lifecycle": {nil, runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT},
		"only a hook":  {&v1.Lifecycle{PreStop: &v1.LifecycleHandler{}}, runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT},
		"SIGUSR1":      {&v1.Lifecycle{StopSignal: ptr.To(v1.SIGUSR1)}, runtimeapi.Signal_SIGNAL_SIGUSR1},
		"SIGRTMIN+3":   {&v1.Lifecycle{StopSignal: ptr.To(v1.SIGRTMINPLUS3)}, runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3},
		"SIGRTMAX-14":  {&v1.Lifecycle{StopSignal: ptr.To(v1.SIGRTMAXMINUS14)}, runtimeapi.Signal_SIGNAL_SIGRTMAXMINUS14},
	} {
		if got := stopSignal(&v1.Container{Lifecycle: c.lifecycle}); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if got := SignalName(runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT); got != nil {
		t.Errorf("a runtime that does not say the signal: %v", *got)
	}
	for n, name := range runtimeapi.Signal_name {
		signal := runtimeapi.Signal(n)
		if got := stopSignal(&v1.Container{Lifecycle: &v1.Lifecycle{StopSignal: SignalName(signal)}}); got != signal {
			t.Errorf("%s there and back is %v", name, got)
		}
	}
}
