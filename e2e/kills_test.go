// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/testhost"
)

// seedVariable repeats the kills of an earlier run.
const seedVariable = "E2E_SEED"

// Whatever is killed at whatever moment while pods come and go: nothing is lost, no pod runs twice, nothing is left behind.
func TestKills(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if given, err := strconv.ParseUint(os.Getenv(seedVariable), 10, 64); err == nil {
		seed = given
	}
	t.Logf("the moments are those of %s=%d", seedVariable, seed)
	t.Run("Skiff with its runtime, and shims", func(t *testing.T) {
		n := newNode(t)
		k := &killer{node: n, random: rand.New(rand.NewPCG(seed, 1))}
		k.run(map[string]func(){"Skiff": k.killSkiff, "a shim": k.killShim})
	})
	t.Run("Skiff, a runtime of somebody else's, and shims", func(t *testing.T) {
		n := newHost(t)
		n.other = true
		k := &killer{node: n, random: rand.New(rand.NewPCG(seed, 2)), runtime: n.playRuntime()}
		n.flags = []string{"--container-runtime-endpoint=unix://" + otherCRISocket}
		n.start()
		n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=60s")
		k.run(map[string]func(){"Skiff": k.killSkiff, "the runtime": k.killRuntime, "a shim": k.killShim})
	})
}

// killer kills what a node consists of.
type killer struct {
	*node
	random  *rand.Rand
	runtime *testhost.Process // somebody else's
}

// sharedDir is where the pods note that they run: each locks a file of its name while it does.
const sharedDir = "/run/shared"

// lockPods returns a StatefulSet of pods that run this program, as runLock.
func lockPods(program string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: flock, namespace: demo}
spec:
  serviceName: flock
  podManagementPolicy: Parallel
  replicas: 3
  selector: {matchLabels: {app: flock}}
  template:
    metadata: {labels: {app: flock}}
    spec:
      terminationGracePeriodSeconds: 1
      volumes: [{name: shared, hostPath: {path: %s}}, {name: program, hostPath: {path: %s, type: File}}, {name: scratch, emptyDir: {}}]
      containers:
      - name: main
        image: busybox:stable
        imagePullPolicy: IfNotPresent
        command: [/program]
        env: [{name: %s, value: lock}]
        readinessProbe: {exec: {command: [test, -e, %s]}, periodSeconds: 1}
        volumeMounts: [{name: shared, mountPath: /shared}, {name: program, mountPath: /program}, {name: scratch, mountPath: /scratch}]
`, sharedDir, program, beVariable, lockedFile)
}

// lockedFile tells a container's probe that it has its lock. It is in no volume, so it ends with the container.
const lockedFile = "/locked"

// runLock holds the lock of its pod's name as long as it runs. Where another does, it says so.
func runLock(ctx context.Context) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	lock, err := os.OpenFile("/shared/"+name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(err, os.WriteFile("/shared/twice."+name, []byte(err.Error()), 0o644))
	}
	if err := os.WriteFile(lockedFile, nil, 0o644); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// run kills each victim twice, in any order and at any moment of pods that come and go.
func (k *killer) run(victims map[string]func()) {
	k.t.Helper()
	if err := os.MkdirAll(k.Path(sharedDir), 0o777); err != nil {
		k.t.Fatal(err)
	}
	k.kubectl("create", "namespace", "demo")
	k.ownServicesStand()
	before := k.traces()
	program, err := os.Executable()
	if err != nil {
		k.t.Fatal(err)
	}
	k.apply(lockPods(program))
	names := slices.Sorted(maps.Keys(victims))
	names = append(names, names...)
	k.random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		replicas, moment := 1+k.random.IntN(4), time.Duration(k.random.IntN(1200))*time.Millisecond
		k.t.Logf("%d pods, and after %v the end of %s", replicas, moment, name)
		k.kubectl("scale", "statefulset", "-n", "demo", "flock", fmt.Sprintf("--replicas=%d", replicas))
		k.kubectl("delete", "pod", "-n", "demo", "flock-0", "--wait=false", "--ignore-not-found")
		time.Sleep(moment)
		victims[name]()
	}
	k.kubectl("scale", "statefulset", "-n", "demo", "flock", "--replicas=3")
	k.runOnce(3)
	k.kubectl("delete", "namespace", "demo", "--timeout=120s")
	k.nothingOf("demo")
	k.eventually(time.Minute, "nothing is left behind", func() error {
		if left := k.traces().Without(before); len(left) > 0 {
			return errors.New(strings.Join(left, "\n"))
		}
		return nil
	})
	if twice, err := filepath.Glob(k.Path(sharedDir) + "/twice.*"); err != nil || len(twice) > 0 {
		k.t.Errorf("these ran twice at once: %q, %v", twice, err)
	}
}

// remains are where pods have files: network namespaces, addresses that are taken, volumes, logs.
var remains = []string{"/run/netns", "/var/lib/skiff/agent/network", "/var/lib/kubelet/pods", "/var/log/pods", "/var/log/containers"}

// traces are what pods could leave behind: cgroups, mounts, links, processes and files.
func (k *killer) traces() testhost.Inventory {
	k.t.Helper()
	traces, err := k.Inventory(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	// Programs of the server and the test come and go.
	traces = slices.DeleteFunc(traces, func(line string) bool {
		name, is := strings.CutPrefix(line, "process ")
		return is && !strings.HasPrefix(name, "containerd-shim") && name != "program" && name != "pause" && name != "runc"
	})
	for _, dir := range remains {
		entries, err := os.ReadDir(k.Path(dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			k.t.Fatal(err)
		}
		for _, e := range entries {
			traces = append(traces, "file "+filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(traces)
	return traces
}

// runOnce waits until so many pods are Ready, of which each has one sandbox, one container and an address of its own, and
// holds its lock.
func (k *killer) runOnce(replicas int) {
	k.t.Helper()
	k.eventually(2*time.Minute, fmt.Sprintf("%d pods run, each once", replicas), func() error {
		out, err := k.try("get", "pods", "-n", "demo", "-o", "jsonpath={range .items[*]}{.metadata.name}={.status.containerStatuses[0].ready}={.status.podIP}{.metadata.deletionTimestamp} {end}")
		if err != nil {
			return err
		}
		addresses := map[string]bool{}
		for _, pod := range strings.Fields(out) {
			parts := strings.Split(pod, "=")
			if parts[1] != "true" {
				return fmt.Errorf("pods: %s", out)
			}
			addresses[parts[2]] = true
		}
		sandboxes, containers := 0, 0
		lines := k.containers("demo")
		for _, line := range lines {
			switch {
			case strings.HasPrefix(line, "sandbox ") && strings.HasSuffix(line, "SANDBOX_READY"):
				sandboxes++
			case strings.HasPrefix(line, "container ") && strings.HasSuffix(line, "CONTAINER_RUNNING"):
				containers++
			}
		}
		if len(addresses) != replicas || sandboxes != replicas || containers != replicas {
			return fmt.Errorf("pods: %s; sandboxes and containers:\n%s", out, strings.Join(lines, "\n"))
		}
		return nil
	})
	for i := range replicas {
		if out, err := k.Output(k.t.Context(), "flock", "-n", filepath.Join(sharedDir, fmt.Sprintf("flock-%d", i)), "true"); err == nil {
			k.t.Errorf("flock-%d does not hold its lock: %q", i, out)
		}
	}
}

func (k *killer) killSkiff() {
	k.t.Helper()
	k.kill(k.server.process)
	k.start()
}

func (k *killer) killRuntime() {
	k.t.Helper()
	k.kill(k.runtime)
	k.runtime = k.playRuntime()
}

func (k *killer) killShim() {
	k.t.Helper()
	k.eventually(time.Minute, "a shim was there to be killed", func() error {
		shims := k.processes("containerd-shim")
		if len(shims) == 0 {
			return errors.New("there is none")
		}
		_, err := k.Output(k.t.Context(), "kill", "-9", shims[k.random.IntN(len(shims))])
		return err // it may have ended by itself meanwhile
	})
}
