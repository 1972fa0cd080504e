// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/agent/join"
	"github.com/skiff-k8s/skiff/server"
)

const configFile = "/etc/skiff/config.yaml"

// settings are all that can be said to a server or to an agent, on the command line, in the environment and in a file.
type settings struct {
	file   string
	server server.Config
	agent  join.Config
	logs   logs
}

func newSettings() *settings { return &settings{server: server.Default(), agent: defaultAgent()} }

// addFlags adds those of a server.
func (s *settings) addFlags(flags *pflag.FlagSet) {
	s.addCommonFlags(flags)
	serverFlags(flags, &s.server)
}

func (s *settings) addAgentFlags(flags *pflag.FlagSet) {
	s.addCommonFlags(flags)
	agentFlags(flags, &s.agent)
}

func (s *settings) addCommonFlags(flags *pflag.FlagSet) {
	flags.StringVar(&s.file, "config", configFile, "file with settings, one line for each flag; it need not exist")
	s.logs.addFlags(flags)
}

// shown are all flags with their values, for people who look for a fault; what is secret is not in it.
func shown(flags *pflag.FlagSet) map[string]string {
	all := map[string]string{}
	flags.VisitAll(func(f *pflag.Flag) { all[f.Name] = f.Value.String() })
	if all["token"] != "" {
		all["token"] = "CLASSIFIED"
	}
	return all
}

// load sets the flags that were not given from the environment and from the file.
func (s *settings) load(flags *pflag.FlagSet) error {
	values, err := s.read(flags.Changed("config"))
	if err != nil {
		return err
	}
	names := flagNames(flags)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !slices.Contains(names, name) || name == "config" {
			return fmt.Errorf("%s: there is no setting %q (%sskiff %s --help lists all)", s.file, name, suggestion("", name, names), flags.Name())
		}
	}
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || failed != nil {
			return
		}
		variable := "SKIFF_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if v, ok := os.LookupEnv(variable); ok {
			failed = set(flags, f, v, variable+" in the environment")
		} else if v, ok := values[f.Name]; ok {
			failed = set(flags, f, text(v), f.Name+" in "+s.file)
		}
	})
	return failed
}

// read returns what is in the file, nothing if there is none.
func (s *settings) read(required bool) (map[string]any, error) {
	data, err := os.ReadFile(s.file)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(data, &values); err != nil {
		return nil, fmt.Errorf("%s must be lines like \"node-name: alpha\": %w", s.file, err)
	}
	return values, nil
}

func set(flags *pflag.FlagSet, f *pflag.Flag, value, where string) error {
	err := flags.Set(f.Name, value)
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return invalidValue(where, f, value, invalid.Unwrap())
	}
	return err
}

// text is a YAML value as a flag's value: lists become comma-separated.
func text(v any) string {
	list, ok := v.([]any)
	if !ok {
		return fmt.Sprint(v)
	}
	parts := make([]string, len(list))
	for i, e := range list {
		parts[i] = fmt.Sprint(e)
	}
	return strings.Join(parts, ",")
}
