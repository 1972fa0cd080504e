// SPDX-License-Identifier: Apache-2.0

package simulated

import (
	"fmt"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/kubelet/containers"
)

// The annotations of a pod by which it behaves differently from one that starts and runs for ever.
const (
	StartAfterAnnotation = "simulated.skiff.io/start-after" // "2s": how long it takes to start
	RunForAnnotation     = "simulated.skiff.io/run-for"     // "30s": how long its containers run before they end by themselves
	ExitCodeAnnotation   = "simulated.skiff.io/exit-code"   // "1": what they end with
	StopAfterAnnotation  = "simulated.skiff.io/stop-after"  // "5s": how long it takes to end once it is deleted
	WaitingAnnotation    = "simulated.skiff.io/waiting"     // "ImagePullBackOff": its containers never start, for this reason
)

// behaviour is what becomes of a pod on a simulated node.
type behaviour struct {
	startAfter, stopAfter time.Duration
	runFor                time.Duration // 0: for ever
	exitCode              int32
	waiting               *containers.Waiting // why its containers never start; nil: they do
}

// behaviourOf reads a pod's annotations. What it cannot read shows as a container that cannot be started, with the reason.
func behaviourOf(pod *v1.Pod, startAfter time.Duration) behaviour {
	b := behaviour{startAfter: startAfter}
	for name, take := range map[string]func(string) error{
		StartAfterAnnotation: duration(&b.startAfter),
		StopAfterAnnotation:  duration(&b.stopAfter),
		RunForAnnotation:     duration(&b.runFor),
		ExitCodeAnnotation: func(text string) error {
			code, err := strconv.ParseInt(text, 10, 32)
			b.exitCode = int32(code)
			return err
		},
		WaitingAnnotation: func(text string) error {
			b.waiting = &containers.Waiting{Reason: text, Message: "simulated by the annotation " + WaitingAnnotation}
			return nil
		},
	} {
		text, ok := pod.Annotations[name]
		if !ok {
			continue
		}
		if err := take(text); err != nil {
			b.waiting = &containers.Waiting{Reason: containers.ReasonConfigError, Message: fmt.Sprintf("annotation %s: %v", name, err)}
			return b
		}
	}
	return b
}

func duration(into *time.Duration) func(string) error {
	return func(text string) error {
		d, err := time.ParseDuration(text)
		if err == nil && d < 0 {
			err = fmt.Errorf("%s must not be negative", text)
		}
		*into = max(d, 0)
		return err
	}
}
