// SPDX-License-Identifier: Apache-2.0

package server

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// file is one of a snapshot's archive.
type file struct{ name, content string }

func archiveOf(t *testing.T, files ...file) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	compressor, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewWriter(compressor)
	for _, f := range files {
		if err := archive.WriteHeader(&tar.Header{Name: f.name, Mode: 0o600, Size: int64(len(f.content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(f.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := compressor.Close(); err != nil {
		t.Fatal(err)
	}
	return &out
}

// What is no snapshot, or not one for this server, is refused, and leaves nothing behind.
func TestRestoreRefuses(t *testing.T) {
	about, key := file{snapshotAbout, `{"kubernetes": "1.37.2"}`}, file{snapshotKeys + "server-ca.crt", "a certificate"}
	database := file{snapshotDatabase, strings.Repeat("no database", 1000)}
	for name, c := range map[string]struct {
		in   *bytes.Buffer
		want string
	}{
		"not compressed":      {bytes.NewBufferString("a text"), "read the snapshot: "},
		"nothing":             {archiveOf(t), "read the snapshot: it is none of skiff snapshot save"},
		"no database":         {archiveOf(t, about, key), "not the whole of it"},
		"broken off":          {bytes.NewBuffer(archiveOf(t, about, key, database).Bytes()[:100]), "read the snapshot: "},
		"a broken database":   {archiveOf(t, about, key, database), "restore the database: "},
		"a newer one":         {archiveOf(t, file{snapshotAbout, `{"kubernetes": "1.38.0"}`}), "read the snapshot: snapshot.json: it is of Kubernetes v1.38.0, and this is v1.37.2"},
		"another file":        {archiveOf(t, about, file{"more", "x"}), "read the snapshot: more: a snapshot has no such file"},
		"keys somewhere else": {archiveOf(t, about, file{snapshotKeys + "../ca.crt", "x"}), "a snapshot has no such file"},
		"a key of ours":       {archiveOf(t, about, file{snapshotKeys + "mine.key", "x"}, database), `"mine.key" is none of them`},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			cfg.StateDir = t.TempDir()
			if err := cfg.RestoreSnapshot(c.in); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			left, err := filepath.Glob(filepath.Join(cfg.DataDir, "server", "*"))
			if err != nil || len(left) > 0 {
				t.Errorf("there is %q, %v", left, err)
			}
		})
	}
	cfg := config(t)
	cfg.StateDir = t.TempDir()
	if err := os.MkdirAll(cfg.tlsDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := cfg.RestoreSnapshot(archiveOf(t)); err == nil || !strings.HasPrefix(err.Error(), "there is a server's data already, such as "+cfg.tlsDir()) {
		t.Errorf("over a server's data: %v", err)
	}
}
