// SPDX-License-Identifier: Apache-2.0

// Package configfile reads a KubeletConfiguration (kubelet.config.k8s.io/v1beta1), the file that upstream's kubelet is
// configured with. It has upstream's defaults, and refuses fields that this kubelet does not have, so that nobody
// believes in a setting without effect.
// Reference: https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/
package configfile

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cliflag "k8s.io/component-base/cli/flag"
	api "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/cpuset"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/kubelet/cpus"
	"github.com/skiff-k8s/skiff/kubelet/eviction"
	"github.com/skiff-k8s/skiff/kubelet/images"
	"github.com/skiff-k8s/skiff/kubelet/memory"
	"github.com/skiff-k8s/skiff/kubelet/numa"
	"github.com/skiff-k8s/skiff/kubelet/shutdown"
	"github.com/skiff-k8s/skiff/kubelet/userns"
)

// What memorySwap.swapBehavior can be; nothing is NoSwap.
const (
	NoSwap      = "NoSwap"
	LimitedSwap = "LimitedSwap"
)

// Load adds a file to what flags have said; without one it adds the defaults.
func Load(path string, flags api.KubeletConfiguration) (*api.KubeletConfiguration, error) {
	c := flags.DeepCopy()
	settle(c)
	if path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read kubelet configuration: %w", err)
		}
		if err = parse(data, c); err != nil {
			return nil, fmt.Errorf("read kubelet configuration %s: %w", path, err)
		}
	}
	setDefaults(c)
	return c, check(c)
}

// parse adds a file to c.
func parse(data []byte, c *api.KubeletConfiguration) error {
	var set map[string]any
	if err := yaml.Unmarshal(data, &set); err != nil {
		return err
	}
	if set["kind"] != "KubeletConfiguration" || set["apiVersion"] != api.SchemeGroupVersion.String() {
		return fmt.Errorf("it must be a KubeletConfiguration of %s", api.SchemeGroupVersion)
	}
	said := &api.KubeletConfiguration{}
	if err := yaml.UnmarshalStrict(data, said); err != nil {
		return err
	}
	if _, given := set["enforceNodeAllocatable"]; given && len(said.EnforceNodeAllocatable) == 0 {
		said.EnforceNodeAllocatable = []string{"none"}
	}
	return take(said, c, set)
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
	defaultTo(&c.SerializeImagePulls, c.MaxParallelImagePulls == nil || *c.MaxParallelImagePulls < 2)
	defaultTo(&c.NodeStatusMaxImages, 50)
	defaultTo(&c.HealthzPort, 10248)
	defaultTo(&c.SeccompDefault, false)
	defaultTo(&c.FailCgroupV1, false)
	defaultTo(&c.FailSwapOn, false)
	defaultTo(&c.RegistryPullQPS, 0)
	defaultTo(&c.EventRecordQPS, 50)
	defaultTo(&c.ContainerLogMonitorInterval, metav1.Duration{Duration: 10 * time.Second})
	if c.NodeStatusReportFrequency.Duration == 0 { // who wants looks at other times, wants reports so
		c.NodeStatusReportFrequency.Duration = cmp.Or(c.NodeStatusUpdateFrequency.Duration, 5*time.Minute)
	}
	c.NodeStatusUpdateFrequency.Duration = cmp.Or(c.NodeStatusUpdateFrequency.Duration, 10*time.Second)
	c.NodeLeaseDurationSeconds = cmp.Or(c.NodeLeaseDurationSeconds, 40)
	for _, on := range []**bool{&c.EnableDebuggingHandlers, &c.EnableProfilingHandler, &c.EnableDebugFlagsHandler, &c.EnableSystemLogHandler, &c.Authentication.Webhook.Enabled} {
		defaultTo(on, true)
	}
	defaultTo(&c.EnableSystemLogQuery, false)
	defaultTo(&c.Authentication.Anonymous.Enabled, false)
	c.RegistryBurst = cmp.Or(c.RegistryBurst, 10)
	c.EventBurst = cmp.Or(c.EventBurst, 100)
	c.HealthzBindAddress = cmp.Or(c.HealthzBindAddress, "127.0.0.1")
	c.MemoryReservationPolicy = cmp.Or(c.MemoryReservationPolicy, api.NoneMemoryReservationPolicy)
	c.Authorization.Mode = cmp.Or(c.Authorization.Mode, api.KubeletAuthorizationModeWebhook)
	c.Authentication.Webhook.CacheTTL.Duration = cmp.Or(c.Authentication.Webhook.CacheTTL.Duration, 2*time.Minute)
	c.Authorization.Webhook.CacheAuthorizedTTL.Duration = cmp.Or(c.Authorization.Webhook.CacheAuthorizedTTL.Duration, 5*time.Minute)
	c.Authorization.Webhook.CacheUnauthorizedTTL.Duration = cmp.Or(c.Authorization.Webhook.CacheUnauthorizedTTL.Duration, 30*time.Second)
	if c.ImagePullCredentialsVerificationPolicy == "" {
		c.ImagePullCredentialsVerificationPolicy = api.NeverVerifyPreloadedImages
	}
	if c.EnforceNodeAllocatable == nil {
		c.EnforceNodeAllocatable = []string{"pods"}
	}
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
	if _, err := CPUOptions(c); err != nil {
		return err
	}
	if _, err := TopologyOptions(c); err != nil {
		return err
	}
	if err := checkGates(c); err != nil {
		return err
	}
	if err := checkReserved(c); err != nil {
		return err
	}
	if err := checkReservedMemory(c); err != nil {
		return err
	}
	if err := checkAPI(c); err != nil {
		return err
	}
	if err := checkImages(c); err != nil {
		return err
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
	case c.MemoryThrottlingFactor != nil && (*c.MemoryThrottlingFactor <= 0 || *c.MemoryThrottlingFactor > 1):
		return fmt.Errorf("memoryThrottlingFactor %v must be greater than 0 and less than or equal to 1.0", *c.MemoryThrottlingFactor)
	case c.MemoryReservationPolicy != api.NoneMemoryReservationPolicy && c.MemoryReservationPolicy != api.TieredReservationMemoryReservationPolicy:
		return fmt.Errorf("option %q specified for memoryReservationPolicy. Valid options are %q or %q", c.MemoryReservationPolicy, api.NoneMemoryReservationPolicy, api.TieredReservationMemoryReservationPolicy)
	case c.UserNamespaces != nil && c.UserNamespaces.IDsPerPod != nil && (*c.UserNamespaces.IDsPerPod < userns.Length || *c.UserNamespaces.IDsPerPod%userns.Length != 0):
		return fmt.Errorf("userNamespaces.idsPerPod must be a multiple of %d", userns.Length)
	case c.UserNamespaces != nil && c.UserNamespaces.IDsPerPod != nil && (int64(cmp.Or(c.MaxPods, 110))+1)**c.UserNamespaces.IDsPerPod > math.MaxUint32:
		return fmt.Errorf("userNamespaces.idsPerPod is too much: there are no so many IDs for each of maxPods")
	case c.NodeLeaseDurationSeconds < 0:
		return fmt.Errorf("nodeLeaseDurationSeconds must be greater than 0")
	case c.NodeStatusUpdateFrequency.Duration < 0 || c.NodeStatusReportFrequency.Duration < 0:
		return fmt.Errorf("nodeStatusUpdateFrequency and nodeStatusReportFrequency must not be negative times")
	case c.ContainerLogMonitorInterval.Duration < 3*time.Second:
		return fmt.Errorf("containerLogMonitorInterval must be a positive time duration greater than or equal to 3s")
	case *c.EventRecordQPS < 0 || c.EventBurst < 0:
		return fmt.Errorf("eventRecordQPS and eventBurst must not be negative numbers")
	case c.HTTPCheckFrequency.Duration < 0:
		return fmt.Errorf("httpCheckFrequency must not be a negative time")
	case c.MaxPods < 0 || c.PodsPerCore < 0:
		return fmt.Errorf("maxPods and podsPerCore must not be negative numbers")
	case *c.NodeStatusMaxImages < -1:
		return fmt.Errorf("nodeStatusMaxImages %d must be -1 or greater", *c.NodeStatusMaxImages)
	case c.CPUCFSQuotaPeriod.Duration < time.Millisecond || c.CPUCFSQuotaPeriod.Duration > time.Second:
		return fmt.Errorf("cpuCFSQuotaPeriod %v must be between 1ms and 1sec, inclusive", c.CPUCFSQuotaPeriod.Duration)
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
	}
	return nil
}

// checkAPI checks who may call the kubelet, and how.
func checkAPI(c *api.KubeletConfiguration) error {
	if _, err := TLS(c); err != nil {
		return err
	}
	switch {
	case *c.Authentication.Anonymous.Enabled:
		return fmt.Errorf("authentication.anonymous.enabled can only be false here")
	case !*c.Authentication.Webhook.Enabled:
		return fmt.Errorf("authentication.webhook.enabled can only be true here")
	case c.Authentication.X509.ClientCAFile != "":
		return fmt.Errorf("authentication.x509.clientCAFile has no effect here: the cluster's certificate authority is (remove it)")
	case c.Authorization.Mode != api.KubeletAuthorizationModeWebhook:
		return fmt.Errorf("authorization.mode can only be %s here", api.KubeletAuthorizationModeWebhook)
	case *c.HealthzPort < 0 || *c.HealthzPort > 65535:
		return fmt.Errorf("healthzPort %d must be between 1 and 65535, or 0 for none", *c.HealthzPort)
	}
	return nil
}

// checkImages checks how images are pulled.
func checkImages(c *api.KubeletConfiguration) error {
	policies := []api.ImagePullCredentialsVerificationPolicy{api.NeverVerify, api.NeverVerifyPreloadedImages, api.NeverVerifyAllowlistedImages, api.AlwaysVerify}
	allowlisted := c.ImagePullCredentialsVerificationPolicy == api.NeverVerifyAllowlistedImages
	if _, err := images.ParseAllowlist(c.PreloadedImagesVerificationAllowlist); err != nil {
		return fmt.Errorf("preloadedImagesVerificationAllowlist: %w", err)
	}
	switch {
	case c.MaxParallelImagePulls != nil && *c.MaxParallelImagePulls < 1:
		return fmt.Errorf("maxParallelImagePulls must be a positive number")
	case *c.SerializeImagePulls && c.MaxParallelImagePulls != nil && *c.MaxParallelImagePulls > 1:
		return fmt.Errorf("maxParallelImagePulls cannot be larger than 1 unless serializeImagePulls is set to false")
	case !slices.Contains(policies, c.ImagePullCredentialsVerificationPolicy):
		return fmt.Errorf("option %q specified for imagePullCredentialsVerificationPolicy. Valid options are %q", c.ImagePullCredentialsVerificationPolicy, policies)
	case !allowlisted && len(c.PreloadedImagesVerificationAllowlist) > 0:
		return fmt.Errorf("preloadedImagesVerificationAllowlist can only be set with the imagePullCredentialsVerificationPolicy %q", api.NeverVerifyAllowlistedImages)
	case *c.RegistryPullQPS < 0 || c.RegistryBurst < 0:
		return fmt.Errorf("registryPullQPS and registryBurst must not be negative numbers")
	}
	return nil
}

// alphaCPUOptions are the gate without which upstream does not have those of alpha.
const alphaCPUOptions = "CPUManagerPolicyAlphaOptions"

// CPUOptions are what the operator wants of the policy static, besides it.
func CPUOptions(c *api.KubeletConfiguration) (o cpus.Options, err error) {
	if c.CPUManagerPolicy != "static" && len(c.CPUManagerPolicyOptions) > 0 {
		return o, fmt.Errorf("cpuManagerPolicyOptions need the cpuManagerPolicy static")
	}
	stable := map[string]*bool{"full-pcpus-only": &o.WholeCores, "strict-cpu-reservation": &o.StrictReserved, "prefer-align-cpus-by-uncorecache": &o.AlignCaches, "distribute-cpus-across-numa": &o.AcrossNodes}
	alpha := map[string]*bool{"align-by-socket": &o.AlignSockets, "distribute-cpus-across-cores": &o.AcrossCores}
	for name, text := range c.CPUManagerPolicyOptions {
		set := cmp.Or(stable[name], alpha[name])
		switch {
		case set == nil:
			return o, fmt.Errorf("cpuManagerPolicyOptions: unknown CPU Manager Policy option: %q", name)
		case alpha[name] != nil && !c.FeatureGates[alphaCPUOptions]:
			return o, fmt.Errorf("cpuManagerPolicyOptions: CPU Manager Policy Alpha-level Options not enabled, but option %q provided (set the feature gate %s)", name, alphaCPUOptions)
		}
		if *set, err = strconv.ParseBool(text); err != nil {
			return o, fmt.Errorf("cpuManagerPolicyOptions: bad value for option %q: %w", name, err)
		}
	}
	return o, checkTogether(c, o)
}

// checkTogether finds options that contradict each other.
func checkTogether(c *api.KubeletConfiguration, o cpus.Options) error {
	for _, pair := range []struct {
		both          bool
		one, theOther string
	}{
		{o.WholeCores && o.AcrossCores, "full-pcpus-only", "distribute-cpus-across-cores"},
		{o.AcrossNodes && o.AcrossCores, "distribute-cpus-across-numa", "distribute-cpus-across-cores"},
		{o.AlignCaches && o.AcrossCores, "prefer-align-cpus-by-uncorecache", "distribute-cpus-across-cores"},
		{o.AlignCaches && o.AcrossNodes, "prefer-align-cpus-by-uncorecache", "distribute-cpus-across-numa"},
	} {
		if pair.both {
			return fmt.Errorf("cpuManagerPolicyOptions: static policy options %s and %s can not be used at the same time", pair.one, pair.theOther)
		}
	}
	if o.AlignSockets && c.TopologyManagerPolicy == string(numa.SingleNode) {
		return fmt.Errorf("topologyManagerPolicy %s is incompatible with the cpuManagerPolicyOptions align-by-socket", numa.SingleNode)
	}
	return nil
}

// checkGates refuses gates that would have no effect.
func checkGates(c *api.KubeletConfiguration) error {
	for name := range c.FeatureGates {
		if name != alphaCPUOptions {
			return fmt.Errorf("featureGates: %s has no effect here (remove it); the one that has is %s", name, alphaCPUOptions)
		}
	}
	return nil
}

// TopologyOptions are what the operator wants of a topology policy, besides it.
func TopologyOptions(c *api.KubeletConfiguration) (o numa.Options, err error) {
	for name, text := range c.TopologyManagerPolicyOptions {
		switch name {
		case "prefer-closest-numa-nodes":
			if o.Closest, err = strconv.ParseBool(text); err != nil {
				return o, fmt.Errorf("topologyManagerPolicyOptions: bad value for option %q: %w", name, err)
			}
		case "max-allowable-numa-nodes":
			if o.MaxNodes, err = strconv.Atoi(text); err != nil {
				return o, fmt.Errorf("topologyManagerPolicyOptions: unable to convert policy option to integer %q: %w", name, err)
			}
			if o.MaxNodes < numa.MaxNodes {
				return o, fmt.Errorf("topologyManagerPolicyOptions: the minimum value of %q should not be less than %d", name, numa.MaxNodes)
			}
		default:
			return o, fmt.Errorf("topologyManagerPolicyOptions: unknown Topology Manager Policy option: %q", name)
		}
	}
	return o, nil
}

// TLS is how the kubelet's API is served.
func TLS(c *api.KubeletConfiguration) (*tls.Config, error) {
	version, err := cliflag.TLSVersion(c.TLSMinVersion)
	if err != nil {
		return nil, fmt.Errorf("tlsMinVersion: %w", err)
	}
	suites, err := cliflag.TLSCipherSuites(c.TLSCipherSuites)
	if err != nil {
		return nil, fmt.Errorf("tlsCipherSuites: %w", err)
	}
	return &tls.Config{MinVersion: version, CipherSuites: suites}, nil //nolint:gosec // the least version is TLS 1.2
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
		node := int(r.NumaNode)
		if reserved[node] == nil {
			reserved[node] = memory.Amounts{}
		}
		for name, q := range r.Limits {
			reserved[node][name] = q.Value()
		}
	}
	return reserved
}

// CheckSwap refuses a machine that swaps, if so many bytes of it are what the operator does not want.
func CheckSwap(c *api.KubeletConfiguration, swap int64) error {
	if *c.FailSwapOn && swap > 0 {
		return fmt.Errorf("running with swap on is not supported, please disable swap or set failSwapOn to false")
	}
	return nil
}

func checkReservedMemory(c *api.KubeletConfiguration) error {
	type kind struct {
		node int32
		name v1.ResourceName
	}
	seen := map[kind]bool{}
	for _, r := range c.ReservedMemory {
		for name, q := range r.Limits {
			is := kind{r.NumaNode, name}
			switch {
			case name != v1.ResourceMemory && !strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix):
				return fmt.Errorf("reservedMemory: the limit type %q for NUMA node %d is not supported, only %v is accepted", name, r.NumaNode, []v1.ResourceName{v1.ResourceMemory, v1.ResourceHugePagesPrefix + "<HugePageSize>"})
			case q.IsZero():
				return fmt.Errorf("reservedMemory: reserved memory may not be zero for NUMA node %d and resource %q", r.NumaNode, name)
			case seen[is]:
				return fmt.Errorf("reservedMemory: the reserved memory has a duplicate value for NUMA node %d and resource %q", r.NumaNode, name)
			}
			seen[is] = true
		}
	}
	return nil
}
