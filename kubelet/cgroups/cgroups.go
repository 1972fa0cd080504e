// SPDX-License-Identifier: Apache-2.0

// Package cgroups keeps the tree of control groups that pods live in:
//
//	<root>/kubepods                       what pods may use in all (node allocatable)
//	<root>/kubepods/pod<uid>              Guaranteed pods
//	<root>/kubepods/burstable/pod<uid>
//	<root>/kubepods/besteffort/pod<uid>
//
// It writes the files of cgroup v1 (every controller that is mounted) or v2, and never touches anything outside
// its own root, but for the groups that the operator wants limited to what is reserved for them (reserved.go). With the
// systemd driver the same tree is made of slices, named as systemd wants them.
package cgroups

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"
	"k8s.io/kubectl/pkg/util/qos"
)

// Driver says who makes the groups, as the runtime must be told too.
type Driver string

// The drivers.
const (
	Cgroupfs Driver = "cgroupfs"
	Systemd  Driver = "systemd"
)

// Config is what the operator chose.
type Config struct {
	Mount     string // /sys/fs/cgroup
	Root      string // below which the tree is made: "/" or "/some/group"
	Driver    Driver
	CPUPeriod time.Duration
	PodPids   int64 // 0: no limit

	HugePageSizes []string // that the kernel has, as it writes them ("2MB")

	WithoutQuota func(*v1.Pod) bool // says whose CPU time is not limited; nil: nobody's
	MemoryQoS    MemoryQoS          // needs cgroup v2
}

// Tree is the tree of groups of one node. It keeps no state but what the kernel keeps.
type Tree struct {
	cfg         Config
	unified     bool     // cgroup v2
	controllers []string // v1: folders of the mounted controllers
	kernel      kernel
}

// kernel is what makes and changes groups.
type kernel interface {
	mkdir(dir string) error
	write(path, value string) error // a file that the kernel made
}

// v1Controllers are those that Kubernetes uses; named as the kernel does. On a hybrid machine runc makes each
// group in the v2 tree (unified) too, from where it has to be removed again.
var v1Controllers = []string{"cpu", "cpuacct", "cpuset", "memory", "pids", "hugetlb", "blkio", "devices", "freezer", "systemd", "unified"}

// New finds out which version of cgroups there is.
func New(cfg Config) (*Tree, error) {
	if cfg.CPUPeriod == 0 {
		cfg.CPUPeriod = 100 * time.Millisecond
	}
	t := &Tree{cfg: cfg, kernel: realKernel{}}
	if _, err := os.Stat(filepath.Join(cfg.Mount, "cgroup.controllers")); err == nil {
		t.unified = true
		return t, nil
	}
	for _, name := range v1Controllers {
		dir, err := filepath.EvalSymlinks(filepath.Join(cfg.Mount, name))
		if err == nil && !slices.Contains(t.controllers, dir) { // cpu and cpuacct may be one
			t.controllers = append(t.controllers, dir)
		}
	}
	if len(t.controllers) == 0 {
		return nil, fmt.Errorf("find cgroup controllers: none below %s (mount cgroup v1 or v2 there)", cfg.Mount)
	}
	return t, nil
}

// Unified says whether this is cgroup v2.
func (t *Tree) Unified() bool { return t.unified }

// LimitsSwap says whether the kernel counts swap by groups.
func (t *Tree) LimitsSwap() bool {
	file := filepath.Join(t.cfg.Mount, "memory", "memory.memsw.limit_in_bytes")
	if t.unified { // the root of the tree has no such file, but the group of this process
		own, err := os.ReadFile("/proc/self/cgroup")
		path, found := strings.CutPrefix(strings.TrimSpace(string(own)), "0::")
		if err != nil || !found {
			return false
		}
		file = filepath.Join(t.cfg.Mount, path, "memory.swap.max")
	}
	_, err := os.Stat(file)
	return err == nil
}

// Unlimited takes away a limit of memory or processes that a group may have from before.
const Unlimited = -1

// Limits are what a group may use; zero leaves it as it is, which is without a limit in a new group.
type Limits struct {
	CPUShares   int64
	CPUQuota    int64 // microseconds per CPUPeriod
	MemoryBytes int64
	Pids        int64
	HugePages   map[string]int64 // bytes by page size, "2MB"; nil: as they are, else 0 for each that is not among them

	MemoryHigh int64       // above it the group is slowed down; v2 only
	MemoryMin  int64       // which nobody can take away from it; v2 only
	Protection *Protection // nil: as it is; v2 only
}

// PodLimits are the limits of a pod's group. A limit holds only if each container has one.
func (t *Tree) PodLimits(pod *v1.Pod) Limits {
	options := resource.PodResourcesOptions{}
	requests, limits := resource.PodRequests(pod, options), resource.PodLimits(pod, options)
	out := Limits{CPUShares: Shares(requests.Cpu().MilliValue()), Pids: t.cfg.PodPids, HugePages: HugePages(requests)}
	class := qos.GetPodQOS(pod)
	if class == v1.PodQOSBestEffort {
		out.CPUShares = minShares
		return out
	}
	out.Protection = t.cfg.MemoryQoS.Protection(class, requests.Memory().Value())
	if allLimited(pod, v1.ResourceCPU) && (t.cfg.WithoutQuota == nil || !t.cfg.WithoutQuota(pod)) {
		out.CPUQuota = Quota(limits.Cpu().MilliValue(), t.period())
	}
	if allLimited(pod, v1.ResourceMemory) {
		out.MemoryBytes = limits.Memory().Value()
	}
	if resource.IsPodLevelResourcesSet(pod) { // else its containers are slowed down, each by itself
		out.MemoryHigh = t.cfg.MemoryQoS.High(requests.Memory().Value(), out.MemoryBytes)
	}
	return out
}

// HugePages are those of a list of resources, by the kernel's name of their size.
func HugePages(list v1.ResourceList) map[string]int64 {
	pages := map[string]int64{}
	for name, amount := range list {
		size, is := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix)
		if size, iec := strings.CutSuffix(size, "i"); is && iec { // the API's "2Mi" is the kernel's "2MB"
			pages[size+"B"] = amount.Value()
		}
	}
	return pages
}

func (t *Tree) period() int64 { return int64(t.cfg.CPUPeriod / time.Microsecond) }

func allLimited(pod *v1.Pod, name v1.ResourceName) bool {
	if pod.Spec.Resources != nil && !pod.Spec.Resources.Limits.Name(name, "").IsZero() {
		return true
	}
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Resources.Limits.Name(name, "").IsZero() {
				return false
			}
		}
	}
	return true
}

// Limits reads what the pod's group is limited to now (but for the shares of v2, which limit nothing), and the memory
// that it uses.
func (t *Tree) Limits(pod *v1.Pod) (l Limits, memory int64, err error) {
	if !t.Exists(pod) {
		return l, 0, fmt.Errorf("cgroup %s does not exist", t.path(podName(pod)))
	}
	if t.unified {
		quota, _, _ := strings.Cut(t.read(pod, "", "cpu.max"), " ")
		l = Limits{CPUQuota: number(quota), MemoryBytes: number(t.read(pod, "", "memory.max"))}
		return l, number(t.read(pod, "", "memory.current")), nil
	}
	l = Limits{
		CPUShares: number(t.read(pod, "cpu", "cpu.shares")), CPUQuota: max(number(t.read(pod, "cpu", "cpu.cfs_quota_us")), 0),
		MemoryBytes: number(t.read(pod, "memory", "memory.limit_in_bytes")),
	}
	if l.MemoryBytes > math.MaxInt64/2 {
		l.MemoryBytes = 0 // how v1 writes no limit
	}
	return l, number(t.read(pod, "memory", "memory.usage_in_bytes")), nil
}

// SetLimits changes the limits of the pod's group.
func (t *Tree) SetLimits(pod *v1.Pod, l Limits) error { return t.apply(podName(pod), l) }

// Processes counts those of the pod, threads included; 0 if the kernel does not.
func (t *Tree) Processes(pod *v1.Pod) int64 { return number(t.read(pod, "pids", "pids.current")) }

// read returns a file of the pod's group; empty if there is none.
func (t *Tree) read(pod *v1.Pod, controller, file string) string {
	for _, dir := range t.dirs(podName(pod)) {
		if !t.unified && !slices.Contains(strings.Split(filepath.Base(t.controllerOf(dir)), ","), controller) {
			continue
		}
		if data, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
			return strings.TrimSpace(string(data))
		}
	}
	return ""
}

// number reads a setting; 0 for none, "max" or nonsense.
func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// name is a place in the tree: the path's elements below the root.
type name []string

const kubepods = "kubepods"

func classOf(pod *v1.Pod) name {
	switch qos.GetPodQOS(pod) {
	case v1.PodQOSBestEffort:
		return name{kubepods, "besteffort"}
	case v1.PodQOSBurstable:
		return name{kubepods, "burstable"}
	}
	return name{kubepods}
}

func podName(pod *v1.Pod) name { return append(classOf(pod), "pod"+string(pod.UID)) }

// path is where a group lies below the mount point.
func (t *Tree) path(n name) string { return t.pathBelow(t.cfg.Root, n) }

func (t *Tree) pathBelow(root string, n name) string {
	if t.cfg.Driver != Systemd {
		return filepath.Join(append([]string{root}, n...)...)
	}
	path, slice := root, ""
	for _, element := range n {
		slice = strings.TrimPrefix(slice+"-"+strings.ReplaceAll(element, "-", "_"), "-")
		path = filepath.Join(path, slice+".slice")
	}
	return path
}

// Parent is what the runtime is told to put a pod's containers under.
func (t *Tree) Parent(pod *v1.Pod) string {
	path := t.path(podName(pod))
	if t.cfg.Driver == Systemd {
		return filepath.Base(path)
	}
	return path
}

// EnsureRoot makes the groups that hold the pods, limited to what the node gives to pods.
func (t *Tree) EnsureRoot(allocatable Limits) error {
	if err := t.ensure(name{kubepods}, allocatable); err != nil {
		return err
	}
	if err := t.ensure(name{kubepods, "besteffort"}, Limits{CPUShares: minShares}); err != nil {
		return err
	}
	if err := t.ensure(name{kubepods, "burstable"}, Limits{CPUShares: minShares}); err != nil || t.cfg.MemoryQoS.Tiered {
		return err
	}
	return t.ProtectMemory(0, 0) // an earlier process may have been told to
}

// SetBurstableShares gives the burstable class the CPU that its pods request together.
func (t *Tree) SetBurstableShares(shares int64) error {
	return t.apply(name{kubepods, "burstable"}, Limits{CPUShares: shares})
}

// Exists says whether the pod's group is there, in all controllers.
func (t *Tree) Exists(pod *v1.Pod) bool {
	for _, dir := range t.dirs(podName(pod)) {
		if _, err := os.Stat(dir); err != nil {
			return false
		}
	}
	return true
}

// Ensure makes the pod's group with its limits.
func (t *Tree) Ensure(pod *v1.Pod) error { return t.ensure(podName(pod), t.PodLimits(pod)) }

// Remove removes the pod's group, and what is left below it, once its processes have ended.
func (t *Tree) Remove(pod *v1.Pod) error {
	var errs []error
	for _, dir := range t.dirs(podName(pod)) {
		errs = append(errs, removeTree(dir))
	}
	return errors.Join(errs...)
}

// Orphans are the UIDs of pods that have a group, for a comparison with the pods there are.
func (t *Tree) Orphans(known func(types.UID) bool) []types.UID {
	seen := map[types.UID]bool{}
	var uids []types.UID
	t.eachPodDir(func(uid types.UID, _ string) {
		if !known(uid) && !seen[uid] {
			seen[uid] = true
			uids = append(uids, uid)
		}
	})
	return uids
}

// RemoveUID removes a pod's group, of whichever class it was.
func (t *Tree) RemoveUID(uid types.UID) error {
	var errs []error
	t.eachPodDir(func(other types.UID, dir string) {
		if other == uid {
			errs = append(errs, removeTree(dir))
		}
	})
	return errors.Join(errs...)
}

// RemoveAll removes the whole tree with the processes in it: for the end of a node. It says whether there was one.
func (t *Tree) RemoveAll() (removed bool, err error) {
	var errs []error
	for _, dir := range t.dirs(name{kubepods}) {
		if _, err := os.Stat(dir); err == nil {
			removed = true
			errs = append(errs, removeTree(dir))
		}
	}
	return removed, errors.Join(errs...)
}

func (t *Tree) eachPodDir(do func(uid types.UID, dir string)) {
	for _, class := range []name{{kubepods}, {kubepods, "burstable"}, {kubepods, "besteffort"}} {
		for _, dir := range t.dirs(class) {
			entries, err := os.ReadDir(dir)
			if err != nil {
				continue // not there: no pods of that class
			}
			for _, e := range entries {
				base := strings.TrimSuffix(e.Name(), ".slice")
				uid, ok := strings.CutPrefix(base[strings.LastIndex(base, "-pod")+1:], "pod")
				if t.cfg.Driver != Systemd {
					uid, ok = strings.CutPrefix(e.Name(), "pod")
				}
				if e.IsDir() && ok {
					do(types.UID(strings.ReplaceAll(uid, "_", "-")), filepath.Join(dir, e.Name()))
				}
			}
		}
	}
}

// dirs are the folders of a group: one per controller in v1, one in all in v2.
func (t *Tree) dirs(n name) []string { return t.dirsOf(t.path(n)) }

func (t *Tree) dirsOf(path string) []string {
	if t.unified {
		return []string{filepath.Join(t.cfg.Mount, path)}
	}
	var dirs []string
	for _, c := range t.controllers {
		dirs = append(dirs, filepath.Join(c, path))
	}
	return dirs
}

func (t *Tree) ensure(n name, limits Limits) error {
	for _, dir := range t.dirs(n) {
		if err := t.makeDir(dir); err != nil {
			return fmt.Errorf("create cgroup %s: %w", t.path(n), err)
		}
	}
	return t.apply(n, limits)
}

// makeDir makes a group and, where the kernel wants it, hands down what a group without settings cannot live with.
func (t *Tree) makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if parent := filepath.Dir(dir); !t.isMount(parent) {
		if err := t.makeDir(parent); err != nil {
			return err
		}
	}
	if t.unified {
		if err := t.enableControllers(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	if err := t.kernel.mkdir(dir); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if strings.HasSuffix(t.controllerOf(dir), "cpuset") {
		return t.inheritCpuset(dir)
	}
	return nil
}

func (t *Tree) isMount(dir string) bool {
	return dir == t.cfg.Mount || dir == "/" || slices.Contains(t.controllers, dir)
}

func (t *Tree) controllerOf(dir string) string {
	for _, c := range t.controllers {
		if strings.HasPrefix(dir, c+"/") {
			return c
		}
	}
	return ""
}

// inheritCpuset copies the parent's CPUs and memory nodes; without them no process may enter the group (v1).
func (t *Tree) inheritCpuset(dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		data, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if err != nil {
			return err
		}
		if err := t.kernel.write(filepath.Join(dir, file), string(data)); err != nil {
			return err
		}
	}
	return nil
}

// enableControllers lets the children of a group be limited (v2).
func (t *Tree) enableControllers(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(data)) {
		// One at a time: the kernel refuses the whole line for one that cannot be had.
		_ = t.kernel.write(filepath.Join(dir, "cgroup.subtree_control"), "+"+c)
	}
	return nil
}

// apply writes limits. What was not asked for is left as it is.
func (t *Tree) apply(n name, l Limits) error { return t.applyTo(t.path(n), l) }

func (t *Tree) applyTo(path string, l Limits) error {
	settings := t.settingsV1(l)
	if t.unified {
		settings = t.settingsV2(l)
	}
	for _, s := range settings {
		for _, dir := range t.dirsOf(path) {
			if c := t.controllerOf(dir); !t.unified && filepath.Base(c) != s.controller && !strings.Contains(filepath.Base(c), s.controller+",") && !strings.HasSuffix(filepath.Base(c), ","+s.controller) {
				continue
			}
			err := t.kernel.write(filepath.Join(dir, s.file), s.value)
			if err != nil && !errors.Is(err, os.ErrNotExist) { // the controller may not be there
				return fmt.Errorf("set %s of cgroup %s to %s: %w", s.file, path, s.value, err)
			}
		}
	}
	return nil
}

type realKernel struct{}

func (realKernel) mkdir(dir string) error { return os.Mkdir(dir, 0o755) }

// write never makes a file.
func (realKernel) write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

type setting struct{ controller, file, value string }

func (t *Tree) settingsV1(l Limits) []setting {
	var s []setting
	if l.CPUShares > 0 {
		s = append(s, setting{"cpu", "cpu.shares", text(l.CPUShares)})
	}
	if l.CPUQuota > 0 {
		s = append(s, setting{"cpu", "cpu.cfs_period_us", text(t.period())}, setting{"cpu", "cpu.cfs_quota_us", text(l.CPUQuota)})
	}
	if l.MemoryBytes != 0 {
		s = append(s, setting{"memory", "memory.limit_in_bytes", text(l.MemoryBytes)}) // -1 is for none
	}
	if l.Pids != 0 {
		s = append(s, setting{"pids", "pids.max", most(l.Pids)})
	}
	return append(s, t.hugePages(l, ".limit_in_bytes")...)
}

// hugePages limits all sizes that the kernel has, by files that end so.
func (t *Tree) hugePages(l Limits, suffix string) (s []setting) {
	if l.HugePages == nil {
		return nil
	}
	for _, size := range t.cfg.HugePageSizes {
		for _, kind := range []string{"", ".rsvd"} { // what is used, and what is only set aside
			s = append(s, setting{"hugetlb", "hugetlb." + size + kind + suffix, text(l.HugePages[size])})
		}
	}
	return s
}

func (t *Tree) settingsV2(l Limits) []setting {
	var s []setting
	if l.CPUShares > 0 {
		s = append(s, setting{"cpu", "cpu.weight", text(weight(l.CPUShares))})
	}
	if l.CPUQuota > 0 {
		s = append(s, setting{"cpu", "cpu.max", text(l.CPUQuota) + " " + text(t.period())})
	}
	if l.MemoryBytes != 0 {
		s = append(s, setting{"memory", "memory.max", most(l.MemoryBytes)})
	}
	if l.MemoryHigh > 0 {
		s = append(s, setting{"memory", "memory.high", text(l.MemoryHigh)})
	}
	if l.MemoryMin > 0 {
		s = append(s, setting{"memory", "memory.min", text(l.MemoryMin)})
	}
	if l.Protection != nil {
		s = append(s, setting{"memory", "memory.min", text(l.Protection.Min)}, setting{"memory", "memory.low", text(l.Protection.Low)})
	}
	if l.Pids != 0 {
		s = append(s, setting{"pids", "pids.max", most(l.Pids)})
	}
	return append(s, t.hugePages(l, ".max")...)
}

// most is a limit as the kernel takes it.
func most(n int64) string {
	if n == Unlimited {
		return "max"
	}
	return text(n)
}

func text(n int64) string { return strconv.FormatInt(n, 10) }

// removeTree removes a group and those below it, deepest first. Processes that linger are ended: their pod is gone.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	killAll(dir)
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}

func killAll(dir string) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for _, pid := range strings.Fields(string(data)) {
		n, err := strconv.Atoi(pid)
		if err != nil || n <= 0 {
			continue // 0: a process outside our PID namespace
		}
		if p, err := os.FindProcess(n); err == nil {
			_ = p.Kill() // it may have ended by itself
		}
	}
}
