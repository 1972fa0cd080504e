// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/testhost"
)

// cluster is a server that is a node too, alpha, and a node on another machine, beta.
type cluster struct {
	*node // the server
	beta  *node
}

func (c *cluster) with(t *testing.T) *cluster {
	return &cluster{node: c.node.with(t), beta: c.beta.with(t)}
}

// A second machine becomes a node by the command that the server prints, and is one in every way.
func TestJoin(t *testing.T) {
	t.Parallel()
	network := testhost.NewCluster(t, 0)
	c := newServer(t, network)
	flags := c.joinFlags()
	// Servers do not reach the agent: whatever they want there has to go through its tunnel.
	c.beta.inside("iptables", "-I", "INPUT", "-i", "eth0", "-p", "tcp", "--syn", "-j", "DROP")
	c.beta.run("agent", flags...)
	c.kubectl("wait", "--for=create", "node/beta", "--timeout=60s")
	c.kubectl("wait", "--for=condition=Ready", "node/alpha", "node/beta", "--timeout=60s")
	c.kubectl("create", "namespace", "demo")
	for _, name := range []string{"alpha", "beta"} {
		c.webOn(name)
	}
	c.kubectl("expose", "-n", "demo", "pod", "on-alpha", "--name=web", "--port=80", "--target-port=8080", "--selector=app=web")
	c.kubectl("wait", "-n", "demo", "--for=condition=Ready", "pod/on-alpha", "pod/on-beta", "--timeout=60s")

	t.Run("another machine cannot take its name", func(t *testing.T) { c.with(t).refusesDoubles(network, flags) })
	t.Run("pods reach each other", func(t *testing.T) { c.with(t).podsReachEachOther() })
	t.Run("exec, logs and port-forward through the tunnel", func(t *testing.T) { c.with(t).reachesBeta() })
	t.Run("the API server's proxies", func(t *testing.T) { c.with(t).proxiesToBeta() })
	t.Run("volumes lie where their pods are", func(t *testing.T) { c.with(t).keepsDataOnBeta() })
	t.Run("the agent restarts", func(t *testing.T) { c.with(t).agentRestarts() })
	t.Run("the server is away for a while", func(t *testing.T) { c.with(t).serverAway() })
	t.Run("the node is cut off and back", func(t *testing.T) { c.with(t).cutOff() })
	t.Run("stop and uninstall", func(t *testing.T) { c.with(t).leaves() })
}

// Who may not join is told why, in one line. The cluster has a server that is no node.
func TestJoinRefusals(t *testing.T) {
	network := testhost.NewCluster(t, 0)
	c := &cluster{node: newHostOn(t, network, "alpha"), beta: newHostOn(t, network, "beta")}
	c.run("server", "--no-node")
	c.eventually(time.Minute, "the API takes a Node", func() error {
		_, err := c.pipe(`{"apiVersion":"v1","kind":"Node","metadata":{"name":"alpha"}}`, "apply", "-f", "-")
		return err
	})
	c.kubectl("wait", "-n", "kube-public", "--for=create", "configmap/cluster-info", "--timeout=60s")
	c.refusesWrongTokens()
}

// joinFlags are those of the command that skiff token create prints.
func (c *cluster) joinFlags() []string {
	c.t.Helper()
	command := strings.Fields(c.inside(c.binary, "token", "create", "--description=for beta"))
	if len(command) != 7 || !slices.Equal(command[:3], []string{"sudo", "skiff", "agent"}) || command[4] != "https://"+c.IP().String()+":6443" {
		c.t.Fatalf("token create = %q", command)
	}
	return command[3:]
}

// agentFails runs an agent that must end by itself, and returns its last line.
func (n *node) agentFails(flags ...string) string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	flags = append([]string{"agent", "--node-ip", n.IP().String(), "--cgroup-root", n.CgroupRoot()}, flags...)
	out, err := n.Command(ctx, n.binary, flags...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		n.t.Errorf("skiff %s = %v, want exit code 1\n%s", strings.Join(flags, " "), err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

func (c *cluster) refusesWrongTokens() {
	c.t.Helper()
	flags := c.joinFlags()
	server, token := flags[1], flags[3]
	parts := strings.Split(token, ".")
	wrongSecret := parts[0] + "." + strings.Repeat("x", 16) + "." + parts[2]
	wrongHash := parts[0] + "." + parts[1] + "." + strings.Repeat("0", 64)
	for _, tc := range []struct {
		flags []string
		want  string
	}{
		{nil, "skiff: this machine has not joined a cluster yet (give --server and --token; skiff token create, on a server, prints them)"},
		{[]string{"--server", server}, "skiff: this machine needs a token to join"},
		{[]string{"--server", server, "--token", "abc"}, "skiff: the token is not one of Skiff"},
		{[]string{"--server", server, "--token", parts[0] + "." + parts[1]}, "skiff: the token lacks the hash of the cluster's certificate"},
		{[]string{"--server", server, "--token", wrongSecret}, "skiff: the server does not know the token: it is wrong, or has expired (skiff token create, on a server, makes a new one)"},
		{[]string{"--server", server, "--token", wrongHash}, "skiff: the server is not of the cluster that the token is for"},
		{[]string{"--server", "https://" + c.beta.IP().String() + ":6443", "--token", token}, "skiff: call the server: dial tcp " + c.beta.IP().String() + ":6443: connect: connection refused (is it running, and does this machine reach it?)"},
		{[]string{"--server", server, "--token", token, "--node-name", "alpha"}, "skiff: become node alpha: there is a node of that name already (set another --node-name, or delete the Node on the server: skiff kubectl delete node alpha)"},
	} {
		if got := c.beta.agentFails(tc.flags...); !strings.HasPrefix(got, tc.want) {
			c.t.Errorf("skiff agent %s says\n%s\nwant\n%s", strings.Join(tc.flags, " "), got, tc.want)
		}
	}
	if list := c.inside(c.binary, "token", "list"); !strings.Contains(list, parts[0]) || !strings.Contains(list, "for beta") {
		c.t.Errorf("token list = %q", list)
	}
	token = c.joinFlags()[3] // one that the server has not seen, which it would believe in for some seconds
	c.inside(c.binary, "token", "delete", token)
	if got := c.beta.agentFails("--server", server, "--token", token); !strings.Contains(got, "the server does not know the token") {
		c.t.Errorf("with a deleted token: %s", got)
	}
}

func (c *cluster) refusesDoubles(network *testhost.Cluster, flags []string) {
	gamma := newHostOn(c.t, network, "gamma")
	if got := gamma.agentFails(append([]string{"--node-name", "beta"}, flags...)...); !strings.Contains(got, "there is a node of that name already") {
		c.t.Errorf("another beta: %s", got)
	}
}

// webOn runs a web server on a node that answers with the pod's name.
func (c *cluster) webOn(node string) {
	c.t.Helper()
	manifest := fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: on-%[1]s, namespace: demo, labels: {app: web}}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: busybox:stable
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "echo serving; mkdir -p /www && hostname > /www/index.html && exec httpd -f -vv -p 8080 -h /www"]
    ports: [{containerPort: 8080}]
    readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
`, node)
	if out, err := c.pipe(manifest, "apply", "-f", "-"); err != nil {
		c.t.Fatal(out, err)
	}
}

func (c *cluster) podIP(name string) string {
	c.t.Helper()
	return c.kubectl("get", "pod", "-n", "demo", name, "-o", "jsonpath={.status.podIP}")
}

// ask fetches a page from within a pod.
func (c *cluster) ask(pod, url string) (string, error) {
	out, err := c.try("exec", "-n", "demo", pod, "--", "fetch", url)
	return strings.TrimSpace(out), err
}

func (c *cluster) podsReachEachOther() {
	c.t.Helper()
	for from, to := range map[string]string{"on-alpha": "on-beta", "on-beta": "on-alpha"} {
		c.eventually(30*time.Second, from+" reaches "+to, func() error {
			got, err := c.ask(from, "http://"+c.podIP(to)+":8080/")
			if err == nil && got != to {
				err = fmt.Errorf("answers %q", got)
			}
			return err
		})
		// The other pod sees who asks: there is no NAT between pods.
		if log := c.kubectl("logs", "-n", "demo", to); !strings.Contains(log, c.podIP(from)) {
			c.t.Errorf("the log of %s does not name the address of %s, %s:\n%s", to, from, c.podIP(from), log)
		}
	}
	for _, from := range []string{"on-alpha", "on-beta"} {
		answered := map[string]bool{}
		c.eventually(60*time.Second, "both pods answer "+from+" by the Service's name", func() error {
			got, err := c.ask(from, "http://web.demo.svc.cluster.local/")
			answered[got] = true
			if err == nil && (!answered["on-alpha"] || !answered["on-beta"]) {
				err = fmt.Errorf("answers so far: %v", answered)
			}
			return err
		})
	}
	// The machines reach them too.
	for _, n := range []*node{c.node, c.beta} {
		for _, pod := range []string{"on-alpha", "on-beta"} {
			if out := n.inside("curl", "-sS", "--max-time", "10", "http://"+c.podIP(pod)+":8080/"); strings.TrimSpace(out) != pod {
				c.t.Errorf("%s at %s answers %q", pod, n.Name(), out)
			}
		}
	}
	// Large packets pass.
	c.kubectl("exec", "-n", "demo", "on-beta", "--", "sh", "-c", "head -c 3000000 /dev/zero > /www/large")
	if out := c.kubectl("exec", "-n", "demo", "on-alpha", "--", "sh", "-c", "fetch http://"+c.podIP("on-beta")+":8080/large | wc -c"); strings.TrimSpace(out) != "3000000" {
		c.t.Errorf("of 3000000 bytes there came %q", out)
	}
}

func (c *cluster) reachesBeta() {
	c.t.Helper()
	for _, p := range protocols {
		c := c.with(c.t)
		c.env = append(os.Environ(), p.env...)
		if out := c.kubectl("exec", "-n", "demo", "on-beta", "--", "sh", "-c", "echo $((6*7))"); out != "42\n" {
			c.t.Errorf("%s: exec = %q, want 42", p.name, out)
		}
		if out, err := c.pipe("through\n", "exec", "-i", "-n", "demo", "on-beta", "--", "cat"); err != nil || out != "through\n" {
			c.t.Errorf("%s: exec -i cat = %q, %v", p.name, out, err)
		}
	}
	if log := c.kubectl("logs", "-n", "demo", "on-beta"); !strings.Contains(log, "serving") {
		c.t.Errorf("logs = %q", log)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	forward := c.command(ctx, "port-forward", "-n", "demo", "pod/on-beta", "8089:8080")
	if err := forward.Start(); err != nil {
		c.t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = forward.Wait() // it was killed
	}()
	c.eventually(30*time.Second, "the forwarded port answers", func() error {
		out, err := c.Output(c.t.Context(), "curl", "-sS", "--max-time", "5", "http://127.0.0.1:8089/")
		if err == nil && strings.TrimSpace(out) != "on-beta" {
			err = fmt.Errorf("it answers %q", out)
		}
		return err
	})
}

func (c *cluster) proxiesToBeta() {
	c.t.Helper()
	for _, path := range []string{
		"/api/v1/namespaces/demo/pods/on-beta:8080/proxy/",
		"/api/v1/nodes/beta/proxy/healthz",
		"/api/v1/nodes/beta:10256/proxy/healthz",
	} {
		if out, err := c.try("get", "--raw", path); err != nil || out == "" {
			c.t.Errorf("%s = %q, %v", path, out, err)
		}
	}
	// The Service's proxy takes any of its pods.
	answered := map[string]bool{}
	c.eventually(30*time.Second, "both pods answer by the Service's proxy", func() error {
		out, err := c.try("get", "--raw", "/api/v1/namespaces/demo/services/web:80/proxy/")
		answered[strings.TrimSpace(out)] = true
		if err == nil && !(answered["on-alpha"] && answered["on-beta"]) {
			err = fmt.Errorf("answers so far: %v", answered)
		}
		return err
	})
}

// containers are those of a pod, with their starts.
func (c *cluster) started(pod string) string {
	c.t.Helper()
	return c.kubectl("get", "pod", "-n", "demo", pod, "-o", "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}")
}

func (c *cluster) end(n *node, sig syscall.Signal) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	if err := n.server.process.Signal(sig); err != nil {
		c.t.Fatal(err)
	}
	_ = n.server.process.Wait(ctx) // after a kill it says so
	if ctx.Err() != nil {
		c.t.Fatalf("%s did not end within a minute of %s", n.Name(), sig)
	}
}

// agentRestarts restarts the agent, with a word and without, and without its token.
func (c *cluster) agentRestarts() {
	c.t.Helper()
	before := c.started("on-beta")
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		c.end(c.beta, sig)
		c.beta.run("agent")
		c.eventually(60*time.Second, "exec works again", func() error {
			_, err := c.try("exec", "-n", "demo", "on-beta", "--", "true")
			return err
		})
		if now := c.started("on-beta"); now != before {
			c.t.Errorf("after %s the container is %s, want %s", sig, now, before)
		}
	}
}

// serverAway stops the server for longer than its node is thought to be alive without it. Pods go on meanwhile, also
// when the agent restarts, and everything works when it is back.
func (c *cluster) serverAway() {
	c.t.Helper()
	before := c.started("on-beta")
	alpha, beta := c.podIP("on-alpha"), c.podIP("on-beta")
	answers := func(n *node, ip string) error {
		_, err := n.Output(c.t.Context(), "curl", "-sS", "--max-time", "5", "http://"+ip+":8080/")
		return err
	}
	c.end(c.node, syscall.SIGTERM)
	c.end(c.beta, syscall.SIGTERM)
	c.beta.run("agent")
	if err := errors.Join(answers(c.beta, alpha), answers(c.beta, beta), answers(c.node, beta)); err != nil {
		c.t.Errorf("without a server: %v", err)
	}
	c.node.start()
	c.eventually(60*time.Second, "exec works again", func() error {
		_, err := c.try("exec", "-n", "demo", "on-beta", "--", "true")
		return err
	})
	c.kubectl("wait", "--for=condition=Ready", "node/alpha", "node/beta", "--timeout=60s")
	if now := c.started("on-beta"); now != before {
		c.t.Errorf("the container is %s, want %s", now, before)
	}
	c.podsReachEachOther()
}

// cutOff lets no packet pass between the machines until the node is given up, and then again.
func (c *cluster) cutOff() {
	c.t.Helper()
	c.beta.inside("iptables", "-I", "INPUT", "-i", "eth0", "-j", "DROP")
	began := time.Now()
	c.kubectl("wait", "--for=condition=Ready=Unknown", "node/beta", "--timeout=90s")
	c.eventually(60*time.Second, "its pod is no endpoint any more", func() error {
		out := c.kubectl("get", "endpointslice", "-n", "demo", "-l", "kubernetes.io/service-name=web", "-o", "jsonpath={range .items[*].endpoints[*]}{.nodeName}={.conditions.ready} {end}")
		if strings.Contains(out, "beta=true") || !strings.Contains(out, "alpha=true") {
			return fmt.Errorf("endpoints: %s", out)
		}
		return nil
	})
	// Upstream takes 50 s to miss a node, looks every 5 s, and has the endpoints follow within some.
	if took := time.Since(began); took > 75*time.Second {
		c.t.Errorf("an endpoint that nobody reaches was served for %s", took)
	}
	// Names and the Service work for the others.
	if got, err := c.ask("on-alpha", "http://web.demo/"); err != nil || got != "on-alpha" {
		c.t.Errorf("the Service answers %q, %v", got, err)
	}
	c.beta.inside("iptables", "-D", "INPUT", "-i", "eth0", "-j", "DROP")
	c.kubectl("wait", "--for=condition=Ready", "node/beta", "--timeout=90s")
	c.kubectl("wait", "-n", "demo", "--for=condition=Ready", "pod/on-beta", "--timeout=60s")
	c.podsReachEachOther()
	c.reachesBeta()
}

// leaves takes the node away: its pods end with skiff stop, and nothing is left of it after skiff uninstall.
func (c *cluster) leaves() {
	c.t.Helper()
	out := c.beta.inside(c.binary, "stop")
	if !strings.Contains(out, "ended process") || !strings.Contains(out, "ended 1 pod(s)") {
		c.t.Errorf("skiff stop says %q", out)
	}
	c.beta.inside(c.binary, "uninstall", "--yes")
	c.beta.inside("sh", "-c", "! ip link show skiff0 && ! ip link show skiff0.v && test ! -e /var/lib/skiff/settings.json")
	if routes := c.beta.inside("ip", "route"); strings.Contains(routes, "10.42.") {
		c.t.Errorf("routes are left:\n%s", routes)
	}
	c.kubectl("delete", "node", "beta")
	c.eventually(30*time.Second, "the server has no route there", func() error {
		if routes := c.inside("ip", "route"); strings.Contains(routes, "skiff0.v") {
			return errors.New(routes)
		}
		return nil
	})
	// It may join again, under its old name.
	c.beta.run("agent", c.joinFlags()...)
	c.kubectl("wait", "--for=create", "node/beta", "--timeout=60s")
	c.kubectl("wait", "--for=condition=Ready", "node/beta", "--timeout=60s")
}

// A server ends when it is told to, whoever watches: the watches of agents last as long as those run.
func TestStopWithWatches(t *testing.T) {
	c := &cluster{node: newHost(t)}
	c.run("server", "--no-node")
	c.eventually(time.Minute, "the API serves", func() error {
		_, err := c.try("get", "namespaces")
		return err
	})
	watch := c.command(t.Context(), "get", "namespaces", "--watch")
	out, err := watch.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c.end(c.node, syscall.SIGTERM)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the server took %s to end", took)
	}
	_ = watch.Process.Kill()
	_ = watch.Wait() // it was killed, or lost its server
}
