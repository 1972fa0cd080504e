// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A container has what upstream's kubelet and containerd would give it and no more, volumes are no way to the host, and
// nobody learns anything from the kubelet without saying who he is.
func TestContainment(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.kubectl("create", "namespace", "demo")
	t.Run("privileges", func(t *testing.T) { n.with(t).hasPrivileges() })
	t.Run("masked and read-only paths", func(t *testing.T) { n.with(t).masksPaths() })
	t.Run("hostile paths", func(t *testing.T) { n.with(t).refusesHostilePaths() })
	t.Run("a subPath that is swapped", func(t *testing.T) { n.with(t).survivesSwaps() })
	t.Run("the kubelet's API", func(t *testing.T) { n.with(t).refusesStrangers() })
}

// secure runs a pod with a container's securityContext, and returns what a script prints in it. pod is YAML of its spec.
func (n *node) secure(name, pod, context, script string) string {
	n.t.Helper()
	if context != "" {
		context = "    securityContext: " + context
	}
	n.runPod(name, "sleep 3600", context+"\n"+pod)
	n.becomes(name, ".status.phase", "Running")
	return n.kubectl("exec", "-n", "demo", name, "--", "sh", "-c", script)
}

func (n *node) hasPrivileges() {
	const status = `grep -E "^(CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):" /proc/self/status | tr -s "\t\n" "  "`
	const usual = "00000000a80425fb" // the fourteen capabilities that containers have by default
	for _, c := range []struct{ name, pod, context, want string }{
		{"plain", "", "", "CapEff: " + usual + " CapBnd: " + usual + " CapAmb: 0000000000000000 NoNewPrivs: 0 Seccomp: 0"},
		{"filtered", "", "{seccompProfile: {type: RuntimeDefault}}", "CapEff: " + usual + " CapBnd: " + usual + " CapAmb: 0000000000000000 NoNewPrivs: 0 Seccomp: 2"},
		{"filtered-pod", "  securityContext: {seccompProfile: {type: RuntimeDefault}}", "", "CapEff: " + usual + " CapBnd: " + usual + " CapAmb: 0000000000000000 NoNewPrivs: 0 Seccomp: 2"},
		{"unfiltered", "  securityContext: {seccompProfile: {type: RuntimeDefault}}", "{seccompProfile: {type: Unconfined}}", "CapEff: " + usual + " CapBnd: " + usual + " CapAmb: 0000000000000000 NoNewPrivs: 0 Seccomp: 0"},
		{"no-more", "", "{allowPrivilegeEscalation: false}", "CapEff: " + usual + " CapBnd: " + usual + " CapAmb: 0000000000000000 NoNewPrivs: 1 Seccomp: 0"},
		{"dropped", "", "{capabilities: {drop: [ALL]}}", "CapEff: 0000000000000000 CapBnd: 0000000000000000 CapAmb: 0000000000000000 NoNewPrivs: 0 Seccomp: 0"},
		{"one", "", "{capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}", "CapEff: 0000000000000400 CapBnd: 0000000000000400 CapAmb: 0000000000000000 NoNewPrivs: 0 Seccomp: 0"},
		{"user", "", "{runAsUser: 1000}", "CapEff: 0000000000000000 CapBnd: " + usual + " CapAmb: 0000000000000000 NoNewPrivs: 0 Seccomp: 0"},
	} {
		if got := strings.TrimSpace(n.secure("priv-"+c.name, c.pod, c.context, status)); got != c.want {
			n.t.Errorf("%s: %s\nwant %s", c.name, got, c.want)
		}
	}
	// The filter is the real one: keyctl and others are not allowed in it, whatever capabilities say.
	if got := n.kubectl("exec", "-n", "demo", "priv-filtered", "--", "sh", "-c", "unshare -U true 2>&1; true"); !strings.Contains(got, "Operation not permitted") {
		n.t.Errorf("a new user namespace under RuntimeDefault: %q", got)
	}
}

func (n *node) masksPaths() {
	// A masked folder is an empty read-only tmpfs, a masked file is /dev/null.
	const script = `for d in /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do
	[ -e $d ] && { echo $d $(ls -A $d | wc -l) $(awk -v d=$d '$5==d {print $6}' /proc/self/mountinfo | tail -1 | cut -d, -f1); }; done
for f in /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/sched_debug /proc/interrupts; do
	[ -e $f ] && { echo $f $(stat -c "%F" $f | cut -d" " -f1) $(wc -c <$f); }; done
cgroup=/sys/fs/cgroup; [ -e $cgroup/memory ] && cgroup=$cgroup/memory # of version 1 only the controllers are the kernel's
for d in /proc/asound /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger /sys $cgroup; do
	[ -e $d ] && { echo $d $(awk -v d=$d '$5==d {print $6}' /proc/self/mountinfo | tail -1 | cut -d, -f1); }; done; true`
	checked := 0
	for line := range strings.Lines(n.secure("masked", "", "", script)) {
		fields := strings.Fields(line)
		checked++
		switch {
		case fields[0] == "/proc/asound" || fields[0] == "/proc/bus" || fields[0] == "/proc/fs" || fields[0] == "/proc/irq" || fields[0] == "/proc/sys" || fields[0] == "/proc/sysrq-trigger",
			fields[0] == "/sys", strings.HasPrefix(fields[0], "/sys/fs/cgroup"):
			if len(fields) != 2 || fields[1] != "ro" {
				n.t.Errorf("%q, want it read-only", line)
			}
		case strings.HasPrefix(fields[0], "/proc/acpi") || strings.HasPrefix(fields[0], "/proc/scsi") || strings.HasPrefix(fields[0], "/sys/"):
			if len(fields) != 3 || fields[1] != "0" || fields[2] != "ro" {
				n.t.Errorf("%q, want it empty and read-only", line)
			}
		default:
			if fields[len(fields)-1] != "0" || fields[1] != "character" {
				n.t.Errorf("%q, want /dev/null", line)
			}
		}
	}
	if checked < 8 {
		n.t.Errorf("only %d paths were looked at", checked)
	}
	// procMount: Unmasked shows /proc as it is, and the API allows it only to pods with users of their own.
	const manifest = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"unmasked","namespace":"demo"},"spec":{"hostUsers":%t,"terminationGracePeriodSeconds":1,"containers":[
		{"name":"main","image":"busybox:stable","imagePullPolicy":"IfNotPresent","command":["sleep","3600"],"securityContext":{"procMount":"Unmasked"}}]}}`
	if _, err := n.pipe(fmt.Sprintf(manifest, true), "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), "procMount") {
		n.t.Errorf("procMount: Unmasked with the host's users: %v", err)
	}
	if _, err := n.pipe(fmt.Sprintf(manifest, false), "apply", "-f", "-"); err != nil {
		n.t.Fatal(err)
	}
	n.becomes("unmasked", ".status.phase", "Running")
	if got := n.kubectl("exec", "-n", "demo", "unmasked", "--", "sh", "-c", `awk '$5 ~ "^/proc/" {print $5}' /proc/self/mountinfo; awk '{print ($2 != 0)}' /proc/self/uid_map`); got != "1\n" {
		n.t.Errorf("mounts below an unmasked /proc, and whether root is another user:\n%s", got)
	}
	n.kubectl("delete", "pod", "-n", "demo", "unmasked", "--timeout=60s")
}

// refusesHostilePaths tries to get out of a volume by links that containers can make, and by paths that the API lets nobody have.
func (n *node) refusesHostilePaths() {
	secret := "/var/lib/host-secret"
	n.inside("sh", "-c", "mkdir -p "+secret+" && echo secret >"+secret+"/file")
	for _, path := range []string{"..", "a/../../b", "/etc"} {
		_, err := n.pipe(fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"dots","namespace":"demo"},"spec":{"volumes":[{"name":"v","emptyDir":{}}],"containers":[
			{"name":"main","image":"busybox:stable","volumeMounts":[{"name":"v","mountPath":"/v","subPath":%q}]}]}}`, path), "apply", "-f", "-")
		if err == nil || !strings.Contains(err.Error(), "subPath") {
			n.t.Errorf("subPath %q: %v", path, err)
		}
	}
	for name, link := range map[string]string{
		"absolute": "ln -s " + secret + " /v/evil",
		"relative": "ln -s ../../../../../../../../" + secret + " /v/evil",
		"deep":     "mkdir /v/dir && ln -s / /v/dir/up && ln -s dir/up" + secret + " /v/evil",
		"proc":     "ln -s /proc/1/root" + secret + " /v/evil",
	} {
		_, err := n.pipe(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: evil-%s, namespace: demo}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - {name: plot, image: "busybox:stable", imagePullPolicy: IfNotPresent, command: [sh, -c, %q], volumeMounts: [{name: v, mountPath: /v}]}
  containers:
  - {name: main, image: "busybox:stable", imagePullPolicy: IfNotPresent, command: [sh, -c, "cat /sub/file; echo x >/sub/mark; sleep 3600"], volumeMounts: [{name: v, mountPath: /sub, subPath: evil}]}
`, name, link), "apply", "-f", "-")
		if err != nil {
			n.t.Fatal(err)
		}
		n.becomes("evil-"+name, ".status.containerStatuses[0].state.waiting.reason", "CreateContainerConfigError")
		n.kubectl("delete", "pod", "-n", "demo", "evil-"+name, "--timeout=60s")
	}
	if _, err := os.Stat(n.Path(secret + "/mark")); !errors.Is(err, os.ErrNotExist) {
		n.t.Errorf("a container wrote to the host: %v", err)
	}
}

// survivesSwaps has one pod swap a folder for a link to the host's, all the time, while others mount it by subPath. It renames
// them, so that what was mounted stays what it was.
func (n *node) survivesSwaps() {
	n.inside("sh", "-c", `mkdir -p /var/lib/host-secret /var/lib/shared/evil && echo leaked >/var/lib/host-secret/file &&
		echo ours >/var/lib/shared/evil/inside && ln -s /var/lib/host-secret /var/lib/shared/bad`)
	const shared = "  volumes: [{name: v, hostPath: {path: /var/lib/shared}}]"
	n.apply(`
apiVersion: v1
kind: Pod
metadata: {name: swapper, namespace: demo}
spec:
  terminationGracePeriodSeconds: 0
` + shared + `
  containers:
  - name: main
    image: busybox:stable
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "cd /v; while true; do mv -T evil good; mv -T bad evil || rmdir evil; mv -T evil bad; mv -T good evil; done 2>/dev/null"]
    volumeMounts: [{name: v, mountPath: /v}]
`)
	n.becomes("swapper", ".status.phase", "Running")
	const pods, containers = 3, 6
	for pod := range pods {
		var all strings.Builder
		for c := range containers {
			fmt.Fprintf(&all, `
  - {name: c%d, image: "busybox:stable", imagePullPolicy: IfNotPresent, command: [sh, -c, "cat /sub/inside /sub/file 2>&1; true"], volumeMounts: [{name: v, mountPath: /sub, subPath: evil}]}`, c)
		}
		n.apply(fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: victim-%d, namespace: demo}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 0\n%s\n  containers:%s\n", pod, shared, all.String()))
	}
	ran := 0
	for pod := range pods {
		name := fmt.Sprintf("victim-%d", pod)
		n.eventually(2*time.Minute, "all containers of "+name+" have run", func() error { // those that met the link are tried again
			phase, err := n.try("get", "pod", "-n", "demo", name, "-o", "jsonpath={.status.phase}")
			if err == nil && phase != "Succeeded" && phase != "Failed" { // as a container does whose folder went before it was mounted
				err = errors.New(phase)
			}
			return err
		})
		for c := range containers {
			log, _ := n.try("logs", "-n", "demo", name, "-c", fmt.Sprintf("c%d", c)) // there is none of one that did not start
			if strings.Contains(log, "leaked") {
				n.t.Errorf("container %d of %s got to the host: %q", c, name, log)
			}
			if strings.Contains(log, "ours") {
				ran++
			}
		}
	}
	if ran == 0 {
		n.t.Error("no container saw the folder that it was to see")
	}
	n.kubectl("delete", "pod", "-n", "demo", "--all", "--timeout=60s")
}

// refusesStrangers asks the kubelet for all that it has, without credentials and with ones that mean nothing to it.
func (n *node) refusesStrangers() {
	ask := func(method, path string, more ...string) string {
		ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
		defer cancel()
		args := append([]string{"-sk", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "10", "-X", method, "https://" + n.IP().String() + ":10250" + path}, more...)
		out, err := n.Output(ctx, "curl", args...)
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			n.t.Fatal(err)
		}
		return out
	}
	for _, path := range []string{"/", "/pods", "/pods/", "/runningpods/", "/metrics", "/metrics/cadvisor", "/metrics/resource", "/metrics/probes", "/stats/summary", "/stats", "/healthz", "/healthz/ping",
		"/configz", "/logs/", "/containerLogs/demo/x/main", "/exec/demo/x/main?command=id", "/attach/demo/x/main", "/portForward/demo/x", "/run/demo/x/main?cmd=id", "/checkpoint/demo/x/main",
		"/spec/", "/debug/pprof/", "/flagz", "/statusz", "/nowhere"} {
		for _, method := range []string{"GET", "POST"} {
			if code := ask(method, path); code != "401" {
				n.t.Errorf("%s %s without credentials = %s, want 401", method, path, code)
			}
			if code := ask(method, path, "-H", "Authorization: Bearer nonsense"); code != "401" {
				n.t.Errorf("%s %s with a token of nobody = %s, want 401", method, path, code)
			}
		}
	}
	if out, err := n.Output(n.t.Context(), "curl", "-s", "--max-time", "5", "http://"+n.IP().String()+":10255/pods"); err == nil {
		n.t.Errorf("there is a read-only port: %q", out)
	}
}
