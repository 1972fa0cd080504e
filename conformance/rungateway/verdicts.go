// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"strings"
)

// verdicts passes on what `go test -v` prints, and says which tests passed and failed.
type verdicts struct {
	to      io.Writer
	pending []byte // the line that has begun
}

func (v *verdicts) Write(p []byte) (int, error) {
	v.pending = append(v.pending, p...)
	for {
		line, rest, ok := bytes.Cut(v.pending, []byte("\n"))
		if !ok {
			return v.to.Write(p)
		}
		v.pending = rest
		if text := string(line); strings.HasPrefix(text, "    --- ") && !strings.Contains(text, " SKIP: ") || strings.HasPrefix(text, "        --- FAIL") {
			say("%s", strings.TrimSpace(text))
		}
	}
}
