// SPDX-License-Identifier: Apache-2.0

// Package static reads pods from files on the node, or from a web server: those that run without anybody having created them in
// the API.
//
// A file holds one Pod, in YAML or JSON. The path is such a file, or a folder of them; names that begin with a dot are
// passed over. What a URL leads to is a Pod or a PodList. A pod gets the node's name at the end of its own, and a UID that is a hash
// of all that it is, so that an unchanged file means the same pod after a restart, and a changed one another pod. What cannot be a
// static pod is logged, and the last good version of that file stays in force.
// Reference: https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/
package static

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/kubelet/objects"
)

// Config says where the pods are and what a Pod must be like.
type Config struct {
	Path   string        // a file or a folder of files; empty for none
	URL    string        // empty for none
	Header http.Header   // of requests to it
	Period time.Duration // between them

	NodeName string
	Default  func(*v1.Pod)                 // sets what the file leaves open
	Validate func(*v1.Pod) field.ErrorList // after that
}

// Source reads the pods. It is not for concurrent use.
type Source struct {
	cfg  Config
	good map[string]*v1.Pod // by file: the last version that could be read
	page *page              // nil without a URL
}

// New makes a Source.
func New(cfg Config) *Source {
	s := &Source{cfg: cfg, good: map[string]*v1.Pod{}}
	if cfg.URL != "" {
		s.page = newPage(&s.cfg)
	}
	return s
}

// Seen says whether all pods are known: before the web server has answered, what runs may be its.
func (s *Source) Seen() bool {
	if s.page == nil {
		return true
	}
	_, seen := s.page.pods()
	return seen
}

// The annotations that say where a pod is from, as upstream's.
const (
	hashAnnotation   = "kubernetes.io/config.hash"
	sourceAnnotation = "kubernetes.io/config.source"
	seenAnnotation   = "kubernetes.io/config.seen"

	fileSource = "file"

	maxFile = 10 << 20
)

// Read returns the pods of all files, and those that the web server had when Run asked it last.
func (s *Source) Read(ctx context.Context) []*v1.Pod {
	logger := klog.FromContext(ctx)
	files, err := s.files()
	if err != nil {
		logger.Error(err, "Reading static pods")
		return s.pods(ctx)
	}
	good := map[string]*v1.Pod{}
	for _, file := range files {
		pod, err := s.read(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed a moment ago
		}
		was := s.good[file]
		switch {
		case err != nil:
			logger.Error(err, "Reading a static pod", "file", file)
			pod = was
		case was != nil && was.UID == pod.UID:
			pod = was
		}
		if pod != nil {
			good[file] = pod
		}
	}
	s.good = good
	return s.pods(ctx)
}

// pods are those that there are, one for each name.
func (s *Source) pods(ctx context.Context) []*v1.Pod {
	var pods []*v1.Pod
	taken := map[types.NamespacedName]string{}
	add := func(pod *v1.Pod, from string) {
		name := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
		if other, isTaken := taken[name]; isTaken {
			klog.FromContext(ctx).Error(nil, "Two static pods of one name; the second is left aside", "pod", name, "from", other, "second", from)
			return
		}
		taken[name] = from
		pods = append(pods, pod)
	}
	for _, file := range slices.Sorted(maps.Keys(s.good)) {
		add(s.good[file], file)
	}
	if s.page != nil {
		all, _ := s.page.pods()
		for _, pod := range all {
			add(pod, s.cfg.URL)
		}
	}
	return pods
}

// files lists what may hold a pod.
func (s *Source) files() ([]string, error) {
	if s.cfg.Path == "" {
		return nil, nil
	}
	info, err := os.Stat(s.cfg.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{s.cfg.Path}, nil
	}
	entries, err := os.ReadDir(s.cfg.Path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		path := filepath.Join(s.cfg.Path, e.Name())
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, path)
		}
	}
	return files, nil
}

// read makes the pod of one file.
func (s *Source) read(file string) (*v1.Pod, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%d bytes are more than a pod may have (%d)", info.Size(), maxFile)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	obj, err := decode(raw)
	if err != nil {
		return nil, err
	}
	pod, ok := obj.(*v1.Pod)
	if !ok {
		return nil, fmt.Errorf("it holds a %s, not a Pod", obj.GetObjectKind().GroupVersionKind().Kind)
	}
	return pod, s.cfg.complete(pod, fileSource, fmt.Sprintf("host:%sfile:%s", s.cfg.NodeName, file))
}

// decode reads an object in YAML or JSON.
func decode(raw []byte) (runtime.Object, error) {
	raw, err := yaml.ToJSON(raw)
	if err != nil {
		return nil, err
	}
	obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, nil)
	return obj, err
}

// complete makes what a source says a pod of this node. The origin is where it is from exactly.
func (c *Config) complete(pod *v1.Pod, source, origin string) error {
	if pod.Name == "" {
		return errors.New("invalid pod: name is needed for the pod")
	}
	c.Default(pod)
	if err := identify(pod, origin); err != nil {
		return err
	}
	pod.Name += "-" + strings.ToLower(c.NodeName)
	pod.Namespace = cmp.Or(pod.Namespace, metav1.NamespaceDefault)
	pod.Spec.NodeName = c.NodeName
	// It is not evicted when something is wrong with the node: nobody would make it anew elsewhere.
	everything := v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute}
	if !slices.Contains(pod.Spec.Tolerations, everything) {
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, everything)
	}
	if errs := c.Validate(pod); len(errs) > 0 {
		return fmt.Errorf("invalid pod: %w", errs.ToAggregate())
	}
	if what := reference(pod); what != "" {
		return fmt.Errorf("static pods may not reference %s", what)
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[hashAnnotation] = string(pod.UID)
	pod.Annotations[sourceAnnotation] = source
	pod.Annotations[seenAnnotation] = time.Now().Format(time.RFC3339Nano)
	pod.Status = v1.PodStatus{Phase: v1.PodPending}
	return nil
}

// identify gives a pod a UID that stays as long as what it is and where it is from.
func identify(pod *v1.Pod, origin string) error {
	if pod.UID != "" {
		return nil
	}
	content, err := json.Marshal(pod)
	if err != nil {
		return err
	}
	hash := fnv.New128a()
	_, _ = hash.Write(content)
	_, _ = io.WriteString(hash, origin)
	pod.UID = types.UID(hex.EncodeToString(hash.Sum(nil)))
	return nil
}

// reference names a kind of object that a pod needs from the API; a static pod has to do without.
func reference(pod *v1.Pod) string {
	switch {
	case pod.Spec.ServiceAccountName != "":
		return "serviceaccounts"
	case objects.Needed(pod):
		return "configmaps or secrets"
	case len(pod.Spec.ResourceClaims) > 0:
		return "resourceclaims"
	}
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.CSI != nil:
			return "csidrivers (via CSI volumes)"
		case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
			return "persistentvolumeclaims"
		case v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s v1.VolumeProjection) bool { return s.DownwardAPI == nil }):
			return "serviceaccounts or clustertrustbundles (via projected volumes)"
		}
	}
	return ""
}

// settle is how long files must have been quiet: who writes one does so in several steps.
const settle = 100 * time.Millisecond

// Run calls changed whenever Read may have another answer, until ctx ends.
func (s *Source) Run(ctx context.Context, changed func()) error {
	group, ctx := errgroup.WithContext(ctx)
	if s.cfg.Path != "" {
		group.Go(func() error { return s.watchFiles(ctx, changed) })
	}
	if s.page != nil {
		group.Go(func() error { s.page.run(ctx, changed); return nil })
	}
	return group.Wait()
}

func (s *Source) watchFiles(ctx context.Context, changed func()) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch static pods: %w", err)
	}
	defer watcher.Close()
	dir := s.cfg.Path
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		dir = filepath.Dir(dir) // a file that is replaced is another file
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("watch static pods: %w (change --pod-manifest-path)", err)
	}
	if err := watcher.Add(dir); err != nil {
		return fmt.Errorf("watch static pods in %s: %w", dir, err)
	}
	changed() // what happened before the watch began
	quiet := time.NewTimer(settle)
	quiet.Stop()
	defer quiet.Stop()
	for {
		select {
		case <-watcher.Events:
			quiet.Reset(settle)
		case err := <-watcher.Errors: // events were lost
			klog.FromContext(ctx).Error(err, "Watching static pods", "dir", dir)
			quiet.Reset(settle)
		case <-quiet.C:
			changed()
		case <-ctx.Done():
			return nil
		}
	}
}
