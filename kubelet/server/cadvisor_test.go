// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"k8s.io/component-base/metrics"

	"github.com/skiff-k8s/skiff/kubelet/cgroups"
	kubeletnode "github.com/skiff-k8s/skiff/kubelet/node"
)

// All series that there can be are those of testdata/cadvisor.txt, which conformance/rules compares with cAdvisor's own.
func TestSeriesOfCadvisor(t *testing.T) {
	sys := t.TempDir()
	for path, text := range map[string]string{
		"node/online": "0-1\n", "node/node0/cpulist": "0-1\n", "node/node1/cpulist": "2\n",
		"cpu/cpu0/topology/physical_package_id": "0\n", "cpu/cpu0/topology/core_id": "0\n",
		"cpu/cpu1/topology/physical_package_id": "0\n", "cpu/cpu1/topology/core_id": "0\n",
		"cpu/cpu2/topology/physical_package_id": "1\n", "cpu/cpu2/topology/core_id": "0\n",
	} {
		path = filepath.Join(sys, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	where, err := readTopology(sys)
	if err != nil {
		t.Fatal(err)
	}
	columns := diskColumns([]byte("   8       0 sda 1 2 3 4000 5 6 7 8000 9 10000 11000\n 252  0 vda 1 1 1 1 1 1 1 1 1 1 1\n"), "8:0")
	c := &cadvisor{descs: map[string]*metrics.Desc{}, now: time.Now()}
	machine := kubeletnode.Machine{CPUs: 3}
	c.about(machine)
	c.topology(where, idsOf(machine))
	labels := []string{"main", "/x", "busybox", "c1", "default", "web"}
	c.usage(cgroups.Usage{Quota: 1000, Disks: map[string]cgroups.DiskUsage{"8:0": {ReadBytes: 1}},
		Pressure: map[string]cgroups.Pressure{"cpu": {Some: 3 * time.Second}, "memory": {}, "io": {}}}, labels)
	c.born(time.Unix(1, 0), labels)
	c.fileSystem(t.TempDir(), labels)
	c.disk(columns, labels, []string{"device", "/dev/sda"})
	c.files([]int{os.Getpid()}, labels)
	c.traffic([]byte("Inter-| x\n face | x\n eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"), labels)
	c.errors(0)

	var have []string
	value := map[string]float64{}
	registry := metrics.NewKubeRegistry()
	registry.CustomMustRegister(&c.sampler)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		var names []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			names = append(names, l.GetName())
		}
		have = append(have, fmt.Sprintf("%s %s %s", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(names, ",")))
		for _, m := range f.GetMetric() {
			if !slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == "device" && l.GetValue() != "/dev/sda" }) {
				value[f.GetName()] += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	raw, err := os.ReadFile("testdata/cadvisor.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(raw)), "\n")
	for _, line := range have {
		if !slices.Contains(want, line) {
			t.Errorf("testdata/cadvisor.txt lacks %s", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(have, line) {
			t.Errorf("there is no %s", line)
		}
	}
	for name, want := range map[string]float64{
		"machine_cpu_physical_cores": 2, "machine_cpu_sockets": 2,
		"container_fs_reads_merged_total": 2, "container_fs_sector_reads_total": 3, "container_fs_read_seconds_total": 4, "container_fs_writes_merged_total": 6,
		"container_fs_sector_writes_total": 7, "container_fs_write_seconds_total": 8, "container_fs_io_current": 9, "container_fs_io_time_seconds_total": 10,
		"container_fs_io_time_weighted_seconds_total": 11, "container_pressure_cpu_waiting_seconds_total": 3, "container_network_transmit_bytes_total": 9,
	} {
		if math.Abs(value[name]-want) > 1e-9 {
			t.Errorf("%s is %v, want %v", name, value[name], want)
		}
	}
	if value["container_file_descriptors"] < 3 {
		t.Errorf("this process has %v open files", value["container_file_descriptors"])
	}
}

// A sandbox without processes, such as CRI-O's, has the network of its pod's containers, and of no other pod's.
func TestNetworkOfEmptySandbox(t *testing.T) {
	mount := t.TempDir()
	for group, pid := range map[string]string{"poda/s1": "", "poda/c1": "11", "podb/s2": "21", "podb/c2": "22", "podc/s3": ""} {
		dir := filepath.Join(mount, "kubepods", group)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(pid), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(mount, "cgroup.controllers"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	tree, err := cgroups.New(cgroups.Config{Mount: mount, Root: "/", Driver: cgroups.Cgroupfs})
	if err != nil {
		t.Fatal(err)
	}
	groups, got := tree.Groups(), map[string]int{}
	for _, g := range groups {
		if pid, ok := inNetwork(tree, groups, g); ok && strings.HasPrefix(g.Container, "s") {
			got[g.Container] = pid
		}
	}
	if want := map[string]int{"s1": 11, "s2": 21}; !maps.Equal(got, want) {
		t.Errorf("processes in the networks of sandboxes: %v, want %v", got, want)
	}
}
