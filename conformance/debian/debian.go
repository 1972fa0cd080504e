// SPDX-License-Identifier: Apache-2.0

// Package debian takes files out of Debian packages without installing these: apt downloads a package and all that it
// depends on, dpkg-deb unpacks them, and of the result only named files are used and the libraries that they need.
package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Tree is the files of unpacked packages.
type Tree struct {
	root string
	// Key is a digest of the names and versions of the packages.
	Key string
}

// deb is one package file, as apt describes it.
type deb struct {
	name string
	size int64
}

// Unpack downloads packages and what they depend on, and unpacks them into one tree. What the cache has is
// not fetched again.
func Unpack(ctx context.Context, cache string, packages []string, say func(format string, args ...any)) (*Tree, error) {
	all, err := closure(ctx, packages)
	if err != nil {
		return nil, err
	}
	debs, err := candidates(ctx, all)
	if err != nil {
		return nil, err
	}
	archive := filepath.Join(cache, "debian", "archives")
	if err := download(ctx, archive, all, debs, say); err != nil {
		return nil, err
	}
	digest := sha256.New()
	for _, d := range debs {
		fmt.Fprintln(digest, d.name, d.size)
	}
	t := &Tree{Key: hex.EncodeToString(digest.Sum(nil))[:16]}
	t.root = filepath.Join(cache, "debian", t.Key)
	if _, err := os.Stat(t.root); err == nil {
		return t, nil
	}
	say("unpacking %d Debian packages", len(debs))
	return t, t.unpack(ctx, archive, debs)
}

// closure is the packages and everything that they depend on.
func closure(ctx context.Context, packages []string) ([]string, error) {
	args := []string{"depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"}
	out, err := exec.CommandContext(ctx, "apt-cache", append(args, packages...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("ask apt what the packages depend on (is `apt-get update` needed?): %w", stderr(err))
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		// Dependencies are indented, and virtual packages in angle brackets; the rest are headings.
		if name := strings.TrimRight(line, "\n"); name != "" && !strings.ContainsAny(name[:1], " <|") {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// candidates are the files of the packages, in the versions that apt would install.
func candidates(ctx context.Context, packages []string) ([]deb, error) {
	out, err := exec.CommandContext(ctx, "apt-get", append([]string{"download", "--print-uris"}, packages...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("ask apt where the packages are: %w", stderr(err))
	}
	var debs []deb
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line) // 'http://...' name.deb size hash
		if len(fields) < 3 {
			continue
		}
		size, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("understand apt's line %q: %w", line, err)
		}
		debs = append(debs, deb{name: fields[1], size: size})
	}
	slices.SortFunc(debs, func(a, b deb) int { return strings.Compare(a.name, b.name) })
	return debs, nil
}

func download(ctx context.Context, archive string, packages []string, debs []deb, say func(format string, args ...any)) error {
	if err := os.MkdirAll(archive, 0o755); err != nil {
		return err
	}
	missing := slices.ContainsFunc(debs, func(d deb) bool {
		info, err := os.Stat(filepath.Join(archive, d.name))
		return err != nil || info.Size() != d.size
	})
	if !missing {
		return nil
	}
	say("downloading %d Debian packages", len(debs))
	// apt checks the files against the archive's signature, and skips those that are there.
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"download", "--quiet", "-o", "APT::Sandbox::User=root"}, packages...)...)
	cmd.Dir = archive
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("download Debian packages: %w\n%s", err, out)
	}
	return nil
}

func (t *Tree) unpack(ctx context.Context, archive string, debs []deb) error {
	unfinished := t.root + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	for _, d := range debs {
		out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", filepath.Join(archive, d.name), unfinished).CombinedOutput()
		if err != nil {
			return fmt.Errorf("unpack %s: %w\n%s", d.name, err, out)
		}
	}
	return os.Rename(unfinished, t.root)
}

// Path is where a file of the tree lies.
func (t *Tree) Path(name string) string { return filepath.Join(t.root, name) }

// libraryDirs are where Debian's dynamic linker looks on amd64 and arm64.
var libraryDirs = []string{
	"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib", "/usr/lib", "/lib64",
}

// Closure lists the named files, the files in named directories, the targets of links, and the libraries and linkers
// that programs among them need. The names are absolute in the tree.
func (t *Tree) Closure(names ...string) ([]string, error) {
	found := map[string]bool{}
	for _, name := range names {
		if err := t.add(name, found); err != nil {
			return nil, err
		}
	}
	var all []string
	for name := range found {
		all = append(all, name)
	}
	slices.Sort(all)
	return all, nil
}

func (t *Tree) add(name string, found map[string]bool) error {
	if found[name] {
		return nil
	}
	info, err := os.Lstat(t.Path(name))
	if err != nil {
		return fmt.Errorf("look for %s in the packages: %w", name, err)
	}
	switch {
	case info.IsDir():
		entries, err := os.ReadDir(t.Path(name))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := t.add(path.Join(name, e.Name()), found); err != nil {
				return err
			}
		}
		return nil
	case info.Mode()&fs.ModeSymlink != 0:
		found[name] = true
		target, err := os.Readlink(t.Path(name))
		if err != nil {
			return err
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(name), target)
		}
		return t.add(target, found)
	case info.Mode().IsRegular():
		found[name] = true
		return t.addLibraries(name, found)
	}
	return nil
}

// addLibraries adds what the dynamic linker would load with a program, if name is one.
func (t *Tree) addLibraries(name string, found map[string]bool) error {
	f, err := elf.Open(t.Path(name))
	if err != nil {
		return nil // not a program
	}
	defer f.Close()
	if interp := f.Section(".interp"); interp != nil {
		data, err := interp.Data()
		if err != nil {
			return err
		}
		if err := t.add(string(bytes.TrimRight(data, "\x00")), found); err != nil {
			return err
		}
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("list the libraries of %s: %w", name, err)
	}
	for _, library := range needed {
		file, err := t.library(library)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := t.add(file, found); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tree) library(name string) (string, error) {
	for _, dir := range libraryDirs {
		file := path.Join(dir, name)
		if _, err := os.Lstat(t.Path(file)); err == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("library %s is in none of the packages", name)
}

// stderr adds what a command said to its exit code.
func stderr(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return err
}
