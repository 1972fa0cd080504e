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
	Archive string // of images that the node imports; none if empty
	// Registry serves those of them that upstream's suite pulls, and refuses all others.
	Registry bool
	// Prepare, if set, gets the host before anything runs there.
	Prepare func(*testhost.Host) error
	LogDir  string // for the servers' logs
	Flags   []string
	Say     func(format string, args ...any)
}

const (
	nodeName       = "alpha"
	kubeconfig     = "/etc/skiff/skiff.yaml"
	imageDir       = "/var/lib/skiff/agent/images"
	registryConfig = "/etc/skiff/certs.d"
	registryPort   = 5000
	startPatience  = 3 * time.Minute // with the import of all images
	stopPatience   = time.Minute
)

// Own is a Skiff on a test host. Whatever ends this process ends it too.
type Own struct {
	config   Config
	closers  cleanups
	host     *testhost.Host
	registry *images.Registry
	before   machine
	server   *testhost.Process
	log      *os.File
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
	return own, own.Restart(ctx)
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
	err := o.closers.catch(func(t testhost.T) {
		o.host = testhost.New(t, testhost.Options{Name: nodeName})
	})
	if err != nil {
		return err
	}
	if o.config.Archive != "" {
		if err := linkOrCopy(o.config.Archive, filepath.Join(o.host.Path(imageDir), "conformance.tar")); err != nil {
			return fmt.Errorf("hand over the test images: %w", err)
		}
	}
	if o.config.Prepare != nil {
		if err := o.config.Prepare(o.host); err != nil {
			return fmt.Errorf("prepare the test host: %w", err)
		}
	}
	if o.config.Registry {
		return o.serveImages(ctx)
	}
	return nil
}

// serveImages runs a registry on the host's loopback, and tells the host that it is all registries there are.
func (o *Own) serveImages(ctx context.Context) error {
	registry, err := images.NewRegistry(ctx, o.config.Archive)
	if err != nil {
		return err
	}
	address := fmt.Sprintf("127.0.0.1:%d", registryPort)
	listener, err := o.host.Listen(ctx, "tcp4", address)
	if err != nil {
		return fmt.Errorf("serve test images: %w", err)
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := registry.Serve(serving, listener); err != nil {
			o.config.Say("serve test images: %v", err)
		}
	}()
	o.closers.Cleanup(func() { stop(); <-done })
	o.registry = registry
	dir := o.host.Path(filepath.Join(registryConfig, "_default"))
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
		if o.log, err = os.Create(filepath.Join(o.config.LogDir, nodeName+".log")); err != nil {
			return err
		}
		o.closers.Cleanup(func() { o.log.Close() })
	}
	flags := append([]string{"server", "--node-name=" + nodeName, "--node-ip=" + o.host.IP().String(), "--cgroup-root=" + o.host.CgroupRoot()}, o.config.Flags...)
	cmd := o.host.Command(context.WithoutCancel(ctx), o.config.Binary, flags...)
	cmd.Stdout, cmd.Stderr = o.log, o.log
	o.server, err = o.host.Start(cmd)
	return err
}

// awaitReady waits for the node, and for the images that the suite takes for granted.
func (o *Own) awaitReady(ctx context.Context) error {
	for _, wait := range [][]string{
		{"wait", "--for=create", "node/" + nodeName, "--timeout=" + startPatience.String()},
		{"wait", "--for=condition=Ready", "node/" + nodeName, "--timeout=" + startPatience.String()},
		{"wait", "--for=create", "serviceaccount/default", "--timeout=" + startPatience.String()},
	} {
		if err := o.kubectl(ctx, wait...); err != nil {
			return fmt.Errorf("wait for the cluster: %w", err)
		}
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

// Stop asks the server to end, and waits for it. Pods go on.
func (o *Own) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	err := o.server.Signal(syscall.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	if waited := o.server.Wait(ctx); errors.Is(waited, context.DeadlineExceeded) {
		err = fmt.Errorf("the server did not end within %s of a SIGTERM; its log says where it is", stopPatience)
		o.server.Signal(syscall.SIGQUIT) // Go prints all goroutines
		<-o.server.Done()
	}
	return err
}

// Close stops the server, and then the host with all that is in it. What is left of them on the machine is an error.
func (o *Own) Close() error {
	err := o.Stop(context.Background())
	inside := namespacesOf(o.host)
	cgroup := o.host.CgroupRoot()
	o.closers.run()
	return errors.Join(err, o.judgePulls(), remains(o.before, inside, cgroup))
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
