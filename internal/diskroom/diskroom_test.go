// SPDX-License-Identifier: Apache-2.0

package diskroom

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTake(t *testing.T) {
	for name, c := range map[string]struct {
		take func(*os.File, int64) error
		size int64
	}{"with its size": {Take, 1 << 20}, "behind its end": {TakeBehind, 5}} {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString("start"); err != nil {
			t.Fatal(err)
		}
		if err := c.take(f, 1<<20); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var s unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &s); err != nil {
			t.Fatal(err)
		}
		if s.Size != c.size || s.Blocks*512 < 1<<20 {
			t.Errorf("%s: %d bytes long, with %d of the disk; want %d with a MiB", name, s.Size, s.Blocks*512, c.size)
		}
		readOnly, err := os.Open(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		defer readOnly.Close()
		if err := c.take(readOnly, 1<<20); err == nil {
			t.Errorf("%s: a file that may not be written got room", name)
		}
	}
}
