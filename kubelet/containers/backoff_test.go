// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The waits of a container that fails at once, again and again: twice as long each time, up to the most.
// https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#configurable-container-restart-delay
func TestBackOff(t *testing.T) {
	for most, want := range map[time.Duration][]time.Duration{
		0:                {10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 300 * time.Second, 300 * time.Second},
		15 * time.Second: {10 * time.Second, 15 * time.Second, 15 * time.Second},
		2 * time.Second:  {2 * time.Second, 2 * time.Second},
	} {
		r := New(Config{MaxBackOff: most}, nil, nil, nil, nil, nil, record.NewFakeRecorder(100), nil)
		pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c"}}}}
		ended := &Container{Name: "c", State: runtimeapi.ContainerState_CONTAINER_EXITED, FinishedAt: time.Now()}
		status := &Status{Containers: []*Container{ended}}
		if err := r.backingOff(pod, &pod.Spec.Containers[0], status); err != nil {
			t.Errorf("the first time: %v", err)
		}
		for i, wait := range want {
			err := r.backingOff(pod, &pod.Spec.Containers[0], status)
			if err == nil || err.retryAt.Sub(ended.FinishedAt) != wait {
				t.Errorf("at most %v: wait %d is until %+v, want %v after its end", most, i, err, wait)
				break
			}
			r.backoff.Next(backOffKey(pod, &pod.Spec.Containers[0]), time.Now()) // it is started, and fails again
		}
	}
}

// A container that ended at a time that is to come, as the clock was set back since, waits as long as others: from when it was started.
func TestBackOffWhenTheClockIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{}, nil, nil, nil, nil, nil, record.NewFakeRecorder(100), nil)
		pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c"}}}}
		ended := &Container{Name: "c", State: runtimeapi.ContainerState_CONTAINER_EXITED, FinishedAt: time.Now().Add(time.Hour)}
		status := &Status{Containers: []*Container{ended}}
		for _, wait := range []time.Duration{0, 10 * time.Second, 20 * time.Second} {
			began := time.Now()
			for err := r.backingOff(pod, &pod.Spec.Containers[0], status); err != nil; err = r.backingOff(pod, &pod.Spec.Containers[0], status) {
				time.Sleep(time.Until(err.retryAt))
			}
			if took := time.Since(began); took != wait {
				t.Errorf("it is started after %s, want %s", took, wait)
			}
		}
	})
}
