// SPDX-License-Identifier: Apache-2.0

// Command sh is /bin/sh of the busybox image. Tests know the words of busybox's shell, but the one that Debian
// ships drops variables whose names a shell cannot use, such as those with a dash. With such variables the
// shell is bash.
package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
)

var usable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func main() {
	shell := "/bin/busybox" // it looks at argument 0, which is sh
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); !usable.MatchString(name) {
			shell = "/bin/bash"
		}
	}
	err := syscall.Exec(shell, os.Args, os.Environ())
	fmt.Fprintf(os.Stderr, "sh: start %s: %v\n", shell, err)
	os.Exit(126)
}
