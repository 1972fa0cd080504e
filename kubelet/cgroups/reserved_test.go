// SPDX-License-Identifier: Apache-2.0

package cgroups

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// The operator's groups are limited where they are, and never made.
func TestEnforce(t *testing.T) {
	reserved := v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m"), v1.ResourceMemory: resource.MustParse("64Mi"), "pid": resource.MustParse("100")}
	for _, c := range []struct {
		name   string
		groups map[string]string // files of the groups
		config Config
		r      Reservation
		want   string // what the kernel is asked, or the error
	}{
		{
			"v2", map[string]string{"cgroup.controllers": "cpu memory pids rdma", "system/daemons/cgroup.controllers": "cpu memory pids"}, Config{},
			Reservation{Group: "/system/daemons", Amounts: reserved},
			"system/daemons/cpu.weight = 35, system/daemons/memory.max = 67108864, system/daemons/memory.min = 67108864, system/daemons/pids.max = 100",
		},
		{
			"v2, the CPU alone, with systemd", map[string]string{"cgroup.controllers": "cpu", "a.slice/a-b.slice/cgroup.controllers": "cpu"}, Config{Driver: Systemd},
			Reservation{Group: "/a-b.slice", Amounts: reserved, Compressible: true}, "a.slice/a-b.slice/cpu.weight = 35",
		},
		{
			"v1", map[string]string{"cpu,cpuacct/kube/x": "", "memory/kube/x": "", "pids/kube/x": "", "hugetlb/kube/x": "", "blkio/x": ""}, Config{HugePageSizes: []string{"2MB"}},
			Reservation{Group: "kube", Amounts: reserved},
			"cpu,cpuacct/kube/cpu.shares = 256, memory/kube/memory.limit_in_bytes = 67108864, pids/kube/pids.max = 100, hugetlb/kube/hugetlb.2MB.limit_in_bytes = 0, hugetlb/kube/hugetlb.2MB.rsvd.limit_in_bytes = 0",
		},
		{
			"v1, a group is missing", map[string]string{"cpu,cpuacct/kube/x": "", "memory/x": ""}, Config{}, Reservation{Group: "/kube", Amounts: reserved},
			`cgroup ["kube"] has some missing paths: MOUNT/memory/kube`,
		},
		{
			"v2, a controller is missing", map[string]string{"cgroup.controllers": "cpu memory pids", "kube/cgroup.controllers": "cpu"}, Config{}, Reservation{Group: "/kube", Amounts: reserved},
			`cgroup ["kube"] has some missing controllers: memory, pids`,
		},
		{
			"v2, the group is missing", map[string]string{"cgroup.controllers": "cpu"}, Config{}, Reservation{Group: "/kube", Amounts: reserved},
			`could not read controllers for cgroup ["kube"]: open MOUNT/kube/cgroup.controllers: no such file or directory`,
		},
		{"nothing is reserved", map[string]string{"cgroup.controllers": "cpu"}, Config{}, Reservation{Group: "/kube"}, `["kube"] cgroup is not configured properly`},
	} {
		mount := t.TempDir()
		files(t, mount, c.groups)
		if _, v1 := c.groups["cgroup.controllers"]; !v1 {
			for _, link := range []string{"cpu", "cpuacct"} {
				if err := os.Symlink("cpu,cpuacct", filepath.Join(mount, link)); err != nil {
					t.Fatal(err)
				}
			}
		}
		c.config.Mount, c.config.Root = mount, "/skiff"
		tree, err := New(c.config)
		if err != nil {
			t.Fatal(err)
		}
		kernel := &notebook{mount: mount}
		tree.kernel = kernel
		got := ""
		if err := tree.Enforce(c.r); err != nil {
			got = strings.ReplaceAll(err.Error(), mount, "MOUNT")
		} else {
			got = strings.Join(kernel.asked, ", ")
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// notebook is a kernel with all files, that notes what is written.
type notebook struct {
	mount string
	asked []string
}

func (n *notebook) mkdir(dir string) error {
	n.asked = append(n.asked, "mkdir "+dir)
	return nil
}

func (n *notebook) write(path, value string) error {
	n.asked = append(n.asked, strings.TrimPrefix(path, n.mount+"/")+" = "+value)
	return nil
}
