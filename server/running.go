// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/skiff-k8s/skiff/agent"
)

// recordFile says with which settings a server last ran on its data, for those who clean up after it.
func recordFile(dataDir string) string { return filepath.Join(dataDir, "settings.json") }

func (c *Config) record() error {
	if err := os.MkdirAll(c.DataDir, 0o755); err != nil {
		return fmt.Errorf("make the data directory: %w (set --data-dir)", err)
	}
	raw, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("record the settings: %w", err)
	}
	if old, err := os.ReadFile(recordFile(c.DataDir)); err == nil && bytes.Equal(old, raw) {
		return nil
	}
	if err := os.WriteFile(recordFile(c.DataDir), raw, 0o600); err != nil {
		return fmt.Errorf("record the settings: %w (set --data-dir)", err)
	}
	return nil
}

// LastRun returns the settings with which a server last ran on c's data; c itself if none has.
func (c Config) LastRun() (Config, error) {
	raw, err := os.ReadFile(recordFile(c.DataDir))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read the settings of the last run: %w", err)
	}
	last := Default()
	if err := json.Unmarshal(raw, &last); err != nil {
		return c, fmt.Errorf("read the settings of the last run from %s: %w", recordFile(c.DataDir), err)
	}
	last.DataDir = c.DataDir // where it was found
	return last, nil
}

// Teardown is how to take away what a node leaves running and on disk. The server must have ended.
func (c Config) Teardown(say func(format string, args ...any)) *agent.Teardown {
	return agent.NewTeardown(agent.Config{
		Settings: c.Node, DataDir: c.DataDir, StateDir: c.StateDir, NodeName: c.NodeName, ClusterCIDRs: c.ClusterCIDRs, ServiceCIDRs: c.ServiceCIDRs,
	}, say)
}
