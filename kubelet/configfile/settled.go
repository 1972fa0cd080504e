// SPDX-License-Identifier: Apache-2.0

package configfile

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	api "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/ptr"
)

// fields are those that have an effect.
var fields = []string{
	"apiVersion", "kind", "maxPods", "podsPerCore", "podPidsLimit", "cpuCFSQuota", "cpuCFSQuotaPeriod", "cpuManagerPolicy", "cpuManagerPolicyOptions", "reservedSystemCPUs", "topologyManagerPolicy", "topologyManagerPolicyOptions", "topologyManagerScope", "memoryManagerPolicy", "reservedMemory", "memorySwap", "singleProcessOOMKill", "memoryThrottlingFactor", "memoryReservationPolicy", "crashLoopBackOff", "kubeReserved", "systemReserved", "kubeReservedCgroup", "systemReservedCgroup", "enforceNodeAllocatable", "featureGates",
	"evictionHard", "evictionSoft", "evictionSoftGracePeriod", "evictionPressureTransitionPeriod", "evictionMaxPodGracePeriod", "evictionMinimumReclaim", "mergeDefaultEvictionSettings",
	"imageMinimumGCAge", "imageMaximumGCAge", "imageGCHighThresholdPercent", "imageGCLowThresholdPercent", "containerLogMaxSize", "containerLogMaxFiles", "registryPullQPS", "registryBurst", "imagePullCredentialsVerificationPolicy", "preloadedImagesVerificationAllowlist",
	"allowedUnsafeSysctls", "seccompDefault", "userNamespaces", "serializeImagePulls", "maxParallelImagePulls", "registerWithTaints", "providerID", "nodeStatusMaxImages", "shutdownGracePeriod", "shutdownGracePeriodCriticalPods", "shutdownGracePeriodByPodPriority", "failSwapOn", "failCgroupV1",
	"authentication", "authorization", "tlsMinVersion", "tlsCipherSuites", "healthzPort", "healthzBindAddress",
	"nodeStatusUpdateFrequency", "nodeStatusReportFrequency", "nodeLeaseDurationSeconds", "containerLogMonitorInterval",
	"staticPodURL", "staticPodURLHeader", "httpCheckFrequency", "eventRecordQPS", "eventBurst",
	"enableDebuggingHandlers", "enableProfilingHandler", "enableDebugFlagsHandler", "enableSystemLogHandler", "enableSystemLogQuery",
}

// flags say what some fields of others do.
var flags = map[string]string{
	"cgroupRoot": "--cgroup-root", "clusterDomain": "--cluster-domain", "containerRuntimeEndpoint": "--container-runtime-endpoint", "logging": "--v", "podLogsDir": "--pod-logs",
	"port": "--kubelet-port", "resolvConf": "--resolv-conf", "staticPodPath": "--pod-manifest-path", "clusterDNS": "--cluster-dns", "address": "--node-ip",
}

// settle says in c what no file can change: what is always so here, besides what flags have said already.
func settle(c *api.KubeletConfiguration) {
	after := func(d time.Duration) metav1.Duration { return metav1.Duration{Duration: d} }
	yes := ptr.To(true)
	c.EnableServer, c.RegisterNode, c.CgroupsPerQOS, c.EnableControllerAttachDetach, c.MakeIPTablesUtilChains, c.LocalStorageCapacityIsolation = yes, yes, yes, yes, yes, yes
	c.RotateCertificates, c.ServerTLSBootstrap = true, true
	c.SyncFrequency, c.FileCheckFrequency, c.HTTPCheckFrequency, c.VolumeStatsAggPeriod = after(time.Minute), after(20*time.Second), after(20*time.Second), after(time.Minute)
	c.CPUManagerReconcilePeriod, c.RuntimeRequestTimeout, c.StreamingConnectionIdleTimeout = after(10*time.Second), after(2*time.Minute), after(4*time.Hour)
	c.ContainerLogMaxWorkers = ptr.To[int32](1)
	c.ConfigMapAndSecretChangeDetectionStrategy, c.HairpinMode = api.WatchChangeDetectionStrategy, api.PromiscuousBridge
}

// take puts what a file has set into c, and refuses what it says otherwise than it is here. What it leaves empty it does not say.
func take(said, c *api.KubeletConfiguration, set map[string]any) error {
	values, here := reflect.ValueOf(said).Elem(), reflect.ValueOf(c).Elem()
	for i := range values.NumField() {
		name, _, _ := strings.Cut(values.Type().Field(i).Tag.Get("json"), ",")
		value, is := values.Field(i), here.Field(i)
		_, given := set[name]
		switch {
		case !given || isEmpty(value) || equality.Semantic.DeepEqual(value.Interface(), is.Interface()):
		case slices.Contains(fields, name):
			is.Set(value)
		default:
			return refusal(name, is)
		}
	}
	return nil
}

// isEmpty says whether nothing is in a value, whichever way that is written.
func isEmpty(value reflect.Value) bool {
	return equality.Semantic.DeepEqual(value.Interface(), reflect.Zero(value.Type()).Interface())
}

// refusal says what to do about a field that the file cannot set.
func refusal(name string, is reflect.Value) error {
	instead := "remove it"
	if flag := flags[name]; flag != "" {
		instead += ", and see " + flag
	}
	if is.IsZero() {
		return fmt.Errorf("the field %s has no effect here (%s)", name, instead)
	}
	only, err := json.Marshal(is.Interface())
	if err != nil {
		return err
	}
	return fmt.Errorf("the field %s can only be %s here (%s)", name, only, instead)
}
