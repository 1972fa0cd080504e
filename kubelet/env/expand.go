// SPDX-License-Identifier: Apache-2.0

package env

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Lookup returns a function for Expand that searches the maps in order. A name that is in none of
// them stays the reference that it was.
func Lookup(maps ...map[string]string) func(name string) string {
	return func(name string) string {
		for _, m := range maps {
			if value, ok := m[name]; ok {
				return value
			}
		}
		return "$(" + name + ")"
	}
}

// Expand replaces each $(NAME) in s by lookup(NAME). $$ stands for one $, so that $$(NAME) is $(NAME);
// a $ before anything else, and a reference without an end, are left alone.
func Expand(s string, lookup func(name string) string) string {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(s, "$")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		switch name, after, closed := strings.Cut(rest, ")"); {
		case strings.HasPrefix(rest, "$"):
			out.WriteByte('$')
			s = rest[1:]
		case strings.HasPrefix(rest, "(") && closed:
			out.WriteString(lookup(name[1:]))
			s = after
		default:
			out.WriteByte('$')
			s = rest
		}
	}
}

// CommandAndArgs returns the container's command and args with references replaced by environment.
func CommandAndArgs(container *corev1.Container, environment []*runtimeapi.KeyValue) (command, args []string) {
	lookup := Lookup(byName(environment))
	for _, c := range container.Command {
		command = append(command, Expand(c, lookup))
	}
	for _, a := range container.Args {
		args = append(args, Expand(a, lookup))
	}
	return command, args
}

// SubPath returns the subPath of mount, computed from subPathExpr if it has one.
func SubPath(mount *corev1.VolumeMount, environment []*runtimeapi.KeyValue) (string, error) {
	if mount.SubPathExpr == "" {
		return mount.SubPath, nil
	}
	vars := byName(environment)
	var missing []string
	path := Expand(mount.SubPathExpr, func(name string) string {
		if vars[name] == "" {
			missing = append(missing, name)
		}
		return vars[name]
	})
	if len(missing) > 0 {
		slices.Sort(missing)
		return "", fmt.Errorf("missing value for %s", strings.Join(slices.Compact(missing), ", "))
	}
	return path, nil
}

func byName(environment []*runtimeapi.KeyValue) map[string]string {
	vars := make(map[string]string, len(environment))
	for _, e := range environment {
		vars[e.Key] = string(e.Value)
	}
	return vars
}
