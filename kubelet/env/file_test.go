// SPDX-License-Identifier: Apache-2.0

package env

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
)

// https://kubernetes.io/docs/tasks/inject-data-application/define-environment-variable-via-file/
func TestFindVariable(t *testing.T) {
	for name, c := range map[string]struct{ text, value, err string }{
		"one":                      {"KEY='a b'\n", "a b", ""},
		"literally":                {`KEY='$HOME \n "x" # y'`, `$HOME \n "x" # y`, ""},
		"the first":                {"OTHER='1'\nKEY='2'\nKEY='3'\n", "2", ""},
		"not there":                {"OTHER='1'\n", "", ""},
		"empty file":               {"", "", ""},
		"blank lines and comments": {"\n \t\n# KEY='1'\n  # KEY='2'\n \tKEY='3'  # and more\n", "3", ""},
		"two lines":                {"KEY='a\nb'", "a\nb", ""},
		"a name within a value":    {"OTHER='a\nKEY='\nKEY='b'", "b", ""},
		"an equals sign":           {"KEY='a=b'", "a=b", ""},
		"empty to a shell":         {"KEY= 'a'", "", ""},
		"another that is empty":    {"OTHER= 'a'\nKEY='b'", "b", ""},
		"no equals sign":           {"OTHER='a'\n\nKEY", "", "line 3 has no '='"},
		"a blank before it":        {"KEY ='a'", "", "line 1 has no name"},
		"no name":                  {"='a'", "", "line 1 has no name"},
		"no quotes":                {"KEY=a", "", "not in single quotes"},
		"no value":                 {"KEY=", "", "not in single quotes"},
		"other quotes":             {`KEY="a"`, "", "not in single quotes"},
		"more after it":            {"OTHER='a\nb'c\nKEY='d'", "", "line 2 has something after the closing quote"},
		"unclosed":                 {"A='b'\nKEY='a\nb", "", "begins in line 2 has no closing quote"},
		"a line without end":       {"KEY='" + strings.Repeat("x", 1<<17), "", "token too long"},
	} {
		value, err := findVariable(strings.NewReader(c.text), "KEY")
		if value != c.value || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v; want %q, %q", name, value, err, c.value, c.err)
		}
	}
}

// A container cannot have the kubelet read what is not in the volume, or wait.
func TestFromFile(t *testing.T) {
	dir := t.TempDir()
	volume, outside := filepath.Join(dir, "volume"), filepath.Join(dir, "secret")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(volume, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(volume, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(outside, "KEY='stolen'\n")
	write(filepath.Join(volume, "sub", "file"), "KEY='value'\n")
	write(filepath.Join(volume, "large"), strings.Repeat("\n", mostFile)+"KEY='value'\n")
	link("sub/file", "inside")
	link("../secret", "up")
	link(outside, "absolute")
	if err := syscall.Mkfifo(filepath.Join(volume, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &Builder{node: Node{Volumes: func(pod types.UID) map[string]string { return map[string]string{"v": volume} }}}
	const bad = "couldn't parse env file"
	for path, want := range map[string]string{
		"sub/file": "value", "inside": "value", "up": bad, "absolute": bad, "../secret": bad, "pipe": bad, "sub": bad, "large": bad, "none": bad,
	} {
		value, ok, err := b.fromFile(klog.Background(), &corev1.Pod{}, &corev1.FileKeySelector{VolumeName: "v", Path: path, Key: "KEY"})
		if err != nil {
			value = err.Error()
		}
		if value != want || ok != (want == "value") {
			t.Errorf("%s: %q, %t; want %q", path, value, ok, want)
		}
	}
	ref := &corev1.FileKeySelector{VolumeName: "v", Path: "inside", Key: "OTHER"}
	if _, _, err := b.fromFile(klog.Background(), &corev1.Pod{}, ref); err == nil || !strings.Contains(err.Error(), `environment variable key "OTHER" not found in file "inside"`) {
		t.Errorf("a variable that is not there: %v", err)
	}
	ref.Optional = ptr.To(true)
	if _, ok, err := b.fromFile(klog.Background(), &corev1.Pod{}, ref); ok || err != nil {
		t.Errorf("an optional one: %t, %v", ok, err)
	}
	ref.VolumeName = "w"
	if _, _, err := b.fromFile(klog.Background(), &corev1.Pod{}, ref); err == nil || err.Error() != `cannot find the volume "w" referenced by FileKeyRef` {
		t.Errorf("a volume that is not there: %v", err)
	}
}
