// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RotateLogs starts a new log file for each running container whose log is larger than most bytes, and keeps that many files
// of it: the current one, the one before as it is, and older ones compressed.
func (r *Runtime) RotateLogs(ctx context.Context, most int64, files int) error {
	if most <= 0 {
		return nil
	}
	large, err := r.logs.large(r.cfg.LogRoot, most)
	if err != nil || len(large) == 0 {
		return err
	}
	list, err := r.cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	var errs []error
	for _, c := range list.GetContainers() {
		resp, err := r.cri.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.GetId()})
		if err != nil {
			continue // ended meanwhile
		}
		if path := resp.GetStatus().GetLogPath(); large[path] {
			errs = append(errs, r.rotate(ctx, c.GetId(), path, files))
		}
	}
	return errors.Join(errs...)
}

// logFiles are the logs that containers write, kept so that nobody has to read all folders to find the large ones. The zero value
// has those that a runtime which was there before left.
type logFiles struct {
	mu    sync.Mutex
	paths map[string]struct{} // nil until the folders were read, once
}

func (l *logFiles) add(path string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.paths != nil {
		l.paths[path] = struct{}{}
	}
}

// large says which are larger than most bytes, and forgets those that are gone.
func (l *logFiles) large(root string, most int64) (map[string]bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.paths == nil {
		paths, err := filepath.Glob(filepath.Join(root, "*", "*", "*.log"))
		if err != nil {
			return nil, err
		}
		l.paths = map[string]struct{}{}
		for _, path := range paths {
			l.paths[path] = struct{}{}
		}
	}
	large := map[string]bool{}
	for path := range l.paths {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			delete(l.paths, path)
		case err == nil && info.Size() > most:
			large[path] = true
		}
	}
	return large, nil
}

func (r *Runtime) rotate(ctx context.Context, id, path string, files int) error {
	old, err := rotated(path)
	if err != nil {
		return err
	}
	for len(old) > max(files-2, 0) { // with the one we make now and the current one
		if err := os.Remove(old[0]); err != nil {
			return fmt.Errorf("remove old log: %w", err)
		}
		old = old[1:]
	}
	for _, file := range old {
		if !strings.HasSuffix(file, ".gz") {
			if err := compress(file); err != nil {
				return err
			}
		}
	}
	moved := path + "." + time.Now().Format("20060102-150405")
	if err := os.Rename(path, moved); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if _, err := r.cri.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		return errors.Join(fmt.Errorf("reopen log of container %s: %w", id, err), os.Rename(moved, path))
	}
	return nil
}

// rotated lists earlier files of a log, oldest first, without those that a crash left half compressed.
func rotated(path string) ([]string, error) {
	files, err := filepath.Glob(path + ".*")
	if err != nil {
		return nil, err
	}
	files = slices.DeleteFunc(files, func(f string) bool {
		if strings.HasSuffix(f, ".tmp") {
			_ = os.Remove(f) // made again
			return true
		}
		return false
	})
	slices.SortFunc(files, func(a, b string) int { return cmp.Compare(a, b) }) // the names end with their time
	return files, nil
}

func compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("compress log: %w", err)
	}
	defer in.Close()
	tmp := path + ".tmp"
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("compress log: %w", err)
	}
	zip := gzip.NewWriter(out)
	_, err = io.Copy(zip, in)
	if err = errors.Join(err, zip.Close(), out.Close()); err != nil {
		return fmt.Errorf("compress log %s: %w", path, err)
	}
	if err := os.Rename(tmp, path+".gz"); err != nil {
		return err
	}
	return os.Remove(path)
}
