// SPDX-License-Identifier: Apache-2.0

// Package plugins finds programs that extend the kubelet: they put a socket into a folder.
//
// Each socket that appears there, or in a folder below, is asked what it is, and handed to the handler for plugins
// of that type. It is handed back when the socket goes away or is replaced. One goroutine keeps one socket; there is
// none, and nothing but a watch on the folder, before the first.
// Reference: k8s.io/kubelet/pkg/apis/pluginregistration
package plugins

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/skiff-k8s/skiff/kubelet/localgrpc"
)

// Handler takes plugins of one type. Calls for different plugins may come at the same time.
type Handler interface {
	// Register takes a plugin that serves at endpoint, or says why it does not.
	Register(ctx context.Context, name, endpoint string, versions []string) error
	// Deregister is told that a plugin is gone.
	Deregister(ctx context.Context, name, endpoint string)
}

const (
	dialTimeout = 10 * time.Second
	callTimeout = 5 * time.Second
	retryFirst  = 500 * time.Millisecond
	retryMost   = 2 * time.Minute
)

// Watcher watches a folder.
type Watcher struct {
	dir      string
	handlers map[string]Handler // by type

	kept map[string]*kept // by path of the socket; only Run touches it
}

// kept is a socket that a goroutine looks after.
// ErrGone is why the context of a registration ends if the plugin goes. It ends with the process, too.
var ErrGone = errors.New("the plugin is gone")

type kept struct {
	id     string // of the socket: another one at the same path has another; empty once it is gone
	forget context.CancelCauseFunc
	done   chan struct{}
}

// New returns a watcher of a folder, which Run makes. The handlers are by type of plugin.
func New(dir string, handlers map[string]Handler) *Watcher {
	return &Watcher{dir: dir, handlers: handlers, kept: map[string]*kept{}}
}

// Run keeps plugins until ctx ends. Those that it has then stay registered: they outlive this process.
func (w *Watcher) Run(ctx context.Context) error {
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch plugins: %w", err)
	}
	defer watch.Close()
	if err := os.MkdirAll(w.dir, 0o750); err != nil {
		return fmt.Errorf("make the folder of plugins: %w", err)
	}
	var running sync.WaitGroup
	defer running.Wait()
	for {
		sockets, err := w.sockets(watch)
		if err != nil {
			return err
		}
		w.keep(ctx, &running, sockets)
		select {
		case <-ctx.Done():
			return nil
		case <-watch.Events:
		case err := <-watch.Errors: // events were lost; what there is now is looked at anyway
			klog.FromContext(ctx).Error(err, "Watching plugins", "dir", w.dir)
		}
	}
}

// sockets finds the sockets in the folder and below, by path, and watches all folders on the way.
func (w *Watcher) sockets(watch *fsnotify.Watcher) (map[string]string, error) {
	sockets := map[string]string{}
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && path != w.dir:
			return nil // gone meanwhile
		case err != nil:
			return err
		case strings.HasPrefix(d.Name(), ".") && path != w.dir:
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			if err := watch.Add(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		case d.Type()&fs.ModeSocket != 0:
			if info, err := d.Info(); err == nil {
				sockets[path] = identity(info)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for plugins: %w", err)
	}
	return sockets, nil
}

func identity(info fs.FileInfo) string {
	stat := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d:%d", stat.Dev, stat.Ino, stat.Ctim.Nano())
}

// keep looks after exactly these sockets.
func (w *Watcher) keep(ctx context.Context, running *sync.WaitGroup, sockets map[string]string) {
	for path, k := range w.kept {
		if sockets[path] != k.id {
			k.forget(ErrGone)
			k.id = "" // stays, so that the next one at this path waits for its end
		}
	}
	for path, id := range sockets {
		before := w.kept[path]
		if before != nil && before.id == id {
			continue
		}
		present, forget := context.WithCancelCause(ctx)
		k := &kept{id: id, forget: forget, done: make(chan struct{})}
		w.kept[path] = k
		running.Go(func() {
			defer close(k.done)
			if before != nil {
				<-before.done // the two are not to be mixed up
			}
			w.look(ctx, present, path)
		})
	}
	for path, k := range w.kept {
		if k.id == "" && k.ended() {
			delete(w.kept, path)
		}
	}
}

func (k *kept) ended() bool {
	select {
	case <-k.done:
		return true
	default:
		return false
	}
}

// look registers the plugin of a socket as long as it is present, and until that works.
func (w *Watcher) look(ctx, present context.Context, path string) {
	logger := klog.FromContext(ctx)
	for pause := retryFirst; present.Err() == nil; pause = min(2*pause, retryMost) {
		undo, err := w.register(present, path)
		if err == nil {
			<-present.Done()
			if ctx.Err() == nil {
				undo(ctx)
			}
			return
		}
		if present.Err() == nil {
			logger.Error(err, "Registering a plugin", "socket", path)
		}
		select {
		case <-time.After(pause):
		case <-present.Done():
		}
	}
}

// register hands a plugin to its handler and tells the plugin so.
func (w *Watcher) register(ctx context.Context, path string) (undo func(context.Context), err error) {
	conn, err := localgrpc.Client(path, dialTimeout)
	if err != nil {
		return nil, fmt.Errorf("connect to plugin: %w", err)
	}
	defer conn.Close()
	plugin := registration.NewRegistrationClient(conn)
	asking, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := plugin.GetInfo(asking, &registration.InfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask plugin what it is: %w", err)
	}
	endpoint := info.Endpoint
	if endpoint == "" {
		endpoint = path
	}
	handler, known := w.handlers[info.Type]
	if !known {
		err = fmt.Errorf("no handler registered for plugin type: %s at socket %s", info.Type, path)
	} else {
		err = handler.Register(ctx, info.Name, endpoint, info.SupportedVersions)
	}
	if told := tell(ctx, plugin, err); err != nil || told != nil {
		if err == nil && (ctx.Err() == nil || errors.Is(context.Cause(ctx), ErrGone)) { // not if this process ends
			handler.Deregister(context.WithoutCancel(ctx), info.Name, endpoint)
		}
		return nil, errors.Join(err, told)
	}
	klog.FromContext(ctx).Info("Registered plugin", "type", info.Type, "name", info.Name, "endpoint", endpoint)
	return func(ctx context.Context) {
		handler.Deregister(ctx, info.Name, endpoint)
		klog.FromContext(ctx).Info("Plugin is gone", "type", info.Type, "name", info.Name)
	}, nil
}

// tell tells a plugin what became of it.
func tell(ctx context.Context, plugin registration.RegistrationClient, failed error) error {
	status := &registration.RegistrationStatus{PluginRegistered: failed == nil}
	if failed != nil {
		status.Error = "RegisterPlugin error -- plugin registration failed with err: " + failed.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := plugin.NotifyRegistrationStatus(ctx, status); err != nil {
		return fmt.Errorf("tell plugin about its registration: %w", err)
	}
	return nil
}
