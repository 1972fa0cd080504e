// SPDX-License-Identifier: Apache-2.0

// Package cluster gives the suite a cluster: Skiff on test hosts, or what a kubeconfig names.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/skiff-k8s/skiff/conformance/images"
	"github.com/skiff-k8s/skiff/testhost"
)

// Cluster is where tests run.
type Cluster interface {
	// Kubeconfig is the path of the administrator's credentials, for Command.
	Kubeconfig() string
	// Command prepares a process from which the cluster's nodes and Services can be reached.
	Command(ctx context.Context, name string, args ...string) *exec.Cmd
	// Done is closed when the cluster has ended by itself.
	Done() <-chan struct{}
	// Close takes the cluster away. The error says what went wrong with its end.
	Close() error
}

// Existing is a cluster that somebody else runs.
func Existing(kubeconfig string) (Cluster, error) {
	path, err := filepath.Abs(kubeconfig)
	return existing(path), err
}

type existing string

func (e existing) Kubeconfig() string    { return string(e) }
func (e existing) Done() <-chan struct{} { return nil }
func (e existing) Close() error          { return nil }

func (e existing) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, name, args...)
}

// Config says what an own cluster is made of.
type Config struct {
	Binary  string // skiff
	Archive string // of images that the nodes import; none if empty
	Agents  int    // how many nodes there are besides the server
	// Registry serves those of them that upstream's suite pulls, and refuses all others.
	Registry bool
	// Prepare, if set, gets the host before anything runs there.
	Prepare func(*testhost.Host) error
	LogDir  string // for the servers' logs
	Flags   []string
	// DualStack gives nodes, pods and Services addresses of both families, IPv4 first.
	DualStack bool
	// Zones is how many zones the nodes are spread over, in turn; with none they have no zone.
	Zones int
	// ProxyMode is how nodes get Services to pods, if not as by default.
	ProxyMode string
	// Tools is a directory with programs for the nodes; none if empty.
	Tools string
	// Manifests are files with objects that are there before the first test.
	Manifests []string
	Say       func(format string, args ...any)
}

// agentNames are those of the nodes besides the server.
var agentNames = []string{"beta", "gamma", "delta", "epsilon", "zeta"}

const (
	nodeName       = "alpha"
	kubeconfig     = "/etc/skiff/skiff.yaml"
	imageDir       = "/var/lib/skiff/agent/images"
	registryConfig = "/etc/skiff/certs.d"
	registryPort   = 5000
	startPatience  = 3 * time.Minute // with the import of all images
	stopPatience   = time.Minute
)

// Own is a Skiff on test hosts. Whatever ends this process ends it too.
type Own struct {
	config   Config
	closers  cleanups
	host     *testhost.Host
	registry *images.Registry
	before   machine
	server   *testhost.Process
	log      *os.File
	agents   []*agent
}

// agent is a node on a test host of its own.
type agent struct {
	host    *testhost.Host
	process *testhost.Process
}

// Start starts a server that is also a node, and waits until that is Ready.
func Start(ctx context.Context, config Config) (own *Own, err error) {
	own = &Own{config: config, closers: cleanups{say: config.Say}}
	if own.before, err = look(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			own.closers.run()
		}
	}()
	if err := own.makeHost(ctx); err != nil {
		return nil, err
	}
	if err := own.Restart(ctx); err != nil {
		return own, err
	}
	if err := own.join(ctx); err != nil {
		return own, err
	}
	if err := own.spread(ctx); err != nil {
		return own, err
	}
	return own, own.apply(ctx)
}

// Restart starts the server again after Stop or Kill, and waits until the node is Ready.
func (o *Own) Restart(ctx context.Context) error {
	if err := o.startServer(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if err := o.awaitReady(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, o.endOfLog())
	}
	return nil
}

// Host is where the server runs.
func (o *Own) Host() *testhost.Host { return o.host }

// Kill ends the server without warning.
func (o *Own) Kill(ctx context.Context) error { return o.server.Kill(ctx) }

func (o *Own) makeHost(ctx context.Context) error {
	if o.config.Agents > len(agentNames) {
		return fmt.Errorf("a cluster has at most %d agents", len(agentNames))
	}
	var hosts []*testhost.Host
	err := o.closers.catch(func(t testhost.T) {
		network := testhost.NewCluster(t, 0)
		o.host = network.Add(t, testhost.Options{Name: nodeName})
		for _, name := range agentNames[:o.config.Agents] {
			o.agents = append(o.agents, &agent{host: network.Add(t, testhost.Options{Name: name})})
		}
		hosts = network.Hosts()
	})
	if err != nil {
		return err
	}
	if o.config.Registry {
		if o.registry, err = images.NewRegistry(ctx, o.config.Archive); err != nil {
			return err
		}
	}
	for _, host := range hosts {
		if err := o.prepare(ctx, host); err != nil {
			return err
		}
	}
	return nil
}

func (o *Own) prepare(ctx context.Context, host *testhost.Host) error {
	if o.config.Archive != "" {
		if err := linkOrCopy(o.config.Archive, filepath.Join(host.Path(imageDir), "conformance.tar")); err != nil {
			return fmt.Errorf("hand over the test images: %w", err)
		}
	}
	if o.config.Tools != "" {
		if err := o.handOverTools(ctx, host); err != nil {
			return fmt.Errorf("hand over tools: %w", err)
		}
	}
	if o.config.Prepare != nil {
		if err := o.config.Prepare(host); err != nil {
			return fmt.Errorf("prepare the test host: %w", err)
		}
	}
	if o.config.Registry {
		return o.serveImages(ctx, host)
	}
	return nil
}

// crictlConfig says where Skiff's container runtime is.
const crictlConfig = "runtime-endpoint: unix:///run/skiff/containerd/containerd.sock\nimage-endpoint: unix:///run/skiff/containerd/containerd.sock\n"

// handOverTools adds tools to the machine's programs, as the host sees them.
func (o *Own) handOverTools(ctx context.Context, host *testhost.Host) error {
	const programs = "/usr/local/bin"
	if _, err := host.Output(ctx, "mount", "-t", "overlay", "-o", "ro,lowerdir="+o.config.Tools+":"+programs, "overlay", programs); err != nil {
		return err
	}
	return os.WriteFile(host.Path("/etc/crictl.yaml"), []byte(crictlConfig), 0o644)
}

// serveImages runs a registry on a host's loopback, and tells the host that it is all registries there are.
func (o *Own) serveImages(ctx context.Context, host *testhost.Host) error {
	address := fmt.Sprintf("127.0.0.1:%d", registryPort)
	listener, err := host.Listen(ctx, "tcp4", address)
	if err != nil {
		return fmt.Errorf("serve test images: %w", err)
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := o.registry.Serve(serving, listener); err != nil {
			o.config.Say("serve test images: %v", err)
		}
	}()
	o.closers.Cleanup(func() { stop(); <-done })
	dir := host.Path(filepath.Join(registryConfig, "_default"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	hosts := fmt.Sprintf("server = \"http://%s\"\n\n[host.\"http://%s\"]\ncapabilities = [\"pull\", \"resolve\"]\n", address, address)
	return os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o644)
}

// Pulls are the images that nodes asked a registry for: those that it had, and those that it had not. All
// registries of the world are this one to the nodes, so there are no others.
func (o *Own) Pulls() (served, refused map[string]int) {
	return o.registry.Served(), o.registry.Refused()
}

func (o *Own) startServer(ctx context.Context) error {
	var err error
	if o.log == nil {
		if o.log, err = o.createLog(nodeName); err != nil {
			return err
		}
	}
	flags := append([]string{"server"}, o.config.Flags...)
	if o.config.DualStack {
		flags = append(flags, "--cluster-cidr=10.42.0.0/16,fd42::/56", "--service-cidr=10.43.0.0/16,fd43::/112")
	}
	o.server, err = o.run(ctx, o.host, o.log, flags...)
	return err
}

func (o *Own) createLog(node string) (*os.File, error) {
	log, err := os.Create(filepath.Join(o.config.LogDir, node+".log"))
	if err == nil {
		o.closers.Cleanup(func() { log.Close() })
	}
	return log, err
}

// run runs a server or an agent on a host.
func (o *Own) run(ctx context.Context, host *testhost.Host, log *os.File, flags ...string) (*testhost.Process, error) {
	address := host.IP().String()
	if o.config.DualStack {
		address += "," + host.IPv6().String()
	}
	flags = append(flags, "--node-name="+host.Name(), "--node-ip="+address, "--cgroup-root="+host.CgroupRoot())
	if o.config.ProxyMode != "" {
		flags = append(flags, "--proxy-mode="+o.config.ProxyMode)
	}
	cmd := host.Command(context.WithoutCancel(ctx), o.config.Binary, flags...)
	cmd.Stdout, cmd.Stderr = log, log
	return host.Start(cmd)
}

// join lets the agents join, with the command that the server prints, and waits for their nodes.
func (o *Own) join(ctx context.Context) error {
	if len(o.agents) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	command, err := o.host.Output(ctx, o.config.Binary, "token", "create")
	if err != nil {
		return fmt.Errorf("make a token: %w", err)
	}
	flags := strings.Fields(strings.TrimPrefix(command, "sudo skiff"))
	for _, a := range o.agents {
		log, err := o.createLog(a.host.Name())
		if err != nil {
			return err
		}
		if a.process, err = o.run(ctx, a.host, log, flags...); err != nil {
			return err
		}
	}
	for _, a := range o.agents {
		if err := o.awaitNode(ctx, a.host.Name()); err != nil {
			return err
		}
	}
	return nil
}

// spread says of the nodes in which zones they are.
func (o *Own) spread(ctx context.Context) error {
	if o.config.Zones == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for i, name := range append([]string{nodeName}, agentNames[:len(o.agents)]...) {
		if err := o.kubectl(ctx, "label", "node", name, fmt.Sprintf("topology.kubernetes.io/zone=zone-%d", i%o.config.Zones)); err != nil {
			return fmt.Errorf("say in which zone node %s is: %w", name, err)
		}
	}
	return nil
}

func (o *Own) apply(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for _, file := range o.config.Manifests {
		if err := o.kubectl(ctx, "apply", "--filename="+file); err != nil {
			return fmt.Errorf("apply %s: %w", file, err)
		}
	}
	return nil
}

func (o *Own) awaitNode(ctx context.Context, name string) error {
	for _, condition := range []string{"create", "condition=Ready"} {
		if err := o.kubectl(ctx, "wait", "--for="+condition, "node/"+name, "--timeout="+startPatience.String()); err != nil {
			return fmt.Errorf("wait for node %s: %w", name, err)
		}
	}
	return nil
}

// awaitReady waits for the node, and for what pods take for granted.
func (o *Own) awaitReady(ctx context.Context) error {
	if err := o.awaitNode(ctx, nodeName); err != nil {
		return err
	}
	if err := o.kubectl(ctx, "wait", "--for=create", "serviceaccount/default", "--timeout="+startPatience.String()); err != nil {
		return fmt.Errorf("wait for the cluster: %w", err)
	}
	return nil
}

// kubectl repeats a command until it succeeds or the server or ctx ends: there is no API at first.
func (o *Own) kubectl(ctx context.Context, args ...string) error {
	for {
		cmd := o.host.Command(ctx, o.config.Binary, append([]string{"kubectl", "--kubeconfig=" + kubeconfig}, args...)...)
		out, err := cmd.CombinedOutput()
		if err == nil {
			return nil
		}
		select {
		case <-o.server.Done():
			return errors.New("the server has ended")
		case <-ctx.Done():
			return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), ctx.Err(), out)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (o *Own) endOfLog() string {
	content, _ := os.ReadFile(o.log.Name())
	return string(content[max(0, len(content)-4000):])
}

// Kubeconfig is a path that is the same in the host and, after Start, needs Command to be used.
func (o *Own) Kubeconfig() string { return kubeconfig }

// Command is a process in the server's network.
func (o *Own) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	// nsenter leaves a working directory that has no path in the host, which e2e.test asks for.
	return o.host.Command(ctx, "env", append([]string{"--chdir=/", name}, args...)...)
}

// Done is closed when the server has ended.
func (o *Own) Done() <-chan struct{} { return o.server.Done() }

// Stop asks the server to end, and waits for it. Pods go on, and agents too.
func (o *Own) Stop(ctx context.Context) error { return stop(ctx, "server", o.server) }

func stop(ctx context.Context, what string, process *testhost.Process) error {
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	err := process.Signal(syscall.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	if waited := process.Wait(ctx); errors.Is(waited, context.DeadlineExceeded) {
		err = fmt.Errorf("the %s did not end within %s of a SIGTERM; its log says where it is", what, stopPatience)
		process.Signal(syscall.SIGQUIT) // Go prints all goroutines
		<-process.Done()
	}
	return err
}

// Close stops agents and server, and then the hosts with all that is in them. What is left of them on the machine is an
// error.
func (o *Own) Close() error {
	inside, cgroups := namespacesOf(o.host), []string{o.host.CgroupRoot()}
	var errs []error
	for _, a := range o.agents {
		if a.process != nil {
			errs = append(errs, stop(context.Background(), "agent", a.process))
		}
		maps.Copy(inside, namespacesOf(a.host))
		cgroups = append(cgroups, a.host.CgroupRoot())
	}
	errs = append(errs, o.Stop(context.Background()))
	o.closers.run()
	return errors.Join(append(errs, o.judgePulls(), remains(o.before, inside, cgroups...))...)
}

// judgePulls says what nodes pulled. An image of the suite that is missing is an error; some tests ask for images
// that exist nowhere.
func (o *Own) judgePulls() error {
	if o.registry == nil {
		return nil
	}
	served, refused := o.Pulls()
	o.config.Say("the nodes asked for %d images that the test registry has, and for %d that it has not: %s",
		len(served), len(refused), strings.Join(slices.Sorted(maps.Keys(refused)), ", "))
	var missing []string
	for image := range refused {
		if strings.HasPrefix(image, "registry.k8s.io/") {
			missing = append(missing, image)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return fmt.Errorf("tests need images that are not made here: %s", strings.Join(missing, ", "))
	}
	return nil
}

// linkOrCopy saves the copy where both are on one file system.
func linkOrCopy(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if os.Link(from, to) == nil {
		return nil
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

// cleanups is a testhost.T outside of a test.
type cleanups struct {
	say   func(format string, args ...any)
	steps []func()
}

type failure struct{ error }

func (c *cleanups) Helper()                           {}
func (c *cleanups) Cleanup(f func())                  { c.steps = append(c.steps, f) }
func (c *cleanups) Logf(format string, args ...any)   { c.say(format, args...) }
func (c *cleanups) Fatalf(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }

// catch calls f and returns what it said to Fatalf.
func (c *cleanups) catch(f func(testhost.T)) (err error) {
	defer func() {
		if said := recover(); said != nil {
			fatal, ok := said.(failure)
			if !ok {
				panic(said)
			}
			err = fatal.error
		}
	}()
	f(c)
	return nil
}

func (c *cleanups) run() {
	for i := len(c.steps) - 1; i >= 0; i-- {
		c.steps[i]()
	}
	c.steps = nil
}
