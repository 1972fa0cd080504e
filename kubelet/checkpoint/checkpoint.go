// SPDX-License-Identifier: Apache-2.0

// Package checkpoint keeps in a file what the next process has to know.
//
// A file is replaced in one step, so that a process that is killed leaves the old or the new one. It is not forced to the disk:
// after the machine itself went down no container runs, and what the file says does not matter any more.
package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Save writes v as JSON, for nobody else to read. The folder must be there.
func Save(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	next := path + ".new"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// Load reads what Save wrote into v. Without a file v stays as it is.
func Load(path string, v any) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	return nil
}
