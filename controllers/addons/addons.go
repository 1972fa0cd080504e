// SPDX-License-Identifier: Apache-2.0

// Package addons applies the manifests in a directory of the server, at its start and whenever they change, and
// takes away what they say no more.
//
// A file is an add-on, which has the file's name. What it has made stands in a ConfigMap in kube-system
// (inventory.go), so that objects that are in the file no more, or whose file is gone, are deleted even if that
// happened while no server ran. Events of the ConfigMap tell what was done and what went wrong; an add-on that fails
// is tried again, and does not keep others from being applied. The directory is not polled: the kernel tells of changes.
//
// Objects are applied server-side by a field manager of ours: other fields stay as users have set them, and what they
// set differently is set back at the next start. Where there are several servers, each one minds its own directory's
// add-ons; a name that two of them have is applied by whichever leads, and is deleted only by the server that had it.
package addons

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Component is the controller's name in events and as a field manager.
const Component = "skiff-addons"

const (
	settle = 200 * time.Millisecond // for which a file must be left alone before it is read: editors write in pieces
	retry  = 5 * time.Second        // after the directory could not be looked at
)

// Config says what is applied where.
type Config struct {
	// Dir is where the manifests are. It is made if need be.
	Dir string
	// Server is this server's name.
	Server string
	// Disabled are the names of add-ons that are not wanted, whether there is a file or not.
	Disabled []string

	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	Mapper  meta.ResettableRESTMapper
	Events  record.EventRecorder
}

type controller struct{ Config }

// New returns the controller. Its keys are names of add-ons.
func New(cfg Config) reconcile.Controller {
	c := &controller{cfg}
	return reconcile.Controller{
		Name:       "addons",
		Reconcile:  c.Reconcile,
		Loop:       c.watch,
		Workers:    1,
		MinBackoff: time.Second,
		MaxBackoff: 10 * time.Second,
	}
}

// Names of files that are manifests.
var suffixes = []string{".yaml", ".yml", ".json"}

// NameOf returns the name of the add-on that a file is, false if the file is none.
func NameOf(file string) (string, bool) {
	base := filepath.Base(file)
	for _, suffix := range suffixes {
		if name, ok := strings.CutSuffix(base, suffix); ok {
			name = strings.ToLower(name)
			return name, len(validation.IsDNS1123Subdomain(name)) == 0
		}
	}
	return "", false
}

// files returns the manifests in the directory and below, by the names of their add-ons.
func (c *controller) files() (map[string]string, error) {
	found := map[string]string{}
	err := filepath.WalkDir(c.Dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != c.Dir {
			return nil // removed while we look
		}
		if err != nil || entry.IsDir() {
			return err
		}
		if name, ok := NameOf(path); ok && found[name] == "" && !slices.Contains(c.Disabled, name) {
			found[name] = path
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for manifests: %w", err)
	}
	return found, nil
}

// watch queues all add-ons at the start, and each whose file changes from then on.
func (c *controller) watch(ctx context.Context, q reconcile.Queue) error {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of manifests: %w", err)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch manifests: %w", err)
	}
	defer watcher.Close()
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			if err := c.look(ctx, q, watcher); err != nil {
				klog.FromContext(ctx).Error(err, "Looking at manifests", "dir", c.Dir)
				look.Reset(retry)
			}
		case event := <-watcher.Events:
			if name, ok := NameOf(event.Name); ok {
				q.AddAfter(types.NamespacedName{Name: name}, settle)
			} else if !event.Has(fsnotify.Write) { // maybe a directory with manifests in it has come or gone
				look.Reset(settle)
			}
		case err := <-watcher.Errors: // events were lost
			klog.FromContext(ctx).Error(err, "Watching manifests", "dir", c.Dir)
			look.Reset(settle)
		case <-ctx.Done():
			return nil
		}
	}
}

// look watches all directories, and queues all add-ons that there are or were.
func (c *controller) look(ctx context.Context, q reconcile.Queue, watcher *fsnotify.Watcher) error {
	err := filepath.WalkDir(c.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		return watcher.Add(path) // once more does no harm
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("watch manifests: %w", err)
	}
	files, err := c.files()
	if err != nil {
		return err
	}
	for name := range files {
		q.AddAfter(types.NamespacedName{Name: name}, settle)
	}
	former, err := c.inventories(ctx)
	if err != nil {
		return err
	}
	for _, name := range former {
		q.AddAfter(types.NamespacedName{Name: name}, settle)
	}
	return nil
}

// Reconcile makes the cluster have what an add-on's file says, and no more of it.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	files, err := c.files()
	if err != nil {
		return reconcile.Result{}, err
	}
	path, ok := files[key.Name]
	if !ok {
		return reconcile.Result{}, c.remove(ctx, key.Name)
	}
	return reconcile.Result{}, c.apply(ctx, key.Name, path)
}

// apply applies a file, then deletes what an earlier one has made and this one does not.
func (c *controller) apply(ctx context.Context, name, path string) error {
	inv, err := c.begin(ctx, name)
	if err != nil {
		return err
	}
	objects, err := parse(path)
	if err != nil {
		c.Events.Eventf(inv.configMap, corev1.EventTypeWarning, "ParseManifestFailed", "Parse manifest at %q failed: %v", path, err)
		return fmt.Errorf("read manifest: %w", err)
	}
	found, err := c.resolve(name, objects)
	// What will be made is written down before it is, and what was made before stays so until it is deleted: nothing is
	// forgotten if the process ends halfway.
	if recordErr := c.record(ctx, inv, union(ids(found), inv.objects)); recordErr != nil {
		return errors.Join(err, recordErr)
	}
	applyErr := c.applyAll(ctx, found)
	if err != nil {
		c.Mapper.Reset() // what was missing may just have been defined; the next try will see
	}
	if err := errors.Join(err, applyErr); err != nil {
		c.Events.Eventf(inv.configMap, corev1.EventTypeWarning, "ApplyManifestFailed", "Applying manifest at %q failed: %v", path, err)
		return err
	}
	if err := c.prune(ctx, name, without(inv.objects, ids(found))); err != nil {
		c.Events.Eventf(inv.configMap, corev1.EventTypeWarning, "PruneManifestFailed", "Deleting what is no longer in manifest at %q failed: %v", path, err)
		return err
	}
	if err := c.record(ctx, inv, ids(found)); err != nil {
		return err
	}
	c.Events.Eventf(inv.configMap, corev1.EventTypeNormal, "AppliedManifest", "Applied manifest at %q", path)
	return nil
}

// remove deletes all that an add-on has made whose file is gone.
func (c *controller) remove(ctx context.Context, name string) error {
	inv, err := c.find(ctx, name)
	if err != nil || inv == nil || inv.server() != c.Server {
		return err
	}
	if err := c.prune(ctx, name, inv.objects); err != nil {
		c.Events.Eventf(inv.configMap, corev1.EventTypeWarning, "DeleteManifestFailed", "Deleting what add-on %q has made failed: %v", name, err)
		return err
	}
	c.Events.Eventf(inv.configMap, corev1.EventTypeNormal, "DeletedManifest", "Deleted what add-on %q has made", name)
	return c.end(ctx, inv)
}
