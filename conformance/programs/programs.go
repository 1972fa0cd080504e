// SPDX-License-Identifier: Apache-2.0

// Package programs builds programs from the Go modules that this module requires, and keeps them in a cache:
// a set is built again only when the required modules, the Go version or the flags have changed.
package programs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Program is something that Go can build.
type Program struct {
	Name    string // of the file
	Package string
	Test    bool // build the package's tests, as `go test -c` does
}

// Upstream is the version of Kubernetes whose suite is run. It stands in the programs, too.
const Upstream = "v1.37.2"

const ownModule = "github.com/skiff-k8s/skiff/conformance/"

// Suite is what runs the tests: the suite itself and the kubectl that it calls.
var Suite = []Program{
	{Name: "e2e.test", Package: "k8s.io/kubernetes/test/e2e", Test: true},
	{Name: "kubectl", Package: "k8s.io/kubernetes/cmd/kubectl"},
}

// Images are the programs inside test images.
var Images = []Program{
	{Name: "agnhost", Package: "k8s.io/kubernetes/test/images/agnhost"},
	{Name: "nnp", Package: "k8s.io/kubernetes/test/images/nonewprivs"},
	{Name: "regression-issue-74839", Package: "k8s.io/kubernetes/test/images/regression-issue-74839"},
	{Name: "consumer", Package: "k8s.io/kubernetes/test/images/resource-consumer"},
	{Name: "consume-cpu", Package: "k8s.io/kubernetes/test/images/resource-consumer/consume-cpu"},
	{Name: "sampledeviceplugin", Package: "k8s.io/kubernetes/test/images/sample-device-plugin"},
	{Name: "etcd", Package: "go.etcd.io/etcd/server/v3"},
	{Name: "coredns", Package: "github.com/skiff-k8s/skiff/conformance/images/coredns"},
	{Name: "pause", Package: "github.com/skiff-k8s/skiff/conformance/images/pause"},
	{Name: "sh", Package: "github.com/skiff-k8s/skiff/conformance/images/sh"},
}

// SampleAPIServer is of an older Kubernetes, as in the image that the suite names, and so has a module of its own.
var SampleAPIServer = []Program{{Name: "sample-apiserver", Package: "k8s.io/sample-apiserver"}}

// SampleAPIServerModule is that module, seen from this one.
const SampleAPIServerModule = "images/sampleapiserver"

// CSIDriver is the driver that stands in for upstream's, and the proxy that tests of dynamic resource allocation use, too.
var CSIDriver = []Program{{Name: "hostpathplugin", Package: "github.com/skiff-k8s/skiff/conformance/images/csi/hostpathplugin"}}

// CSISidecars are what CSI drivers run with, and stand-ins for those that are not to be had as Go modules.
var CSISidecars = []Program{
	{Name: "csi-attacher", Package: "github.com/kubernetes-csi/external-attacher/v4/cmd/csi-attacher"},
	{Name: "csi-provisioner", Package: "github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner"},
	{Name: "csi-resizer", Package: "github.com/kubernetes-csi/external-resizer/v2/cmd/csi-resizer"},
	{Name: "csi-snapshotter", Package: "github.com/kubernetes-csi/external-snapshotter/v8/cmd/csi-snapshotter"},
	{Name: "snapshot-controller", Package: "github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller"},
	{Name: "livenessprobe", Package: "github.com/skiff-k8s/skiff/conformance/images/csi/livenessprobe"},
	{Name: "nodedriverregistrar", Package: "github.com/skiff-k8s/skiff/conformance/images/csi/nodedriverregistrar"},
}

// CSIModule is the module with both: they were released with an older Kubernetes.
const CSIModule = "images/csi"

// NodeTools are what tests call on nodes, and the machine may not have.
var NodeTools = []Program{{Name: "crictl", Package: "sigs.k8s.io/cri-tools/cmd/crictl"}}

// NodeToolsModule is the module with those.
const NodeToolsModule = "nodetools"

// Build builds what the cache does not have yet, in the module whose go.mod lies in dir, and returns where
// each program is. say is told about work that takes long.
func Build(ctx context.Context, dir, cache string, set []Program, say func(format string, args ...any)) (map[string]string, error) {
	key, err := key(ctx, dir)
	if err != nil {
		return nil, err
	}
	out := filepath.Join(cache, "programs", key)
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	unlock, err := lock(out + ".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	built := map[string]string{}
	for _, p := range set {
		built[p.Name] = filepath.Join(out, p.Name)
		own := strings.HasPrefix(p.Package, ownModule) // the key says nothing about its source
		if _, err := os.Stat(built[p.Name]); err == nil && !own {
			continue
		}
		if !own {
			say("building %s", p.Name)
		}
		if err := p.build(ctx, dir, built[p.Name]); err != nil {
			return nil, err
		}
	}
	return built, nil
}

// lock waits until nobody else builds the same.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return func() { f.Close() }, nil
}

// linkFlags give the programs their version. Without the symbols they are half as large.
const linkFlags = "-s -w -X k8s.io/component-base/version.gitVersion=" + Upstream +
	" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37" +
	" -X k8s.io/client-go/pkg/version.gitVersion=" + Upstream

func (p Program) build(ctx context.Context, dir, to string) error {
	unfinished := to + ".unfinished"
	verb := []string{"build"}
	if p.Test {
		verb = []string{"test", "-c", "-vet=off"} // to vet upstream's code takes as long as to build it
	}
	cmd := exec.CommandContext(ctx, "go", append(verb, "-trimpath", "-ldflags="+linkFlags, "-o", unfinished, p.Package)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", p.Package, err, output)
	}
	return os.Rename(unfinished, to)
}

// key is a digest of everything that decides what is built.
func key(ctx context.Context, dir string) (string, error) {
	digest := sha256.New()
	fmt.Fprintln(digest, linkFlags)
	cmd := exec.CommandContext(ctx, "go", "env", "GOVERSION", "GOOS", "GOARCH", "GOFLAGS")
	cmd.Dir = dir
	env, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask go for its version: %w", err)
	}
	digest.Write(env)
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		digest.Write(content)
	}
	return hex.EncodeToString(digest.Sum(nil))[:16], nil
}

// Digest is a digest of a file's content.
func Digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	digest := sha256.New()
	if _, err := io.Copy(digest, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(digest.Sum(nil)), nil
}

// ModuleDir is where the source of a required module lies.
func ModuleDir(ctx context.Context, dir, module string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find module %s: %w", module, err)
	}
	return strings.TrimSpace(string(out)), nil
}
