// SPDX-License-Identifier: Apache-2.0

package configfile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/kubelet/eviction"
	"github.com/skiff-k8s/skiff/kubelet/shutdown"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubelet.yaml")
	if err := os.WriteFile(path, []byte("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	c, err := Load(write(t, `
kubeReserved: {cpu: 200m, memory: 100Mi}
systemReserved: {cpu: 300m, pid: "1000"}
evictionHard: {memory.available: 5%, nodefs.available: 0%}
evictionSoft: {memory.available: 1Gi}
evictionSoftGracePeriod: {memory.available: 1m30s}
evictionMaxPodGracePeriod: 60
maxParallelImagePulls: 3
singleProcessOOMKill: true
crashLoopBackOff: {maxContainerRestartPeriod: 2s}
`))
	if err != nil {
		t.Fatal(err)
	}
	reserved, err := Reserved(c)
	if err != nil || reserved.Cpu().String() != "500m" || reserved.Memory().String() != "100Mi" {
		t.Errorf("reserved %v, %v", reserved, err)
	}
	e, err := Eviction(c)
	if err != nil || len(e.Hard) != 1 || e.Hard[eviction.MemoryAvailable] != (eviction.Threshold{Percent: 5}) || e.Soft[eviction.MemoryAvailable] != (eviction.Threshold{Quantity: 1 << 30}) ||
		e.SoftGrace[eviction.MemoryAvailable] != 90*time.Second || e.MaxGrace != 60 || e.Transition != 5*time.Minute {
		t.Errorf("eviction %+v, %v", e, err)
	}
	if !*c.SingleProcessOOMKill || c.CrashLoopBackOff.MaxContainerRestartPeriod.Duration != 2*time.Second {
		t.Errorf("set: %+v", c)
	}
	if *c.SerializeImagePulls || *c.ImageGCHighThresholdPercent != 85 || c.ContainerLogMaxSize != "10Mi" {
		t.Errorf("defaults: %+v", c)
	}
}

// Without a file all is as upstream's kubelet has it.
func TestDefaults(t *testing.T) {
	c, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	e, err := Eviction(c)
	if err != nil || len(e.Hard) != 5 || e.Hard[eviction.MemoryAvailable] != (eviction.Threshold{Quantity: 100 << 20}) || e.Hard[eviction.ImageFSAvailable] != (eviction.Threshold{Percent: 15}) {
		t.Errorf("eviction %+v, %v", e, err)
	}
	if !*c.SerializeImagePulls || *c.PodPidsLimit != -1 {
		t.Errorf("defaults: %+v", c)
	}
}

func TestShutdown(t *testing.T) {
	groups := func(low int32, first time.Duration, high int32, second time.Duration) shutdown.Config {
		return shutdown.Config{{Priority: low, Period: first}, {Priority: high, Period: second}}
	}
	for text, want := range map[string]shutdown.Config{
		"": groups(0, 0, 2_000_000_000, 0),
		"shutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s":                                                                      groups(0, 20*time.Second, 2_000_000_000, 10*time.Second),
		"shutdownGracePeriodByPodPriority: [{priority: 1000, shutdownGracePeriodSeconds: 60}, {priority: 0, shutdownGracePeriodSeconds: 10}]": groups(0, 10*time.Second, 1000, time.Minute),
	} {
		c, err := Load(write(t, text))
		if err != nil {
			t.Fatal(err)
		}
		if got := Shutdown(c); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"healthzPort: 1":                                       "the field healthzPort has no effect here",
		"memoryManagerPolicy: BestEffort":                      "memoryManagerPolicy",
		"topologyManagerPolicy: strict":                        "topologyManagerPolicy",
		"topologyManagerScope: node":                           "topologyManagerScope",
		"memorySwap: {swapBehavior: Unlimited}":                "memorySwap.swapBehavior",
		"crashLoopBackOff: {maxContainerRestartPeriod: 500ms}": "crashLoopBackOff.maxContainerRestartPeriod (got: 0.5 seconds) must be set between 1s and 300s",
		"maxPods: many":                                        "json: cannot unmarshal",
		"evictionHard: {memory.free: 1Gi}":                     "evictionHard: memory.free: unknown signal",
		"evictionHard: {memory.available: 101%}":               "is not a percentage",
		"evictionSoft: {memory.available: 1Gi}":                "grace period must be specified for the soft eviction threshold memory.available",
		"kubeReserved: {pods: \"3\"}":                          `kubeReserved: cannot reserve "pods" resource`,
		"cpuManagerPolicy: dynamic":                            "cpuManagerPolicy",
		"reservedSystemCPUs: x":                                "reservedSystemCPUs",
		"containerLogMaxFiles: 1":                              "containerLogMaxFiles must be greater than 1",
		"imageGCLowThresholdPercent: 90":                       "imageGCLowThresholdPercent must be less",
		"shutdownGracePeriodCriticalPods: 10s":                 "shutdownGracePeriodCriticalPods must be <=",
		"shutdownGracePeriod: 30s\nshutdownGracePeriodByPodPriority: [{priority: 0, shutdownGracePeriodSeconds: 10}]": "must not be set at the same time",
		"shutdownGracePeriodByPodPriority: [{priority: 0, shutdownGracePeriodSeconds: -1}]":                           "must not be negative",
		"enableSystemLogHandler: false\nenableSystemLogQuery: true":                                                   "enableSystemLogHandler is required for enableSystemLogQuery",
		"maxParallelImagePulls: 0": "maxParallelImagePulls must be a positive number",
	} {
		if _, err := Load(write(t, text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := Load("/nowhere"); err == nil {
		t.Error("a file that is not there was read")
	}
}
