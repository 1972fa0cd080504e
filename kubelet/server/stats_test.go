// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/skiff-k8s/skiff/kubelet/cgroups"
)

// talkative is a node whose runtime tells all that the CRI has.
type talkative struct{ *node }

func (n talkative) ListPodSandboxStats(context.Context, *runtimeapi.ListPodSandboxStatsRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	at := time.Now().UnixNano()
	one := func() *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: 1} }
	psi := &runtimeapi.PsiStats{Full: &runtimeapi.PsiData{Total: 1, Avg10: 1, Avg60: 1, Avg300: 1}, Some: &runtimeapi.PsiData{Total: 1, Avg10: 1, Avg60: 1, Avg300: 1}}
	cpu := &runtimeapi.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: one(), UsageNanoCores: one(), Psi: psi}
	memory := &runtimeapi.MemoryUsage{Timestamp: at, WorkingSetBytes: one(), AvailableBytes: one(), UsageBytes: one(), RssBytes: one(), PageFaults: one(), MajorPageFaults: one(), Psi: psi}
	link := &runtimeapi.NetworkInterfaceUsage{Name: "eth0", RxBytes: one(), RxErrors: one(), TxBytes: one(), TxErrors: one()}
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: []*runtimeapi.PodSandboxStats{{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: "s1", Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "uid"}},
		Linux: &runtimeapi.LinuxPodSandboxStats{
			Cpu: cpu, Memory: memory, Io: &runtimeapi.IoUsage{Timestamp: at, Psi: psi}, Process: &runtimeapi.ProcessUsage{Timestamp: at, ProcessCount: one()},
			Network: &runtimeapi.NetworkUsage{Timestamp: at, DefaultInterface: &runtimeapi.NetworkInterfaceUsage{Name: "lo"}, Interfaces: []*runtimeapi.NetworkInterfaceUsage{link}},
			Containers: []*runtimeapi.ContainerStats{{
				Attributes: &runtimeapi.ContainerAttributes{Id: "c1", Metadata: &runtimeapi.ContainerMetadata{Name: "main"}}, Cpu: cpu, Memory: memory,
				Io: &runtimeapi.IoUsage{Timestamp: at, Psi: psi}, Swap: &runtimeapi.SwapUsage{Timestamp: at, SwapAvailableBytes: one(), SwapUsageBytes: one()},
				WritableLayer: &runtimeapi.FilesystemUsage{Timestamp: at, UsedBytes: one(), InodesUsed: one()},
			}},
		},
	}}}, nil
}

func (n talkative) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest, ...grpc.CallOption) (*runtimeapi.ImageFsInfoResponse, error) {
	fs := []*runtimeapi.FilesystemUsage{{FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/"}, UsedBytes: &runtimeapi.UInt64Value{Value: 1}, InodesUsed: &runtimeapi.UInt64Value{Value: 1}}}
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: fs, ContainerFilesystems: fs}, nil
}

// absentFields are those of the published types that a summary never has.
var absentFields = map[string]string{
	"accelerators":       "upstream fills it no more: devices have plugins",
	"userDefinedMetrics": "upstream fills it no more",
}

// hostFields depend on the machine: whether its kernel tells of pressure, and what its network is called.
var hostFields = []string{"node.io", "node.cpu.psi", "node.memory.psi", "node.network"}

// A summary has all fields of the published types that upstream fills.
func TestFieldsOfSummary(t *testing.T) {
	s, n, _ := newServer(t, "get nodes/n1/stats")
	s.config.Runtime, s.config.Images = talkative{n}, talkative{n}
	s.stats = newStatsProvider(s.config)
	n.pod.Spec.Volumes = append(n.pod.Spec.Volumes, corev1.Volume{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	dir := t.TempDir()
	s.config.Volumes = func(types.UID) map[string]string { return map[string]string{"v": dir, "scratch": dir} }
	get(s, "/stats/summary") // how fast is known from the second look on
	res := get(s, "/stats/summary")
	var have any
	if err := json.Unmarshal(res.Body.Bytes(), &have); err != nil {
		t.Fatalf("%v: %s", err, res.Body)
	}
	present := map[string]bool{}
	walkJSON("", have, present)
	want := map[string]bool{}
	walkType("", reflect.TypeFor[stats.Summary](), want)
	if len(want) < 80 {
		t.Fatalf("the types have only %d fields", len(want))
	}
	for _, path := range slices.Sorted(maps.Keys(want)) {
		last := path[strings.LastIndex(path, ".")+1:]
		onHost := slices.ContainsFunc(hostFields, func(prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+".") })
		if !present[path] && !onHost && !absentIn(path) {
			t.Errorf("the summary has no %s", path)
		}
		if present[path] && absentFields[last] != "" {
			t.Errorf("%s is there, and listed as absent: %s", path, absentFields[last])
		}
	}
}

// absentIn says that a path is that of an absent field, or of what is in one. System containers are only told in parts, as
// cgroups know no layers and logs of them.
func absentIn(path string) bool {
	if rest, of := strings.CutPrefix(path, "node.systemContainers."); of {
		return !slices.Contains([]string{"name", "startTime", "cpu.time", "cpu.usageCoreNanoSeconds", "memory.workingSetBytes"}, rest)
	}
	return slices.ContainsFunc(strings.Split(path, "."), func(part string) bool { return absentFields[part] != "" })
}

func walkJSON(at string, v any, found map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			path := strings.TrimPrefix(at+"."+key, ".")
			found[path] = true
			walkJSON(path, value, found)
		}
	case []any:
		for _, value := range v {
			walkJSON(at, value, found)
		}
	}
}

func walkType(at string, t reflect.Type, found map[string]bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t.Name() == "Time" {
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous {
			walkType(at, f.Type, found)
			continue
		}
		path := strings.TrimPrefix(at+"."+name, ".")
		found[path] = true
		walkType(path, f.Type, found)
	}
}

// Who only wants CPU and memory gets swap with them, and nothing that takes longer to find out.
func TestOnlyCPUAndMemory(t *testing.T) {
	s, n, _ := newServer(t, "get nodes/n1/stats", "create nodes/n1/stats")
	s.config.Runtime, s.config.Images = talkative{n}, talkative{n}
	s.stats = newStatsProvider(s.config)
	for _, method := range []string{"GET", "POST"} {
		var have stats.Summary
		if res := do(s, method, "/stats/summary?only_cpu_and_memory=true"); json.Unmarshal(res.Body.Bytes(), &have) != nil || len(have.Pods) != 1 || len(have.Pods[0].Containers) != 1 {
			t.Fatalf("%s: %d %s", method, res.Code, res.Body)
		}
		pod, c := have.Pods[0], have.Pods[0].Containers[0]
		if have.Node.Swap == nil || have.Node.Memory == nil || len(have.Node.SystemContainers) == 0 || pod.Swap == nil || pod.CPU == nil || c.Swap == nil || c.Memory == nil {
			t.Errorf("%s: something is missing in %+v", method, have)
		}
		if have.Node.Fs != nil || pod.Network != nil || c.Rootfs != nil || c.Logs != nil {
			t.Errorf("%s: there is too much in %+v", method, have)
		}
		if booted := have.Node.StartTime.Time; booted.IsZero() || booted.After(time.Now()) || time.Since(booted) < time.Second {
			t.Errorf("%s: the machine was started at %v", method, booted)
		}
	}
}

func TestWithoutHugePages(t *testing.T) {
	for _, c := range []struct {
		available uint64
		pages     map[int64]int64
		want      uint64
	}{
		{100, nil, 100},
		{100, map[int64]int64{2 << 20: 30, 1 << 30: 20}, 50},
		{40, map[int64]int64{2 << 20: 30, 1 << 30: 20}, 0},
	} {
		if got := withoutHugePages(c.available, c.pages); got != c.want {
			t.Errorf("%d without %v = %d, want %d", c.available, c.pages, got, c.want)
		}
	}
}

// This process and the runtime are among the system containers, whether they are one process or two.
func TestSystemContainers(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "runtime.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	told := func(socket, own, other string) string {
		p := &statsProvider{cgroups: groups(t), runtimeSocket: socket}
		p.groupOf = func(process string) (cgroups.Group, bool) {
			path := map[string]string{"self": own, strconv.Itoa(os.Getpid()): other}[process]
			return cgroups.Group{Path: path}, path != ""
		}
		var all []string
		for _, c := range p.systemContainers() {
			all = append(all, fmt.Sprintf("%s %d", c.Name, *c.Memory.UsageBytes))
		}
		return strings.Join(all, ", ")
	}
	for _, c := range []struct{ socket, own, other, want string }{
		{"", "/system/skiff", "", "kubelet 10, runtime 10, pods 0"}, // in one process
		{socket, "/system/skiff", "/system/crio", "kubelet 10, runtime 20, pods 0"},
		{socket + ".gone", "/system/skiff", "/system/crio", "kubelet 10, pods 0"},
		{"", "", "", "pods 0"}, // processors and memory are not counted by one group
	} {
		if got := told(c.socket, c.own, c.other); got != c.want {
			t.Errorf("with a runtime at %q: %s, want %s", c.socket, got, c.want)
		}
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
}
