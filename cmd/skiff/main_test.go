// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/skiff-k8s/skiff/server"
)

// call runs the command line, up to where anything would be done.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	cmd := newCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&err)
	code = run(t.Context(), cmd, &err)
	return code, out.String(), err.String()
}

// Who calls skiff in a wrong way gets one line that says what is wrong and what to do, and exit code 2; who
// has settings that cannot work gets 1.
func TestWrongUse(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct {
		name string
		args []string
		env  string
		code int
		want string
	}{
		{"unknown command", []string{"sever"}, "", 2, `there is no command "sever" (did you mean server? skiff --help lists all)`},
		{"unknown command, nothing near", []string{"dance"}, "", 2, `there is no command "dance" (skiff --help lists all)`},
		{"argument", []string{"server", "now"}, "", 2, `"now" is one argument too many (skiff server --help lists the flags)`},
		{"unknown flag", []string{"server", "--node-nam=x"}, "", 2, `there is no flag --node-nam (did you mean --node-name? skiff server --help lists all)`},
		{"unknown flag, nothing near", []string{"server", "--colour"}, "", 2, `there is no flag --colour (skiff server --help lists all)`},
		{"unknown flag of stop", []string{"stop", "--keep-pod"}, "", 2, `there is no flag --keep-pod (did you mean --keep-pods? skiff stop --help lists all)`},
		{"unknown short flag", []string{"server", "-q"}, "", 2, `there is no flag -q (skiff server --help lists all)`},
		{"not a number", []string{"server", "--secure-port=x"}, "", 2, `--secure-port is "x" but must be a whole number`},
		{"not an address", []string{"server", "--node-ip=here"}, "", 2, `--node-ip: "here" is not an IP address`},
		{"not a range", []string{"server", "--cluster-cidr=10.0.0.0"}, "", 2, `--cluster-cidr: "10.0.0.0" is not a range like 10.42.0.0/16`},
		{"not a range of ports", []string{"server", "--service-node-port-range=3"}, "", 2, `--service-node-port-range: "3" is not a range like 30000-32767`},
		{"not a mode", []string{"server", "--write-kubeconfig-mode=rw"}, "", 2, `--write-kubeconfig-mode: "rw" is not an octal mode like 0640`},
		{"no value", []string{"server", "--node-name"}, "", 2, "flag needs an argument: --node-name (skiff server --help)"},
		{"port too high", []string{"server", "--secure-port=70000"}, "", 1, "port 70000 is not between 1 and 65535 (change --secure-port)"},
		{"ranges overlap", []string{"server", "--cluster-cidr=10.43.0.0/16"}, "", 1, "cluster CIDR 10.43.0.0/16 and service CIDR 10.43.0.0/16 overlap (change --cluster-cidr or --service-cidr)"},
		{"unknown network", []string{"server", "--network=flannel"}, "", 1, `network "flannel" is unknown (--network is one of skiff, host-gw, none)`},
		{"no such file", []string{"server", "--config=/nowhere.yaml"}, "", 1, "read settings: open /nowhere.yaml: no such file or directory"},
		{"unknown key", []string{"server", "--config", file("key", "node-nmae: x\n")}, "", 1, dir + `/key: there is no setting "node-nmae" (did you mean node-name? skiff server --help lists all)`},
		{"wrong value in the file", []string{"server", "--config", file("value", "secure-port: high\n")}, "", 1, "secure-port in " + dir + `/value is "high" but must be a whole number`},
		{"not settings", []string{"server", "--config", file("list", "- a\n")}, "", 1, dir + `/list must be lines like "node-name: alpha"`},
		{"wrong value in the environment", []string{"server"}, "SKIFF_MAX_PODS=many", 1, `SKIFF_MAX_PODS in the environment is "many" but must be a whole number`},
		{"settings of stop are those of the server", []string{"stop", "--config", file("stop", "node-nmae: x\n")}, "", 1, `there is no setting "node-nmae"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if name, value, ok := strings.Cut(test.env, "="); ok {
				t.Setenv(name, value)
			}
			code, stdout, stderr := call(t, test.args...)
			if code != test.code || stdout != "" {
				t.Errorf("exit code %d and output %q, want %d and none", code, stdout, test.code)
			}
			if strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "skiff: ") || !strings.Contains(stderr, test.want) {
				t.Errorf("it says %q, want one line with %q", stderr, test.want)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{nil, {"--help"}, {"server", "--help"}, {"stop", "--help"}, {"uninstall", "--help"}, {"version"}} {
		if code, stdout, stderr := call(t, args...); code != 0 || stdout == "" || stderr != "" {
			t.Errorf("skiff %q = %d, %q on standard error; want help", args, code, stderr)
		}
	}
}

// A flag wins over the environment, which wins over the file.
func TestSettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	content := "node-name: of-file\nmax-pods: 5\nsecure-port: 1\ntls-san: [a.example, 192.0.2.7]\nno-node: true\nv: 3\n"
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SKIFF_MAX_PODS", "6")
	t.Setenv("SKIFF_SECURE_PORT", "2")
	s := newSettings()
	flags := pflag.NewFlagSet("server", pflag.ContinueOnError)
	s.addFlags(flags)
	if err := flags.Parse([]string{"--config", path, "--secure-port=3"}); err != nil {
		t.Fatal(err)
	}
	if err := s.load(flags); err != nil {
		t.Fatal(err)
	}
	got := s.server
	if got.NodeName != "of-file" || got.Node.MaxPods != 6 || got.SecurePort != 3 || !got.NoNode || s.logs.verbosity != 3 {
		t.Errorf("settings = %+v", got)
	}
	if want := []string{"a.example", "192.0.2.7"}; !slices.Equal(got.TLSSANs, want) {
		t.Errorf("tls-san = %q, want %q", got.TLSSANs, want)
	}
	if got.DataDir != server.Default().DataDir {
		t.Errorf("data-dir = %q, want the default", got.DataDir)
	}
}

func TestConfirmed(t *testing.T) {
	for answer, want := range map[string]bool{"yes\n": true, " yes ": true, "": false, "y\n": false, "no\nyes\n": false} {
		var out bytes.Buffer
		if got := confirmed(strings.NewReader(answer), &out, "This removes /data."); got != want {
			t.Errorf("confirmed(%q) = %v", answer, got)
		}
		if !strings.Contains(out.String(), "/data") {
			t.Errorf("the question %q does not say what will go", out.String())
		}
	}
}
