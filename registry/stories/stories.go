// SPDX-License-Identifier: Apache-2.0

// Package stories reads the files that say what becomes of an object that a client writes.
//
// There is a file of stories for each kind. A story creates an object and may then change its status and the rest
// of it; the outcome of the last step is what the story tells: the object as stored, or what is wrong with it. Tests
// play the stories through the API server, and conformance/rules plays them by the code of Kubernetes, which can also
// write down the outcome of a new one.
package stories

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Object is any JSON object.
type Object = map[string]any

// Story is one of them.
type Story struct {
	Name string `json:"name"`
	// Create is the object as sent; the file's Kind and, if it has no name, the name "it" are added.
	Create Object `json:"create"`
	// Status and Update are merge patches, of the status subresource and of the object, one after the other.
	Status Object `json:"status,omitempty"`
	Update Object `json:"update,omitempty"`

	// The outcome of the last step: Errors, or the object Stored.
	Errors   []string `json:"errors,omitempty"`
	Stored   Object   `json:"stored,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// File holds the stories of a kind.
type File struct {
	APIVersion string  `json:"apiVersion"`
	Kind       string  `json:"kind"`
	Namespaced bool    `json:"namespaced,omitempty"`
	Stories    []Story `json:"stories"`
}

const license = "# SPDX-License-Identifier: Apache-2.0\n"

// Read reads all files of a directory, by their name without ".yaml".
func Read(dir string) (map[string]*File, error) {
	out := map[string]*File{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		name, isYAML := strings.CutSuffix(path, ".yaml")
		if err != nil || !isYAML {
			return err
		}
		content, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return err
		}
		f := &File{}
		if err := yaml.UnmarshalStrict(content, f); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		out[name] = f
		return nil
	})
	return out, err
}

// Write writes a file as Read reads it.
func Write(dir, name string, f *File) error {
	content, err := yaml.Marshal(f)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+".yaml"), append([]byte(license), content...), 0o644)
}

// Sent is the object that a story creates.
func (f *File) Sent(s *Story) Object {
	meta := Object{"name": "it"}
	if f.Namespaced {
		meta["namespace"] = "default"
	}
	return Merge(Object{"apiVersion": f.APIVersion, "kind": f.Kind, "metadata": meta}, s.Create)
}

// Merge applies a JSON merge patch (RFC 7396) to an object, which stays as it is.
func Merge(base, patch Object) Object {
	out := make(Object, len(base))
	for k, v := range base {
		out[k] = v
	}
	for k, v := range patch {
		inner, ok := v.(Object)
		switch {
		case v == nil:
			delete(out, k)
		case ok:
			at, _ := out[k].(Object)
			out[k] = Merge(at, inner)
		default:
			out[k] = v
		}
	}
	return out
}

// Lines says what an API server answered: a line for each field that is wrong, without the order in which they were
// looked at, or one for another error. Values that are objects are left out: Kubernetes shows those of its internal
// types. So are the differences of Pods, which are lines of such objects.
func Lines(err error) []string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Reason != metav1.StatusReasonInvalid || status.Status().Details == nil {
		return []string{err.Error()}
	}
	var out []string
	for _, c := range status.Status().Details.Causes {
		line, _, _ := strings.Cut(objectValue.ReplaceAllString(fmt.Sprintf("%s: %s", c.Field, c.Message), "value: {...}$1"), "\n")
		out = append(out, line)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

var objectValue = regexp.MustCompile(`(?s)value: [{\[].*[}\]](:|$)`)

// WithoutSystemFields is a stored object without what differs from write to write.
func WithoutSystemFields(obj Object) Object {
	if _, ok := obj["status"].(Object); ok { // the time at which a volume came to be
		obj = Merge(obj, Object{"status": Object{"lastPhaseTransitionTime": nil}})
	}
	return Merge(obj, Object{"metadata": Object{"uid": nil, "resourceVersion": nil, "creationTimestamp": nil, "managedFields": nil}})
}

// Flatten is an object with a line for each value, by its path.
func Flatten(o Object) []string { return flatten(nil, "", o) }

func flatten(lines []string, path string, v any) []string {
	switch v := v.(type) {
	case Object:
		if len(v) == 0 {
			return append(lines, path+" = {}")
		}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			lines = flatten(lines, path+"."+k, v[k])
		}
	case []any:
		if len(v) == 0 {
			return append(lines, path+" = []")
		}
		for i, item := range v {
			lines = flatten(lines, fmt.Sprintf("%s[%d]", path, i), item)
		}
	default:
		return append(lines, fmt.Sprintf("%s = %v", path, v))
	}
	return lines
}
