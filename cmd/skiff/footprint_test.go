// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Files that are mapped and not written to are forgotten; what is written to, and what is no file, is not.
func TestFilePages(t *testing.T) {
	const maps = `00400000-00500000 r-xp 00000000 fe:00 1234  /usr/local/bin/skiff
00500000-00600000 rw-p 00100000 fe:00 1234  /usr/local/bin/skiff
c000000000-c000400000 rw-p 00000000 00:00 0
7f0000000000-7f0000200000 r--s 00000000 fe:00 99   /var/lib/skiff/etcd/member/snap/db
7fff00000000-7fff00021000 r-xp 00000000 00:00 0   [vdso]
`
	var got []string
	for begin, end := range filePages([]byte(maps)) {
		got = append(got, fmt.Sprintf("%x-%x", begin, end))
	}
	if want := "400000-500000 7f0000000000-7f0000200000"; strings.Join(got, " ") != want {
		t.Errorf("pages are %v, want %s", got, want)
	}
}

// What is forgotten is read from the file again.
func TestForgetFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	content := strings.Repeat("0123456789abcdef", 1<<16)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	mapped, err := unix.Mmap(int(file.Fd()), 0, len(content), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped) //nolint:errcheck // the process ends
	resident := func() (n int) {
		entries := make([]byte, 8*len(content)/os.Getpagesize())
		pagemap, err := os.Open("/proc/self/pagemap")
		if err != nil {
			t.Fatal(err)
		}
		defer pagemap.Close()
		if _, err := pagemap.ReadAt(entries, int64(uintptr(unsafe.Pointer(&mapped[0]))/uintptr(os.Getpagesize())*8)); err != nil {
			t.Fatal(err)
		}
		for i := 7; i < len(entries); i += 8 {
			if entries[i]&0x80 != 0 { // present
				n++
			}
		}
		return n
	}
	if string(mapped) != content || resident() == 0 {
		t.Fatalf("the file was not read: %d pages", resident())
	}
	forgetFiles()
	if n := resident(); n != 0 {
		t.Errorf("%d pages are still mapped", n)
	}
	if string(mapped) != content {
		t.Error("the file reads otherwise")
	}
}
