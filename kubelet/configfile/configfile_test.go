// SPDX-License-Identifier: Apache-2.0

package configfile

import (
	"crypto/tls"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	api "k8s.io/kubelet/config/v1beta1"

	"github.com/skiff-k8s/skiff/kubelet/cgroups"
	"github.com/skiff-k8s/skiff/kubelet/cpus"
	"github.com/skiff-k8s/skiff/kubelet/eviction"
	"github.com/skiff-k8s/skiff/kubelet/numa"
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
memoryReservationPolicy: TieredReservation
memoryThrottlingFactor: 0.9
podPidsLimit: 10000000
enableProfilingHandler: false
tlsMinVersion: VersionTLS13
nodeStatusMaxImages: 0
cpuManagerPolicy: static
cpuManagerPolicyOptions: {full-pcpus-only: "true", distribute-cpus-across-numa: "true", align-by-socket: "true"}
featureGates: {CPUManagerPolicyAlphaOptions: true}
topologyManagerPolicyOptions: {max-allowable-numa-nodes: "16", prefer-closest-numa-nodes: "true"}
authorization: {webhook: {cacheAuthorizedTTL: 1m}}
kubeReserved: {cpu: 200m, memory: 100Mi}
systemReserved: {cpu: 300m, pid: "1000"}
evictionHard: {memory.available: 5%, nodefs.available: 0%}
evictionSoft: {memory.available: 1Gi}
evictionSoftGracePeriod: {memory.available: 1m30s}
evictionMaxPodGracePeriod: 60
maxParallelImagePulls: 3
singleProcessOOMKill: true
crashLoopBackOff: {maxContainerRestartPeriod: 2s}
`), api.KubeletConfiguration{})
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
	if *c.MemoryThrottlingFactor != 0.9 || c.MemoryReservationPolicy != api.TieredReservationMemoryReservationPolicy || *c.PodPidsLimit != 10000000 || *c.EnableProfilingHandler || !*c.EnableDebugFlagsHandler ||
		*c.NodeStatusMaxImages != 0 || c.Authorization.Webhook.CacheAuthorizedTTL.Duration != time.Minute || c.Authorization.Webhook.CacheUnauthorizedTTL.Duration != 30*time.Second {
		t.Errorf("set: %+v", c)
	}
	if o, err := CPUOptions(c); err != nil || o != (cpus.Options{WholeCores: true, AcrossNodes: true, AlignSockets: true}) {
		t.Errorf("CPU options: %+v, %v", o, err)
	}
	if o, err := TopologyOptions(c); err != nil || o != (numa.Options{MaxNodes: 16, Closest: true}) {
		t.Errorf("topology options: %+v, %v", o, err)
	}
	if serving, err := TLS(c); err != nil || serving.MinVersion != tls.VersionTLS13 {
		t.Errorf("TLS: %+v, %v", serving, err)
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
	c, err := Load("", api.KubeletConfiguration{})
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

// Pods may be left without a limit that they have together.
func TestEnforceNodeAllocatable(t *testing.T) {
	for text, want := range map[string]string{"": "pods", "enforceNodeAllocatable: [pods]": "pods", "enforceNodeAllocatable: [none]": "none", "enforceNodeAllocatable: []": "none"} {
		if c, err := Load(write(t, text), api.KubeletConfiguration{}); err != nil || len(c.EnforceNodeAllocatable) != 1 || c.EnforceNodeAllocatable[0] != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// Groups of the operator may be limited to what is reserved for them.
func TestReservations(t *testing.T) {
	c, err := Load(write(t, `
enforceNodeAllocatable: [pods, system-reserved, kube-reserved-compressible]
systemReservedCgroup: /system
kubeReservedCgroup: /kube
systemReserved: {memory: 200Mi}
kubeReserved: {cpu: 100m, memory: 100Mi}
`), api.KubeletConfiguration{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Reservations(c)
	want := []cgroups.Reservation{
		{Owner: "system", Group: "/system", Amounts: v1.ResourceList{v1.ResourceMemory: resource.MustParse("200Mi")}},
		{Owner: "kube", Group: "/kube", Amounts: v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m"), v1.ResourceMemory: resource.MustParse("100Mi")}, Compressible: true},
	}
	if err != nil || !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("Reservations = %+v, %v; want %+v", got, err, want)
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
		c, err := Load(write(t, text), api.KubeletConfiguration{})
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
		"oomScoreAdj: -5":                                      "the field oomScoreAdj has no effect here (remove it)",
		"clusterDomain: example.org":                           `the field clusterDomain can only be "cluster.local" here (remove it, and see --cluster-domain)`,
		"cgroupDriver: cgroupfs":                               `the field cgroupDriver can only be "systemd" here (remove it)`,
		"syncFrequency: 10s":                                   `the field syncFrequency can only be "1m0s" here`,
		"featureGates: {CustomCPUCFSQuotaPeriod: true}":        "featureGates: CustomCPUCFSQuotaPeriod has no effect here",
		"registerNode: false":                                  "the field registerNode can only be true here",
		"sycnFrequency: 1m":                                    "unknown field",
		"authentication: {anonymous: {enabled: true}}":         "authentication.anonymous.enabled can only be false",
		"authentication: {webhook: {enabled: false}}":          "authentication.webhook.enabled can only be true",
		"authentication: {x509: {clientCAFile: /ca}}":          "authentication.x509.clientCAFile has no effect here",
		"authorization: {mode: AlwaysAllow}":                   "authorization.mode can only be Webhook",
		"tlsMinVersion: VersionTLS9":                           "tlsMinVersion",
		"tlsCipherSuites: [none]":                              "tlsCipherSuites",
		"healthzPort: 70000":                                   "healthzPort 70000 must be between",
		"memoryThrottlingFactor: 1.5":                          "memoryThrottlingFactor 1.5 must be greater than 0",
		"memoryReservationPolicy: All":                         `option "All" specified for memoryReservationPolicy`,
		"cpuManagerPolicyOptions: {full-pcpus-only: \"true\"}": "cpuManagerPolicyOptions need the cpuManagerPolicy static",
		"cpuManagerPolicy: static\ncpuManagerPolicyOptions: {full-pcpus-only: \"maybe\"}":                                                                                             "bad value for option",
		"cpuManagerPolicy: static\ncpuManagerPolicyOptions: {align-by-socket: \"true\"}":                                                                                              `Alpha-level Options not enabled, but option "align-by-socket" provided`,
		"cpuManagerPolicy: static\ncpuManagerPolicyOptions: {fast: \"true\"}":                                                                                                         `unknown CPU Manager Policy option: "fast"`,
		"cpuManagerPolicy: static\ncpuManagerPolicyOptions: {prefer-align-cpus-by-uncorecache: \"true\", distribute-cpus-across-numa: \"true\"}":                                      "prefer-align-cpus-by-uncorecache and distribute-cpus-across-numa can not be used at the same time",
		"cpuManagerPolicy: static\nfeatureGates: {CPUManagerPolicyAlphaOptions: true}\ncpuManagerPolicyOptions: {full-pcpus-only: \"true\", distribute-cpus-across-cores: \"true\"}":  "full-pcpus-only and distribute-cpus-across-cores can not be used at the same time",
		"cpuManagerPolicy: static\nfeatureGates: {CPUManagerPolicyAlphaOptions: true}\ntopologyManagerPolicy: single-numa-node\ncpuManagerPolicyOptions: {align-by-socket: \"true\"}": "single-numa-node is incompatible with the cpuManagerPolicyOptions align-by-socket",
		"topologyManagerPolicyOptions: {prefer-far-numa-nodes: \"true\"}":                                                                                                             `unknown Topology Manager Policy option: "prefer-far-numa-nodes"`,
		"topologyManagerPolicyOptions: {prefer-closest-numa-nodes: \"perhaps\"}":                                                                                                      "bad value for option",
		"reservedMemory: [{numaNode: 0, limits: {cpu: 1}}]":                                                                                                                           `the limit type "cpu" for NUMA node 0 is not supported`,
		"reservedMemory: [{numaNode: 0, limits: {memory: 0}}]":                                                                                                                        "reserved memory may not be zero for NUMA node 0",
		"reservedMemory: [{numaNode: 0, limits: {memory: 1}}, {numaNode: 0, limits: {memory: 2}}]":                                                                                    "the reserved memory has a duplicate value for NUMA node 0",
		"topologyManagerPolicyOptions: {max-allowable-numa-nodes: \"4\"}":                                                                                                             "should not be less than 8",
		"userNamespaces: {idsPerPod: 65537}":                                                                                                                                          "userNamespaces.idsPerPod must be a multiple of 65536",
		"userNamespaces: {idsPerPod: 65536000000}":                                                                                                                                    "userNamespaces.idsPerPod is too much",
		"enforceNodeAllocatable: [pods, system-reserved]":                                                                                                                             `systemReservedCgroup must be specified when "system-reserved" or "system-reserved-compressible" included`,
		"enforceNodeAllocatable: [kube-reserved-compressible]":                                                                                                                        `kubeReservedCgroup must be specified when "kube-reserved" or "kube-reserved-compressible" included`,
		"enforceNodeAllocatable: [pods, none]":                                                                                                                                        `may not contain additional enforcements when "none" is specified`,
		"enforceNodeAllocatable: [pods, pods]":                                                                                                                                        `duplicated enforcements "pods"`,
		"enforceNodeAllocatable: [nodes]":                                                                                                                                             `option "nodes" specified for enforceNodeAllocatable`,
		"kubeReservedCgroup: /kube\nenforceNodeAllocatable: [kube-reserved, kube-reserved-compressible]":                                                                              `both "kube-reserved" and "kube-reserved-compressible" cannot be specified together`,
		"kubeReservedCgroup: /kube\nreservedSystemCPUs: \"0\"":                                                                                                                        "can't use reservedSystemCPUs with systemReservedCgroup or kubeReservedCgroup",
		"eventRecordQPS: -1":                                "eventRecordQPS and eventBurst must not be negative",
		"nodeLeaseDurationSeconds: -1":                      "nodeLeaseDurationSeconds must be greater than 0",
		"nodeStatusUpdateFrequency: -1s":                    "must not be negative times",
		"containerLogMonitorInterval: 2s":                   "containerLogMonitorInterval must be a positive time duration greater than or equal to 3s",
		"httpCheckFrequency: -1s":                           "httpCheckFrequency must not be a negative time",
		"podsPerCore: -1":                                   "must not be negative",
		"nodeStatusMaxImages: -2":                           "nodeStatusMaxImages -2 must be -1 or greater",
		"cpuCFSQuotaPeriod: 2s":                             "cpuCFSQuotaPeriod 2s must be between",
		"imagePullCredentialsVerificationPolicy: Sometimes": `option "Sometimes" specified for imagePullCredentialsVerificationPolicy`,
		"preloadedImagesVerificationAllowlist: [a]":         "preloadedImagesVerificationAllowlist can only be set with",
		"imagePullCredentialsVerificationPolicy: NeverVerifyAllowlistedImages\npreloadedImagesVerificationAllowlist: [\"a:1\"]": "neither tag nor digest",
		"serializeImagePulls: true\nmaxParallelImagePulls: 2":                                                                   "maxParallelImagePulls cannot be larger than 1",
		"memoryManagerPolicy: BestEffort":                                                                                       "memoryManagerPolicy",
		"topologyManagerPolicy: strict":                                                                                         "topologyManagerPolicy",
		"topologyManagerScope: node":                                                                                            "topologyManagerScope",
		"memorySwap: {swapBehavior: Unlimited}":                                                                                 "memorySwap.swapBehavior",
		"crashLoopBackOff: {maxContainerRestartPeriod: 500ms}":                                                                  "crashLoopBackOff.maxContainerRestartPeriod (got: 0.5 seconds) must be set between 1s and 300s",
		"maxPods: many":                          "json: cannot unmarshal",
		"evictionHard: {memory.free: 1Gi}":       "evictionHard: memory.free: unknown signal",
		"evictionHard: {memory.available: 101%}": "is not a percentage",
		"evictionSoft: {memory.available: 1Gi}":  "grace period must be specified for the soft eviction threshold memory.available",
		"kubeReserved: {pods: \"3\"}":            `kubeReserved: cannot reserve "pods" resource`,
		"cpuManagerPolicy: dynamic":              "cpuManagerPolicy",
		"reservedSystemCPUs: x":                  "reservedSystemCPUs",
		"containerLogMaxFiles: 1":                "containerLogMaxFiles must be greater than 1",
		"imageGCLowThresholdPercent: 90":         "imageGCLowThresholdPercent must be less",
		"shutdownGracePeriodCriticalPods: 10s":   "shutdownGracePeriodCriticalPods must be <=",
		"shutdownGracePeriod: 30s\nshutdownGracePeriodByPodPriority: [{priority: 0, shutdownGracePeriodSeconds: 10}]": "must not be set at the same time",
		"shutdownGracePeriodByPodPriority: [{priority: 0, shutdownGracePeriodSeconds: -1}]":                           "must not be negative",
		"enableSystemLogHandler: false\nenableSystemLogQuery: true":                                                   "enableSystemLogHandler is required for enableSystemLogQuery",
		"maxParallelImagePulls: 0": "maxParallelImagePulls must be a positive number",
	} {
		if _, err := Load(write(t, text), api.KubeletConfiguration{ClusterDomain: "cluster.local", CgroupDriver: "systemd"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := Load("/nowhere", api.KubeletConfiguration{}); err == nil {
		t.Error("a file that is not there was read")
	}
}

// What kubeadm writes can be taken over, but for the paths of certificates, which are the cluster's own.
func TestForeignFile(t *testing.T) {
	c, err := Load(write(t, `
authentication: {anonymous: {enabled: false}, webhook: {cacheTTL: 0s, enabled: true}, x509: {}}
authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}}
cgroupDriver: systemd
clusterDNS: [10.43.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: ""
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
logging: {flushFrequency: 0, options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}, verbosity: 0}
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
`), api.KubeletConfiguration{CgroupDriver: "systemd", ClusterDNS: []string{"10.43.0.10"}, ClusterDomain: "cluster.local", StaticPodPath: "/etc/kubernetes/manifests"})
	if err != nil {
		t.Fatal(err)
	}
	if c.EvictionPressureTransitionPeriod.Duration != 5*time.Minute || c.CrashLoopBackOff.MaxContainerRestartPeriod.Duration != 5*time.Minute || c.SyncFrequency.Duration != time.Minute || *c.HealthzPort != 10248 {
		t.Errorf("what was left empty: %+v", c)
	}
}

// Static pods may come from a web server, and events are limited, or not.
func TestSourcesAndEvents(t *testing.T) {
	for text, want := range map[string]string{
		"": " map[] 20s 50 100",
		"staticPodURL: https://a/pods\nstaticPodURLHeader: {X-Key: [b, c]}\nhttpCheckFrequency: 1m": "https://a/pods map[X-Key:[b c]] 1m0s 50 100",
		"eventRecordQPS: 0\neventBurst: 7": " map[] 20s 0 7",
	} {
		c, err := Load(write(t, text), api.KubeletConfiguration{})
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(c.StaticPodURL, " ", c.StaticPodURLHeader, " ", c.HTTPCheckFrequency.Duration, *c.EventRecordQPS, c.EventBurst); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// The rhythm of a node: who says only how often it looks, says how often it reports, too.
func TestRhythm(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "10s 5m0s 40 10s",
		"nodeStatusUpdateFrequency: 20s":     "20s 20s 40 10s",
		"nodeStatusReportFrequency: 1m":      "10s 1m0s 40 10s",
		"nodeLeaseDurationSeconds: 20":       "10s 5m0s 20 10s",
		"containerLogMonitorInterval: 1m30s": "10s 5m0s 40 1m30s",
	} {
		c, err := Load(write(t, text), api.KubeletConfiguration{})
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(c.NodeStatusUpdateFrequency.Duration, c.NodeStatusReportFrequency.Duration, c.NodeLeaseDurationSeconds, c.ContainerLogMonitorInterval.Duration); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// A machine that swaps is no node only if that was asked for.
func TestCheckSwap(t *testing.T) {
	for text, refuses := range map[string]bool{"": false, "failSwapOn: false": false, "failSwapOn: true": true} {
		c, err := Load(write(t, text), api.KubeletConfiguration{})
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckSwap(c, 0); err != nil {
			t.Errorf("%s: without swap: %v", text, err)
		}
		if err := CheckSwap(c, 1<<30); (err != nil) != refuses {
			t.Errorf("%s: with swap: %v", text, err)
		}
	}
}

// What is said of fields is said of fields that there are.
func TestFields(t *testing.T) {
	known := map[string]bool{}
	for i := range reflect.TypeFor[api.KubeletConfiguration]().NumField() {
		name, _, _ := strings.Cut(reflect.TypeFor[api.KubeletConfiguration]().Field(i).Tag.Get("json"), ",")
		known[name] = true
	}
	for _, name := range slices.Concat(fields[2:], slices.Collect(maps.Keys(flags))) {
		if !known[name] {
			t.Errorf("a KubeletConfiguration has no field %s", name)
		}
	}
}
