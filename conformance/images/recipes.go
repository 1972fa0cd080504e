// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/skiff-k8s/skiff/conformance/debian"
)

// packages are what the images take files from.
var packages = []string{
	"busybox-static", "bash", "coreutils", "bind9-dnsutils", "curl", "netcat-openbsd", "iproute2", "iperf", "socat", "util-linux",
	"conntrack", "libc-bin", "nginx", "perl-base", "stress", "wget",
}

// image says what one image is.
type image struct {
	layers []string // by name, see layers
	config v1.Config
}

// The names that the suite has for its images: test/utils/image/manifest.go upstream.
const (
	testImages    = "registry.k8s.io/e2e-test-images/"
	storageImages = "registry.k8s.io/sig-storage/"
)

var agnhost = image{
	layers: []string{"base", "tools", "agnhost"},
	config: v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}},
}

var nginx = image{
	layers: []string{"base", "nginx"},
	config: v1.Config{Cmd: []string{"nginx", "-g", "daemon off;"}, StopSignal: "SIGQUIT"},
}

// recipes are all images, by the names that the suite calls them by.
var recipes = map[string]image{
	"registry.k8s.io/pause:3.10.2":         {layers: []string{"pause"}, config: v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"}},
	"registry.k8s.io/etcd:3.7.0-0":         {layers: []string{"base", "etcd"}},
	testImages + "agnhost:2.66.1":          agnhost,
	testImages + "agnhost:2.55":            agnhost,
	testImages + "busybox:1.37.0-2":        {layers: []string{"base", "busybox-shell"}, config: v1.Config{Cmd: []string{"sh"}}},
	testImages + "busybox:1.36.1-1":        {layers: []string{"base", "busybox-shell"}, config: v1.Config{Cmd: []string{"sh"}}},
	testImages + "glibc-dns-testing:2.1.1": {layers: []string{"base", "tools"}, config: v1.Config{Cmd: []string{"sh"}}},
	testImages + "ipc-utils:1.4":           {layers: []string{"base", "tools"}, config: v1.Config{Cmd: []string{"sh"}}},
	testImages + "kitten:1.8":              website(agnhost, "kitten"),
	testImages + "nautilus:1.8":            website(agnhost, "nautilus"),
	testImages + "nginx:1.27.0-2":          nginx,
	testImages + "nginx:1.28.0-2":          nginx,
	testImages + "nonewprivs:1.4":          {layers: []string{"base", "nonewprivs"}, config: v1.Config{Cmd: []string{"nnp"}}},
	testImages + "nonroot:1.5":             {layers: []string{"base"}, config: v1.Config{Cmd: []string{"sh"}, User: "1234"}},
	testImages + "perl:5.26":               {layers: []string{"base", "perl"}, config: v1.Config{Cmd: []string{"perl", "-de0"}}},
	// Of its tools the tests call conntrack.
	"registry.k8s.io/build-image/distroless-iptables:v0.9.9": {layers: []string{"base", "conntrack"}},
	testImages + "regression-issue-74839:1.5":                {layers: []string{"base", "regression-issue-74839"}, config: v1.Config{Entrypoint: []string{"/regression-issue-74839"}}},
	storageImages + "hostpathplugin:v1.17.1":                 {layers: []string{"base", "hostpathplugin"}, config: v1.Config{Entrypoint: []string{"/hostpathplugin"}}},
	testImages + "resource-consumer:1.14":                    {layers: []string{"base", "resource-consumer"}, config: v1.Config{Entrypoint: []string{"/consumer"}}},
	testImages + "sample-device-plugin:1.8.0":                {layers: []string{"base", "sample-device-plugin"}, config: v1.Config{Entrypoint: []string{"/sampledeviceplugin", "-alsologtostderr"}}},
	testImages + "sample-apiserver:1.29.2":                   {layers: []string{"base", "sample-apiserver"}, config: v1.Config{Entrypoint: []string{"/sample-apiserver"}}},
}

// storageRecipes are what CSI drivers run with.
var storageRecipes = map[string]image{
	storageImages + "csi-attacher:v4.12.0":              single("csi-attacher"),
	storageImages + "csi-node-driver-registrar:v2.17.0": single("nodedriverregistrar"),
	storageImages + "csi-provisioner:v6.3.0":            single("csi-provisioner"),
	storageImages + "csi-resizer:v2.2.0":                single("csi-resizer"),
	storageImages + "csi-snapshotter:v8.6.0":            single("csi-snapshotter"),
	storageImages + "livenessprobe:v2.19.0":             single("livenessprobe"),
	storageImages + "snapshot-controller:v8.5.0":        single("snapshot-controller"),
}

// single is an image that holds one program and nothing else.
func single(program string) image {
	return image{layers: []string{program}, config: v1.Config{Entrypoint: []string{"/" + program}}}
}

func website(base image, layer string) image {
	base.layers = append(append([]string(nil), base.layers...), layer)
	base.config.Entrypoint, base.config.Cmd = []string{"/agnhost"}, []string{"test-webserver"}
	return base
}

// ingredients are what layers are made from.
type ingredients struct {
	tree     *debian.Tree
	programs map[string]string // by name, where each is
	upstream string            // the source of k8s.io/kubernetes
}

// layers says how each layer is made.
var layers = map[string]func(context.Context, ingredients) ([]entry, error){
	"base":             baseLayer,
	"tools":            toolsLayer,
	"agnhost":          agnhostLayer,
	"busybox-shell":    programLayer("/bin/sh", "sh"),
	"nginx":            nginxLayer,
	"kitten":           websiteLayer("kitten"),
	"nautilus":         websiteLayer("nautilus"),
	"pause":            programLayer("/pause", "pause"),
	"etcd":             programLayer("/usr/local/bin/etcd", "etcd"),
	"sample-apiserver": programLayer("/sample-apiserver", "sample-apiserver"),
	"nonewprivs": func(_ context.Context, in ingredients) ([]entry, error) {
		return []entry{{name: "/usr/local/bin/nnp", mode: 0o6755, source: in.programs["nnp"]}}, nil
	},
	"perl": func(_ context.Context, in ingredients) ([]entry, error) {
		return packaged(in.tree, "/usr/bin/perl", "/usr/lib/"+multiarch(in.tree)+"/perl-base")
	},
	"conntrack": func(_ context.Context, in ingredients) ([]entry, error) {
		return packaged(in.tree, "/usr/sbin/conntrack")
	},
	"csi-attacher":           programLayer("/csi-attacher", "csi-attacher"),
	"csi-provisioner":        programLayer("/csi-provisioner", "csi-provisioner"),
	"csi-resizer":            programLayer("/csi-resizer", "csi-resizer"),
	"csi-snapshotter":        programLayer("/csi-snapshotter", "csi-snapshotter"),
	"snapshot-controller":    programLayer("/snapshot-controller", "snapshot-controller"),
	"hostpathplugin":         programLayer("/hostpathplugin", "hostpathplugin"),
	"livenessprobe":          programLayer("/livenessprobe", "livenessprobe"),
	"nodedriverregistrar":    programLayer("/nodedriverregistrar", "nodedriverregistrar"),
	"sample-device-plugin":   programLayer("/sampledeviceplugin", "sampledeviceplugin"),
	"regression-issue-74839": programLayer("/regression-issue-74839", "regression-issue-74839"),
	"resource-consumer": func(_ context.Context, in ingredients) ([]entry, error) {
		entries, err := packaged(in.tree, "/usr/bin/stress")
		return append(entries, program("/consumer", in.programs["consumer"]), program("/consume-cpu/consume-cpu", in.programs["consume-cpu"])), err
	},
}

// baseLayer is a small system: busybox with a link for each applet, and bash as the shell.
//
// Debian's busybox shell prefers its own applets to programs and drops variables with a dash in their name, and its dd
// does not know nocache; there are tests that notice. One test expects Alpine Linux by name.
func baseLayer(ctx context.Context, in ingredients) ([]entry, error) {
	entries := []entry{dir("/tmp", 0o1777), dir("/root", 0o700), dir("/proc", 0o755), dir("/sys", 0o755), dir("/dev", 0o755), dir("/var/tmp", 0o1777), dir("/run", 0o755), dir("/home", 0o755), dir("/mnt", 0o755)}
	out, err := exec.CommandContext(ctx, in.tree.Path("/bin/busybox"), "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("ask busybox for its applets: %w", err)
	}
	for applet := range strings.FieldsSeq(string(out)) {
		entries = append(entries, link("/bin/"+applet, "busybox"))
	}
	system, err := packaged(in.tree, "/bin/busybox", "/bin/bash", "/bin/dd")
	if err != nil {
		return nil, err
	}
	entries = append(entries, system...)
	return append(entries,
		link("/bin/sh", "bash"),
		link("/bin/ash", "bash"),
		link("/usr/bin/env", "/bin/env"),
		text("/etc/os-release", "NAME=\"Alpine Linux\"\nID=alpine\nPRETTY_NAME=\"Alpine Linux, as far as a test needs it\"\n"),
		text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
		text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\nnginx:x:101:101:nginx:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
		text("/etc/group", "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnginx:x:101:\nnobody:x:65534:\n"),
	), nil
}

// toolsLayer is what tests call in agnhost's image. The programs take the places of busybox's applets.
func toolsLayer(_ context.Context, in ingredients) ([]entry, error) {
	entries, err := packaged(in.tree,
		"/usr/bin/dig", "/usr/bin/getent", "/usr/bin/nslookup", "/usr/bin/host", "/usr/bin/curl", "/bin/nc.openbsd", "/sbin/ip", "/bin/ip", "/bin/ss", "/sbin/tc",
		"/usr/bin/iperf", "/usr/bin/socat", "/usr/bin/ipcs", "/usr/bin/ipcmk", "/usr/bin/ipcrm", "/usr/bin/nsenter", "/usr/bin/unshare", "/usr/bin/wget")
	return append(entries,
		link("/bin/nc", "nc.openbsd"),
		link("/bin/nslookup", "/usr/bin/nslookup"),
		link("/bin/wget", "/usr/bin/wget"), // busybox's dies of a segmentation fault with -T
		text("/etc/wgetrc", "tries = 1\n"), // busybox's tries once; twenty times take five minutes where an answer must not come
		link("/usr/local/bin/iperf", "/usr/bin/iperf"),
	), err
}

func agnhostLayer(_ context.Context, in ingredients) ([]entry, error) {
	porter := filepath.Join(in.upstream, "test/images/agnhost/porter")
	entries := []entry{
		program("/agnhost", in.programs["agnhost"]),
		link("/agnhost-2", "agnhost"),
		program("/coredns", in.programs["coredns"]),
		dir("/uploads", 0o755),
		{name: "/localhost.crt", mode: 0o644, source: filepath.Join(porter, "localhost.crt")},
		{name: "/localhost.key", mode: 0o644, source: filepath.Join(porter, "localhost.key")},
		// A test of supplemental groups knows this user and this group by their numbers.
		text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
		text("/etc/group", "root:x:0:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\nnobody:x:65534:\n"),
	}
	served, err := servedByAgnhost(in)
	return append(entries, served...), err
}

// servedByAgnhost is the image that `agnhost fake-registry-server` serves as pause:testing, laid out as it wants it.
func servedByAgnhost(in ingredients) ([]entry, error) {
	l, err := layer([]entry{program("/pause", in.programs["pause"])})
	if err != nil {
		return nil, err
	}
	img, err := assemble(v1.Config{Entrypoint: []string{"/pause"}}, l)
	if err != nil {
		return nil, err
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return nil, err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return nil, err
	}
	configDigest, err := img.ConfigName()
	if err != nil {
		return nil, err
	}
	blob, err := compressed(l)
	if err != nil {
		return nil, err
	}
	blobDigest, err := l.Digest()
	if err != nil {
		return nil, err
	}
	file := func(kind string, h v1.Hash, content []byte) entry {
		return entry{name: fmt.Sprintf("/var/registry/pause/%s/%s/%s/%s/data", kind, h.Algorithm, h.Hex[:2], h.Hex), mode: 0o644, content: content}
	}
	return []entry{
		text("/var/registry/pause/manifests/testing", digest.String()+"\n"),
		file("manifests", digest, manifest), file("blobs", configDigest, config), file("blobs", blobDigest, blob),
	}, nil
}

const nginxConfig = `user nginx;
worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
	include mime.types;
	access_log /dev/stdout;
	server {
		listen 80;
		root /usr/share/nginx/html;
	}
}
`

func nginxLayer(_ context.Context, in ingredients) ([]entry, error) {
	entries, err := packaged(in.tree, "/usr/sbin/nginx", "/etc/nginx/mime.types")
	return append(entries,
		text("/etc/nginx/nginx.conf", nginxConfig),
		text("/usr/share/nginx/html/index.html", "<html><title>Welcome to nginx!</title><h1>Welcome to nginx!</h1></html>\n"),
		dir("/var/lib/nginx", 0o755), dir("/var/log/nginx", 0o755), dir("/run", 0o755),
	), err
}

// websiteLayer holds the files that upstream's image of this name serves.
func websiteLayer(name string) func(context.Context, ingredients) ([]entry, error) {
	return func(_ context.Context, in ingredients) ([]entry, error) {
		html := filepath.Join(in.upstream, "test/images", name, "html")
		files, err := os.ReadDir(html)
		var entries []entry
		for _, f := range files {
			entries = append(entries, entry{name: "/" + f.Name(), mode: 0o644, source: filepath.Join(html, f.Name())})
		}
		return entries, err
	}
}

func programLayer(name, built string) func(context.Context, ingredients) ([]entry, error) {
	return func(_ context.Context, in ingredients) ([]entry, error) {
		return []entry{program(name, in.programs[built])}, nil
	}
}

// multiarch is the part of library paths that names the architecture.
func multiarch(tree *debian.Tree) string {
	if _, err := os.Stat(tree.Path("/lib/aarch64-linux-gnu")); err == nil {
		return "aarch64-linux-gnu"
	}
	return "x86_64-linux-gnu"
}

// assemble puts layers into an image.
func assemble(config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", architecture
	file.Config = config
	if len(file.Config.Env) == 0 {
		file.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	return mutate.ConfigFile(img, file)
}
