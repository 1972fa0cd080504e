// SPDX-License-Identifier: Apache-2.0

package server

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/agent"
	"github.com/skiff-k8s/skiff/datastore"
	"github.com/skiff-k8s/skiff/pki"
	"github.com/skiff-k8s/skiff/version"
)

// SnapshotPath is where members of system:masters get all that a cluster is made of, to keep it: its database, its keys and its
// settings. It is a tar archive, compressed by zstd.
const SnapshotPath = "/skiff/v1/snapshot"

// What lies in the archive of a snapshot, in this order. The database has the form of etcd's own snapshots.
const (
	snapshotAbout      = "snapshot.json"
	snapshotKeys       = "tls/"
	snapshotEncryption = "encryption-config.yaml" // only where there is one
	snapshotDatabase   = "db"
)

// aboutSnapshot says of what cluster a snapshot is.
type aboutSnapshot struct {
	Skiff      string          `json:"skiff"`
	Kubernetes string          `json:"kubernetes"` // version
	Time       time.Time       `json:"time"`
	Server     string          `json:"server"` // by which it was made
	Settings   clusterSettings `json:"settings"`
}

// snapshots serves SnapshotPath.
type snapshots struct {
	cfg   Config
	plane *controlPlane
}

func (s *snapshots) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "only GET is known here", http.StatusMethodNotAllowed)
		return
	}
	// Whoever has the keys is everybody, so a role that has all paths is not enough.
	if u, ok := request.UserFrom(r.Context()); !ok || !slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		http.Error(w, "a snapshot has the keys of the cluster: only members of "+user.SystemPrivilegedGroup+" may have it", http.StatusForbidden)
		return
	}
	database, err := s.plane.store.Snapshot(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer database.Close()
	w.Header().Set("Content-Type", "application/zstd")
	if err := s.write(w, database); err != nil {
		klog.FromContext(r.Context()).Error(err, "Making a snapshot")
		panic(http.ErrAbortHandler) // who asked sees that the rest is missing
	}
}

func (s *snapshots) write(w io.Writer, database *datastore.Snapshot) error {
	about, err := json.MarshalIndent(aboutSnapshot{
		Skiff: version.Skiff, Kubernetes: version.Kubernetes, Time: time.Now().UTC(), Server: s.cfg.NodeName, Settings: s.cfg.clusterSettings(),
	}, "", "  ")
	if err != nil {
		return err
	}
	keys, err := s.plane.pki.Shared()
	if err != nil {
		return err
	}
	compressor, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	archive := tar.NewWriter(compressor)
	add := func(name string, data []byte) {
		if err == nil {
			err = archive.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data)), ModTime: time.Now()})
		}
		if err == nil {
			_, err = archive.Write(data)
		}
	}
	add(snapshotAbout, about)
	for name, data := range keys {
		add(snapshotKeys+name, data)
	}
	if file := s.cfg.API.EncryptionConfig; file != "" {
		data, readErr := os.ReadFile(file)
		if readErr != nil {
			return fmt.Errorf("read the encryption configuration: %w", readErr)
		}
		add(snapshotEncryption, data)
	}
	if err == nil {
		err = archive.WriteHeader(&tar.Header{Name: snapshotDatabase, Mode: 0o600, Size: database.Size(), ModTime: time.Now()})
	}
	if err == nil {
		_, err = database.WriteTo(archive)
	}
	return errors.Join(err, archive.Close(), compressor.Close())
}

// RestoreSnapshot makes what in says the server's, for a start to find it: the only server of the cluster that the snapshot is of. None may
// run here, and there must be no data of another. Nothing is left behind if the snapshot is no good.
func (c *Config) RestoreSnapshot(in io.Reader) (err error) {
	claim, err := agent.TakeClaim(c.StateDir)
	if err != nil {
		return err
	}
	defer claim.Release()
	places := []string{c.severalFile(), c.encryptionCopy(), c.tlsDir(), c.dbDir()}
	if there := slices.IndexFunc(places, exists); there >= 0 {
		return fmt.Errorf("there is a server's data already, such as %s (skiff uninstall removes it)", places[there])
	}
	home := filepath.Dir(c.dbDir())
	if err := os.MkdirAll(home, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w (set --data-dir)", err)
	}
	r := &restoring{cfg: *c, keys: map[string][]byte{}}
	if r.dir, err = os.MkdirTemp(home, "restoring-"); err != nil {
		return fmt.Errorf("make the data directory: %w (set --data-dir)", err)
	}
	defer os.RemoveAll(r.dir)
	if err := r.read(in); err != nil {
		return fmt.Errorf("read the snapshot: %w", err)
	}
	if err := r.make(); err != nil {
		return err
	}
	// The database is the last: without it a start says what is missing, and begins no cluster of its own.
	for _, place := range places {
		if made := filepath.Join(r.dir, filepath.Base(place)); exists(made) {
			if err := os.Rename(made, place); err != nil {
				return fmt.Errorf("put the cluster in place: %w (remove %s, and try again)", err, home)
			}
		}
	}
	return nil
}

// restoring is a snapshot that becomes a server's data, in a directory of its own.
type restoring struct {
	cfg      Config
	dir      string
	about    *aboutSnapshot
	keys     map[string][]byte
	database bool // is there
}

// file is where the database of the snapshot lies for a while.
func (r *restoring) file() string { return filepath.Join(r.dir, "snapshot.db") }

// maxKey bounds what is read into memory of one file that is not the database.
const maxKey = 4 << 20

func (r *restoring) read(in io.Reader) error {
	decompressor, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer decompressor.Close()
	archive := tar.NewReader(decompressor)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := r.take(header.Name, archive); err != nil {
			return fmt.Errorf("%s: %w", header.Name, err)
		}
	}
	if r.about == nil || len(r.keys) == 0 || !r.database {
		return errors.New("it is none of skiff snapshot save, or not the whole of it")
	}
	return nil
}

// take takes one file of the archive over.
func (r *restoring) take(name string, content io.Reader) error {
	if name == snapshotDatabase {
		r.database = true
		return writeSynced(r.file(), content)
	}
	data, err := io.ReadAll(io.LimitReader(content, maxKey))
	if err != nil {
		return err
	}
	switch {
	case name == snapshotAbout:
		if err := json.Unmarshal(data, &r.about); err != nil {
			return err
		}
		return checkSnapshotVersion(r.about.Kubernetes, version.Kubernetes)
	case strings.HasPrefix(name, snapshotKeys) && path.Clean(name) == name:
		r.keys[strings.TrimPrefix(name, snapshotKeys)] = data
		return nil
	case name == snapshotEncryption:
		return os.WriteFile(filepath.Join(r.dir, filepath.Base(r.cfg.encryptionCopy())), data, 0o600)
	}
	return errors.New("a snapshot has no such file (is it of a newer Skiff?)")
}

// checkSnapshotVersion refuses what a newer Kubernetes has written: an older one would lose what it does not know.
func checkSnapshotVersion(theirs, ours string) error {
	a, errA := utilversion.ParseGeneric(theirs)
	b, errB := utilversion.ParseGeneric(ours)
	if errA != nil || errB != nil || !b.LessThan(utilversion.MajorMinor(a.Major(), a.Minor())) {
		return nil
	}
	return fmt.Errorf("it is of Kubernetes v%s, and this is v%s (use the Skiff that made it, or a newer one)", a, b)
}

// make builds the server's data.
func (r *restoring) make() error {
	if err := pki.Adopt(filepath.Join(r.dir, "tls"), r.keys); err != nil {
		return err
	}
	if err := (note{Joined: true, Settings: r.about.Settings}).write(filepath.Join(r.dir, filepath.Base(r.cfg.severalFile()))); err != nil {
		return err
	}
	db := datastore.Config{Dir: filepath.Join(r.dir, filepath.Base(r.cfg.dbDir())), Name: r.cfg.NodeName}
	if err := datastore.Restore(db, r.file()); err != nil {
		return err
	}
	return os.Remove(r.file())
}

func writeSynced(file string, content io.Reader) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
