// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/cri"
	"github.com/skiff-k8s/skiff/cri/bundle"
	"github.com/skiff-k8s/skiff/kubelet/cgroups"
	"github.com/skiff-k8s/skiff/network/policy"
	"github.com/skiff-k8s/skiff/proxy"
)

// podsPatience is how long a container runtime may take to end all pods.
const podsPatience = time.Minute

// Teardown takes a node away whose Agent does not run any more. Of cfg it needs the settings, directories
// and ranges; say is told what was done, a line each.
type Teardown struct {
	cfg Config
	say func(format string, args ...any)
}

// NewTeardown prepares one; nothing is done yet.
func NewTeardown(cfg Config, say func(format string, args ...any)) *Teardown {
	return &Teardown{cfg: cfg, say: say}
}

// Pods ends all pods at once, with what they run in: containers, shims, mounts and cgroups, and then the
// pod network and the rules for Services. The pods' objects and their volumes stay, so that a server that
// starts again runs them again.
func (t *Teardown) Pods(ctx context.Context) error {
	// Whatever the runtime cannot do any more, because its data is gone for example, is done without it.
	return errors.Join(
		t.removePods(ctx),
		t.endShims(ctx),
		t.removeCgroups(),
		t.unmount(t.cfg.KubeletRoot, t.cfg.StateDir, t.containerdRoot()),
		t.removeNetwork(ctx),
	)
}

// Files removes what the node has on disk besides the data and the state directory. It refuses to remove
// anything that is still in use.
func (t *Teardown) Files() error {
	var errs []error
	for _, dir := range []string{t.cfg.KubeletRoot, t.cfg.PodLogs, t.cfg.ContainerLogs} {
		if dir != "" {
			errs = append(errs, RemoveDir(dir, t.say))
		}
	}
	errs = append(errs, bundle.Remove(t.cfg.CNIBinDir))
	// Somebody else's files may be there: these go only if they are empty.
	_ = os.Remove(t.cfg.CNIConfDir)
	_ = os.Remove(filepath.Dir(t.cfg.CNIConfDir))
	return errors.Join(errs...)
}

func (t *Teardown) containerdRoot() string {
	return filepath.Join(t.cfg.DataDir, "agent", "containerd")
}

// removePods starts the runtime once more, with the pod network that its CNI plugin asks.
func (t *Teardown) removePods(ctx context.Context) error {
	a := &Agent{cfg: t.cfg, gateways: make(chan []netip.Addr, 1)}
	if a.cfg.RuntimeEndpoint == "" {
		if _, err := os.Stat(t.containerdRoot()); errors.Is(err, fs.ErrNotExist) {
			return nil // no pod has ever run
		}
	}
	if err := errors.Join(a.buildRuntime(), a.buildPodNetwork()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, podsPatience, fmt.Errorf("the container runtime did not end all pods within %s", podsPatience))
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	if a.runtime != nil {
		group.Go(func() error { return a.runtime.Run(ctx) })
	}
	if a.network != nil {
		group.Go(func() error { return a.network.Run(ctx) })
	}
	group.Go(func() error {
		defer cancel()
		if a.runtime != nil {
			select {
			case <-a.runtime.Ready():
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		runtime := runtimeapi.NewRuntimeServiceClient(a.conn)
		list, err := runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
		if err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
		if err := cri.RemoveAllPods(ctx, runtime); err != nil {
			return err
		}
		if n := len(list.Items); n > 0 {
			t.say("ended %d pod(s)", n)
		}
		return nil
	})
	return group.Wait()
}

// endShims ends the shims that the runtime has not ended, and what runs below them.
func (t *Teardown) endShims(ctx context.Context) error {
	shims, err := processesOf(binDir(t.cfg.DataDir) + "/")
	if err != nil {
		return err
	}
	if len(shims) == 0 {
		return nil
	}
	for _, pid := range shims {
		for _, child := range childrenOf(pid) {
			_ = unix.Kill(child, unix.SIGKILL) // it may have ended by itself
		}
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	t.say("killed %d process(es) that were left of containers", len(shims))
	for _, pid := range shims {
		if err := awaitEnd(ctx, pid); err != nil {
			return err
		}
	}
	return nil
}

// processesOf returns the processes whose program lies below a directory.
func processesOf(dir string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if program, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe")); err == nil && strings.HasPrefix(program, dir) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func childrenOf(pid int) []int {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var pids []int
	for _, path := range tasks {
		list, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		for _, field := range strings.Fields(string(list)) {
			if child, err := strconv.Atoi(field); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// awaitEnd waits for the end of a process that is not a child of this one.
func awaitEnd(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	const patience = 10 * time.Second
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
	if err == nil && n == 0 {
		err = fmt.Errorf("it has not ended after %s", patience)
	}
	if err != nil && !errors.Is(err, unix.EINTR) {
		return errors.Join(fmt.Errorf("end process %d: %w", pid, err), ctx.Err())
	}
	return nil
}

func (t *Teardown) removeCgroups() error {
	for _, driver := range []cgroups.Driver{cgroups.Cgroupfs, cgroups.Systemd} { // whichever the runtime had
		tree, err := cgroups.New(cgroups.Config{Mount: cgroupMount, Root: t.cfg.CgroupRoot, Driver: driver})
		if err != nil {
			return err
		}
		removed, err := tree.RemoveAll()
		if err != nil {
			return err
		}
		if removed {
			t.say("removed the cgroups of pods")
		}
	}
	return nil
}

// unmount unmounts all that is mounted below the directories, what was mounted last first.
func (t *Teardown) unmount(dirs ...string) error {
	mounts, err := mountsBelow(dirs...)
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range slices.Backward(mounts) {
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", path, err))
		}
	}
	if n := len(mounts) - len(errs); n > 0 {
		t.say("unmounted %d file system(s) of pods", n)
	}
	return errors.Join(errs...)
}

// mountsBelow lists the mount points below directories, not those themselves, in the order they were made.
func mountsBelow(dirs ...string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var below []string
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		path := unescape.Replace(fields[4])
		if slices.ContainsFunc(dirs, func(dir string) bool { return dir != "" && strings.HasPrefix(path, filepath.Clean(dir)+"/") }) {
			below = append(below, path)
		}
	}
	return below, nil
}

// removeNetwork removes interfaces, addresses and rules, of the pod network and of Services.
func (t *Teardown) removeNetwork(ctx context.Context) error {
	if _, err := exec.LookPath("iptables"); err != nil {
		return nil // then there are no rules, and without rules no network
	}
	a := &Agent{cfg: t.cfg}
	if err := a.buildPodNetwork(); err != nil {
		return err
	}
	var errs []error
	if a.network != nil {
		errs = append(errs, a.network.Cleanup(ctx), policy.Cleanup())
	}
	// The proxy wants a client, which its clean-up does not use.
	client, err := kubernetes.NewForConfig(&restclient.Config{Host: "127.0.0.1"})
	if err != nil {
		return err
	}
	services, err := proxy.New(proxy.Config{NodeName: cmp.Or(t.cfg.NodeName, "-")}, client, informers.NewSharedInformerFactory(client, 0))
	if err != nil {
		return err
	}
	if err := errors.Join(append(errs, services.Cleanup(ctx))...); err != nil {
		return err
	}
	t.say("removed the pod network and all packet rules of Skiff")
	return nil
}

// RemoveDir removes a directory with all that is in it, but not what is mounted there. A directory that is a
// mount point itself is emptied.
func RemoveDir(dir string, say func(format string, args ...any)) error {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("remove %s: something is mounted at %s (unmount it and try again)", dir, mounts[0])
	}
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err = os.RemoveAll(dir)
	if errors.Is(err, unix.EBUSY) {
		if left, readErr := os.ReadDir(dir); readErr == nil && len(left) == 0 {
			say("emptied %s, which is a mount point", dir)
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	say("removed %s", dir)
	return nil
}
