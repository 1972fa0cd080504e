// SPDX-License-Identifier: Apache-2.0

// Package configfile reads a KubeletConfiguration (kubelet.config.k8s.io/v1beta1), the file that upstream's kubelet is
// configured with. It has upstream's defaults, and refuses fields that this kubelet does not have, so that nobody
// believes in a setting without effect.
// Reference: https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/
package configfile

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	api "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/cpuset"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/kubelet/eviction"
	"github.com/skiff-k8s/skiff/kubelet/memory"
	"github.com/skiff-k8s/skiff/kubelet/numa"
	"github.com/skiff-k8s/skiff/kubelet/shutdown"
)

// What memorySwap.swapBehavior can be; nothing is NoSwap.
const (
	NoSwap      = "NoSwap"
	LimitedSwap = "LimitedSwap"
)

// fields are those that have an effect, and those whose only useful value is ours.
var fields = []string{
	"apiVersion", "kind", "maxPods", "podPidsLimit", "cpuCFSQuota", "cpuCFSQuotaPeriod", "cpuManagerPolicy", "reservedSystemCPUs", "topologyManagerPolicy", "topologyManagerScope", "memoryManagerPolicy", "reservedMemory", "memorySwap", "singleProcessOOMKill", "crashLoopBackOff", "kubeReserved", "systemReserved",
	"evictionHard", "evictionSoft", "evictionSoftGracePeriod", "evictionPressureTransitionPeriod", "evictionMaxPodGracePeriod", "evictionMinimumReclaim", "mergeDefaultEvictionSettings",
	"imageMinimumGCAge", "imageMaximumGCAge", "imageGCHighThresholdPercent", "imageGCLowThresholdPercent", "containerLogMaxSize", "containerLogMaxFiles", "enableSystemLogHandler", "enableSystemLogQuery",
	"allowedUnsafeSysctls", "serializeImagePulls", "maxParallelImagePulls", "registerWithTaints", "shutdownGracePeriod", "shutdownGracePeriodCriticalPods", "shutdownGracePeriodByPodPriority", "failSwapOn",
}

// Load reads a file; without one it returns the defaults.
func Load(path string) (*api.KubeletConfiguration, error) {
	c := &api.KubeletConfiguration{}
	if path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read kubelet configuration: %w", err)
		}
		if c, err = parse(data); err != nil {
			return nil, fmt.Errorf("read kubelet configuration %s: %w", path, err)
		}
	}
	setDefaults(c)
	return c, check(c)
}

func parse(data []byte) (*api.KubeletConfiguration, error) {
	var set map[string]any
	if err := yaml.Unmarshal(data, &set); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if !slices.Contains(fields, name) {
			return nil, fmt.Errorf("the field %s has no effect here (remove it; those that have one are %s)", name, strings.Join(fields[2:], ", "))
		}
	}
	if set["kind"] != "KubeletConfiguration" || set["apiVersion"] != api.SchemeGroupVersion.String() {
		return nil, fmt.Errorf("it must be a KubeletConfiguration of %s", api.SchemeGroupVersion)
	}
	c := &api.KubeletConfiguration{}
	return c, yaml.UnmarshalStrict(data, c)
}

func setDefaults(c *api.KubeletConfiguration) {
	c.APIVersion, c.Kind = api.SchemeGroupVersion.String(), "KubeletConfiguration"
	defaultTo(&c.PodPidsLimit, -1)
	defaultTo(&c.CPUCFSQuota, true)
	defaultTo(&c.CPUCFSQuotaPeriod, metav1.Duration{Duration: 100 * time.Millisecond})
	defaultTo(&c.CrashLoopBackOff.MaxContainerRestartPeriod, metav1.Duration{Duration: 5 * time.Minute})
	defaultTo(&c.ImageGCHighThresholdPercent, 85)
	defaultTo(&c.ImageGCLowThresholdPercent, 80)
	defaultTo(&c.ContainerLogMaxFiles, 5)
	defaultTo(&c.EnableSystemLogHandler, true)
	defaultTo(&c.EnableSystemLogQuery, false)
	defaultTo(&c.SerializeImagePulls, c.MaxParallelImagePulls == nil || *c.MaxParallelImagePulls < 2)
	if c.CPUManagerPolicy == "" {
		c.CPUManagerPolicy = "none"
	}
	if c.MemoryManagerPolicy == "" {
		c.MemoryManagerPolicy = "None"
	}
	if c.TopologyManagerPolicy == "" {
		c.TopologyManagerPolicy = string(numa.None)
	}
	if c.TopologyManagerScope == "" {
		c.TopologyManagerScope = numa.ContainerScope
	}
	if c.ContainerLogMaxSize == "" {
		c.ContainerLogMaxSize = "10Mi"
	}
	if c.ImageMinimumGCAge.Duration == 0 {
		c.ImageMinimumGCAge.Duration = 2 * time.Minute
	}
	if c.EvictionPressureTransitionPeriod.Duration == 0 {
		c.EvictionPressureTransitionPeriod.Duration = 5 * time.Minute
	}
	hard := map[string]string{
		"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%", "imagefs.inodesFree": "5%",
	}
	if c.EvictionHard == nil {
		c.EvictionHard = hard
	} else if c.MergeDefaultEvictionSettings != nil && *c.MergeDefaultEvictionSettings {
		maps.Copy(hard, c.EvictionHard)
		c.EvictionHard = hard
	}
}

func defaultTo[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// check finds what cannot be, so that it shows at the start.
func check(c *api.KubeletConfiguration) error {
	if _, err := Eviction(c); err != nil {
		return err
	}
	if _, err := Reserved(c); err != nil {
		return err
	}
	if _, err := cpuset.Parse(c.ReservedSystemCPUs); err != nil {
		return fmt.Errorf("reservedSystemCPUs: %w", err)
	}
	if _, err := resource.ParseQuantity(c.ContainerLogMaxSize); err != nil {
		return fmt.Errorf("containerLogMaxSize: %w", err)
	}
	switch {
	case c.CPUManagerPolicy != "none" && c.CPUManagerPolicy != "static":
		return fmt.Errorf("cpuManagerPolicy %q is unknown (it is none or static)", c.CPUManagerPolicy)
	case c.MemoryManagerPolicy != "None" && c.MemoryManagerPolicy != "Static":
		return fmt.Errorf("memoryManagerPolicy %q is unknown (it is None or Static)", c.MemoryManagerPolicy)
	case !slices.Contains([]numa.Policy{numa.None, numa.BestEffort, numa.Restricted, numa.SingleNode}, numa.Policy(c.TopologyManagerPolicy)):
		return fmt.Errorf("topologyManagerPolicy %q is unknown (it is none, best-effort, restricted or single-numa-node)", c.TopologyManagerPolicy)
	case c.TopologyManagerScope != numa.ContainerScope && c.TopologyManagerScope != numa.PodScope:
		return fmt.Errorf("topologyManagerScope %q is unknown (it is container or pod)", c.TopologyManagerScope)
	case !slices.Contains([]string{"", NoSwap, LimitedSwap}, c.MemorySwap.SwapBehavior):
		return fmt.Errorf("memorySwap.swapBehavior %q is unknown (it is NoSwap or LimitedSwap)", c.MemorySwap.SwapBehavior)
	case c.CrashLoopBackOff.MaxContainerRestartPeriod.Duration < time.Second || c.CrashLoopBackOff.MaxContainerRestartPeriod.Duration > 5*time.Minute:
		return fmt.Errorf("crashLoopBackOff.maxContainerRestartPeriod (got: %v seconds) must be set between 1s and 300s", c.CrashLoopBackOff.MaxContainerRestartPeriod.Seconds())
	case *c.ContainerLogMaxFiles < 2:
		return fmt.Errorf("containerLogMaxFiles must be greater than 1")
	case *c.EnableSystemLogQuery && !*c.EnableSystemLogHandler:
		return fmt.Errorf("enableSystemLogHandler is required for enableSystemLogQuery")
	case *c.ImageGCLowThresholdPercent >= *c.ImageGCHighThresholdPercent:
		return fmt.Errorf("imageGCLowThresholdPercent must be less than imageGCHighThresholdPercent")
	case c.ShutdownGracePeriodCriticalPods.Duration > c.ShutdownGracePeriod.Duration:
		return fmt.Errorf("shutdownGracePeriodCriticalPods must be <= shutdownGracePeriod")
	case len(c.ShutdownGracePeriodByPodPriority) > 0 && (c.ShutdownGracePeriod.Duration > 0 || c.ShutdownGracePeriodCriticalPods.Duration > 0):
		return fmt.Errorf("shutdownGracePeriodByPodPriority and shutdownGracePeriod must not be set at the same time")
	case slices.ContainsFunc(c.ShutdownGracePeriodByPodPriority, func(p api.ShutdownGracePeriodByPodPriority) bool { return p.ShutdownGracePeriodSeconds < 0 }):
		return fmt.Errorf("shutdownGracePeriodByPodPriority: shutdownGracePeriodSeconds must not be negative")
	case c.MaxParallelImagePulls != nil && *c.MaxParallelImagePulls < 1:
		return fmt.Errorf("maxParallelImagePulls must be a positive number")
	}
	return nil
}

// Shutdown is how long pods have when the machine is shut down.
func Shutdown(c *api.KubeletConfiguration) shutdown.Config {
	if len(c.ShutdownGracePeriodByPodPriority) == 0 {
		return shutdown.Groups(c.ShutdownGracePeriod.Duration, c.ShutdownGracePeriodCriticalPods.Duration)
	}
	var groups shutdown.Config
	for _, p := range c.ShutdownGracePeriodByPodPriority {
		groups = append(groups, shutdown.Group{Priority: p.Priority, Period: time.Duration(p.ShutdownGracePeriodSeconds) * time.Second})
	}
	slices.SortFunc(groups, func(a, b shutdown.Group) int { return cmp.Compare(a.Priority, b.Priority) })
	return groups
}

// Eviction is when pods are ended for the node's sake.
func Eviction(c *api.KubeletConfiguration) (e eviction.Config, err error) {
	e = eviction.Config{Transition: c.EvictionPressureTransitionPeriod.Duration, MaxGrace: int64(c.EvictionMaxPodGracePeriod), SoftGrace: map[eviction.Signal]time.Duration{}}
	for _, list := range []struct {
		field string
		from  map[string]string
		to    *map[eviction.Signal]eviction.Threshold
	}{{"evictionHard", c.EvictionHard, &e.Hard}, {"evictionSoft", c.EvictionSoft, &e.Soft}, {"evictionMinimumReclaim", c.EvictionMinimumReclaim, &e.Reclaim}} {
		*list.to = map[eviction.Signal]eviction.Threshold{}
		for name, text := range list.from {
			threshold, err := thresholdOf(text)
			if err == nil && !slices.Contains(eviction.Signals, eviction.Signal(name)) {
				err = fmt.Errorf("unknown signal (those that exist are %v)", eviction.Signals)
			}
			if err != nil {
				return e, fmt.Errorf("%s: %s: %w", list.field, name, err)
			}
			if threshold != (eviction.Threshold{}) { // 0% turns a default off
				(*list.to)[eviction.Signal(name)] = threshold
			}
		}
	}
	for name, text := range c.EvictionSoftGracePeriod {
		if e.SoftGrace[eviction.Signal(name)], err = time.ParseDuration(text); err != nil {
			return e, fmt.Errorf("evictionSoftGracePeriod: %s: %w", name, err)
		}
	}
	for s := range e.Soft {
		if _, set := e.SoftGrace[s]; !set {
			return e, fmt.Errorf("grace period must be specified for the soft eviction threshold %s", s)
		}
	}
	return e, nil
}

func thresholdOf(text string) (t eviction.Threshold, err error) {
	if percent, ok := strings.CutSuffix(text, "%"); ok {
		n, err := strconv.ParseFloat(percent, 64)
		if err != nil || n < 0 || n > 100 {
			return t, fmt.Errorf("%q is not a percentage", text)
		}
		return eviction.Threshold{Percent: int64(n)}, nil
	}
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return t, err
	}
	if q.Sign() < 0 {
		return t, fmt.Errorf("%s is negative", text)
	}
	return eviction.Threshold{Quantity: q.Value()}, nil
}

// ReservedMemory is what each NUMA node keeps from containers that have memory for themselves.
func ReservedMemory(c *api.KubeletConfiguration) map[int]memory.Amounts {
	reserved := map[int]memory.Amounts{}
	for _, r := range c.ReservedMemory {
		amounts := memory.Amounts{}
		for name, q := range r.Limits {
			amounts[name] = q.Value()
		}
		reserved[int(r.NumaNode)] = amounts
	}
	return reserved
}

// Reserved is what the node keeps for the system and for itself.
func Reserved(c *api.KubeletConfiguration) (v1.ResourceList, error) {
	sum := v1.ResourceList{}
	for field, list := range map[string]map[string]string{"kubeReserved": c.KubeReserved, "systemReserved": c.SystemReserved} {
		for name, text := range list {
			switch v1.ResourceName(name) {
			case v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage, "pid":
			default:
				return nil, fmt.Errorf("%s: cannot reserve %q resource", field, name)
			}
			q, err := resource.ParseQuantity(text)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", field, name, err)
			}
			if q.Sign() < 0 {
				return nil, fmt.Errorf("%s: %s cannot be negative", field, name)
			}
			q.Add(sum[v1.ResourceName(name)])
			sum[v1.ResourceName(name)] = q
		}
	}
	if set, err := cpuset.Parse(c.ReservedSystemCPUs); err == nil && !set.IsEmpty() {
		sum[v1.ResourceCPU] = *resource.NewQuantity(int64(set.Size()), resource.DecimalSI)
	}
	return sum, nil
}
