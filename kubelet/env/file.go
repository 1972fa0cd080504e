// SPDX-License-Identifier: Apache-2.0

package env

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// mostFile is how large a file with variables may be. A container writes it, and this process reads it.
const mostFile = 1 << 20

// fromFile returns the value of a variable that an earlier container wrote into a file of a volume.
// Reference: https://kubernetes.io/docs/tasks/inject-data-application/define-environment-variable-via-file/
func (b *Builder) fromFile(logger klog.Logger, pod *corev1.Pod, ref *corev1.FileKeySelector) (value string, ok bool, err error) {
	dir, mounted := b.node.Volumes(pod.UID)[ref.VolumeName]
	if !mounted {
		return "", false, fmt.Errorf("cannot find the volume %q referenced by FileKeyRef", ref.VolumeName)
	}
	value, err = readVariable(dir, ref.Path, ref.Key)
	switch {
	case err != nil:
		logger.Error(err, "Reading a file with variables", "pod", klog.KObj(pod), "volume", ref.VolumeName, "path", ref.Path)
		return "", false, errors.New("couldn't parse env file")
	case value == "" && !isTrue(ref.Optional):
		return "", false, fmt.Errorf("environment variable key %q not found in file %q of volume %q", ref.Key, ref.Path, ref.VolumeName)
	}
	return value, value != "", nil
}

// readVariable reads it from a file below dir. A path that leads out of dir is an error, and so is what is no file:
// nothing that a container can put there holds the kubelet up.
func readVariable(dir, path, key string) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	file, err := root.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", errors.New("it is not a file")
	case info.Size() > mostFile:
		return "", fmt.Errorf("it is larger than %d bytes", mostFile)
	}
	return findVariable(io.LimitReader(file, mostFile), key)
}

// findVariable looks for a variable in lines of the form NAME='value', of which a value may be several; empty: there is none.
func findVariable(r io.Reader, key string) (string, error) {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimLeft(lines.Text(), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		name, rest, found := strings.Cut(line, "=")
		switch {
		case !found:
			return "", fmt.Errorf("line %d has no '='", n)
		case name == "" || strings.TrimRight(name, " \t") != name:
			return "", fmt.Errorf("line %d has no name right before its '='", n)
		}
		value := ""
		if rest == "" || rest[0] != ' ' && rest[0] != '\t' { // to a shell, a blank after the '=' ends the value
			var err error
			if value, err = quoted(lines, rest, &n); err != nil {
				return "", err
			}
		}
		if name == key {
			return value, nil
		}
	}
	return "", lines.Err()
}

// quoted is a value in single quotes, which begins in rest and may go on in the next lines. n counts those.
func quoted(lines *bufio.Scanner, rest string, n *int) (string, error) {
	first := *n
	rest, opened := strings.CutPrefix(rest, "'")
	if !opened {
		return "", fmt.Errorf("the value in line %d is not in single quotes", first)
	}
	var value strings.Builder
	for {
		text, after, closed := strings.Cut(rest, "'")
		value.WriteString(text)
		if closed {
			if after = strings.TrimLeft(after, " \t"); after != "" && after[0] != '#' {
				return "", fmt.Errorf("line %d has something after the closing quote", *n)
			}
			return value.String(), nil
		}
		if !lines.Scan() {
			return "", errors.Join(lines.Err(), fmt.Errorf("the value that begins in line %d has no closing quote", first))
		}
		value.WriteByte('\n')
		rest = lines.Text()
		*n++
	}
}
