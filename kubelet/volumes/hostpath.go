// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// hostPath gives a file or directory of the node to containers, in a pod's spec or behind a claim.
type hostPath struct{}

func (hostPath) name() string { return "kubernetes.io/host-path" }

func (hostPath) supports(v *volume) bool {
	return v.source.HostPath != nil || v.pv != nil && v.pv.Spec.HostPath != nil
}

func (hostPath) setUp(_ context.Context, v *volume) (mounted, error) {
	source := v.source.HostPath
	if v.pv != nil {
		source = v.pv.Spec.HostPath
	}
	if slices.Contains(strings.Split(source.Path, "/"), "..") {
		return mounted{}, fmt.Errorf("invalid HostPath `%s`: must not contain '..'", source.Path)
	}
	if source.Type != nil {
		if err := checkType(source.Path, *source.Type); err != nil {
			return mounted{}, err
		}
	}
	return mounted{path: source.Path, readOnly: v.readOnly}, nil
}

// checkType makes path if its type says so, and tells whether it is what the type says.
func checkType(path string, want corev1.HostPathType) error {
	switch want {
	case corev1.HostPathUnset:
		return nil
	case corev1.HostPathDirectoryOrCreate:
		if err := create(path, makeDir); err != nil {
			return err
		}
		want = corev1.HostPathDirectory
	case corev1.HostPathFileOrCreate:
		if err := create(path, makeFile); err != nil {
			return err
		}
		want = corev1.HostPathFile
	}
	info, err := os.Stat(path)
	mode := os.ModeIrregular
	if err == nil {
		mode = info.Mode().Type()
	}
	expected, words := os.FileMode(0), ""
	switch want {
	case corev1.HostPathDirectory:
		expected, words = os.ModeDir, "a directory"
	case corev1.HostPathFile:
		expected, words = 0, "a file"
	case corev1.HostPathSocket:
		expected, words = os.ModeSocket, "a socket file"
	case corev1.HostPathCharDev:
		expected, words = os.ModeDevice|os.ModeCharDevice, "a character device"
	case corev1.HostPathBlockDev:
		expected, words = os.ModeDevice, "a block device"
	default:
		return fmt.Errorf("%s is an invalid volume type", want)
	}
	if mode != expected {
		return fmt.Errorf("hostPath type check failed: %s is not %s", path, words)
	}
	return nil
}

// create calls mk unless path is there.
func create(path string, mk func(string) error) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return nil // there, or unreadable: the check that follows says so
	}
	return mk(path)
}

func makeDir(path string) error { return os.MkdirAll(path, 0o755) }

func makeFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}
