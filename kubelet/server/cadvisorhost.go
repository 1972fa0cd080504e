// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/kubelet/diskusage"
	"github.com/skiff-k8s/skiff/kubelet/numa"
)

// What cAdvisor tells besides what cgroups count: the file system that the machine's pods live on, the files that
// containers have open, and how many cores and sockets there are.

// fileSystem is of the machine as a whole: how full the kubelet's disk is, and what the kernel counts of that disk.
func (c *cadvisor) fileSystem(dir string, labels []string) {
	f, err := diskusage.OfFileSystem(dir)
	if err != nil {
		return // then the summary says so
	}
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		return
	}
	number := fmt.Sprintf("%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev))
	device := []string{"device", deviceName(number)}
	c.gauge("container_fs_inodes_free", "Number of available Inodes", float64(f.InodesFree), labels, device...)
	c.gauge("container_fs_inodes_total", "Number of Inodes", float64(f.Inodes), labels, device...)
	c.gauge("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", float64(f.Capacity), labels, device...)
	c.gauge("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", float64(f.Used), labels, device...)
	data, err := os.ReadFile("/proc/diskstats")
	if err != nil {
		return
	}
	if columns := diskColumns(data, number); columns != nil {
		c.disk(columns, labels, device)
	}
}

// diskColumns are the counts of /proc/diskstats for a device; nil if it has none, as a tmpfs.
// Reference: https://docs.kernel.org/admin-guide/iostats.html
func diskColumns(diskstats []byte, number string) []float64 {
	lines := bufio.NewScanner(bytes.NewReader(diskstats))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 14 || fields[0]+":"+fields[1] != number {
			continue
		}
		columns := make([]float64, 11)
		for i := range columns {
			columns[i], _ = strconv.ParseFloat(fields[3+i], 64) // the kernel writes numbers there
		}
		return columns
	}
	return nil
}

func (c *cadvisor) disk(columns []float64, labels, device []string) {
	const milli = 1e-3
	c.count("container_fs_reads_merged_total", "Cumulative count of reads merged", columns[1], labels, device...)
	c.count("container_fs_sector_reads_total", "Cumulative count of sector reads completed", columns[2], labels, device...)
	c.count("container_fs_read_seconds_total", "Cumulative count of seconds spent reading", columns[3]*milli, labels, device...)
	c.count("container_fs_writes_merged_total", "Cumulative count of writes merged", columns[5], labels, device...)
	c.count("container_fs_sector_writes_total", "Cumulative count of sector writes completed", columns[6], labels, device...)
	c.count("container_fs_write_seconds_total", "Cumulative count of seconds spent writing", columns[7]*milli, labels, device...)
	c.gauge("container_fs_io_current", "Number of I/Os currently in progress", columns[8], labels, device...)
	c.count("container_fs_io_time_seconds_total", "Cumulative count of seconds spent doing I/Os", columns[9]*milli, labels, device...)
	c.count("container_fs_io_time_weighted_seconds_total", "Cumulative weighted I/O time in seconds", columns[10]*milli, labels, device...)
}

// files counts what the processes of a container have open, and says how much its first one may.
func (c *cadvisor) files(pids []int, labels []string) {
	open, sockets := 0, 0
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // it ended
		}
		open += len(entries)
		for _, e := range entries {
			if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.HasPrefix(target, "socket") {
				sockets++
			}
		}
	}
	c.gauge("container_file_descriptors", "Number of open file descriptors for the container.", float64(open), labels)
	c.gauge("container_sockets", "Number of open sockets for the container.", float64(sockets), labels)
	var limit unix.Rlimit
	if err := unix.Prlimit(pids[0], unix.RLIMIT_NOFILE, nil, &limit); err == nil {
		c.gauge("container_ulimits_soft", "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice",
			float64(int64(limit.Cur)), labels, "ulimit", "max_open_files")
	}
}

// place is where a CPU is.
type place struct{ node, socket, core int }

// readTopology reads it below /sys/devices/system, for each CPU.
func readTopology(dir string) ([]place, error) {
	nodes, err := numa.Read(filepath.Join(dir, "node"))
	if err != nil {
		return nil, err
	}
	var places []place
	for node, cpus := range nodes {
		for _, cpu := range cpus.List() {
			p := place{node: node}
			at := filepath.Join(dir, "cpu", fmt.Sprintf("cpu%d", cpu), "topology")
			for file, to := range map[string]*int{"physical_package_id": &p.socket, "core_id": &p.core} {
				raw, err := os.ReadFile(filepath.Join(at, file))
				if err != nil {
					return nil, fmt.Errorf("read where CPU %d is: %w", cpu, err)
				}
				if *to, err = strconv.Atoi(strings.TrimSpace(string(raw))); err != nil {
					return nil, fmt.Errorf("read where CPU %d is: %w", cpu, err)
				}
			}
			places = append(places, p)
		}
	}
	return places, nil
}

func (c *cadvisor) topology(places []place, ids []string) {
	cores, sockets := map[place]bool{}, map[int]bool{}
	for _, p := range places {
		cores[p], sockets[p.socket] = true, true
	}
	c.gauge("machine_cpu_physical_cores", "Number of physical CPU cores.", float64(len(cores)), nil, ids...)
	c.gauge("machine_cpu_sockets", "Number of CPU sockets.", float64(len(sockets)), nil, ids...)
}
