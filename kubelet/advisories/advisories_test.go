// SPDX-License-Identifier: Apache-2.0

package advisories

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	const masked, fds = "CVE-2025-31133", "CVE-2024-21626"
	for _, c := range []struct{ runtime, version, want string }{
		{"runc", "1.1.11", fds + " " + masked},
		{"runc", "1.1.15", masked}, // its line of releases never got the second fix
		{"runc", "1.2.7", masked},
		{"runc", "1.2.8", ""},
		{"runc", "1.3.2", masked},
		{"runc", "1.3.3", ""},
		{"runc", "1.4.0-rc.2", masked},
		{"runc", "1.4.0-rc.3", ""},
		{"runc", "1.4.0", ""},
		{"runc", "1.5.0", ""},
		{"containerd", "v1.6.0", "CVE-2022-23648 CVE-2024-40635 CVE-2024-25621 CVE-2026-53488"},
		{"containerd", "v1.7.28", "CVE-2024-25621 CVE-2026-53488"},
		{"containerd", "1.7.29~ds1", "CVE-2026-53488"}, // as Debian writes it
		{"containerd", "1.7.33", ""},
		{"containerd", "2.0.9", "CVE-2026-53488"}, // it cannot be started from checkpoints
		{"containerd", "2.1.0", "CVE-2025-47290 CVE-2024-25621 CVE-2026-53488 CVE-2026-53492"},
		{"containerd", "2.3.1", "CVE-2026-53488 CVE-2026-53492"},
		{"containerd", "2.3.2", ""},
		{"containerd", "2.4.2+unknown", ""},
		{"cri-o", "1.23.1", "CVE-2022-0811 CVE-2024-3154 CVE-2024-5154 CVE-2024-8676"},
		{"cri-o", "1.18.0", "CVE-2024-3154 CVE-2024-5154 CVE-2024-8676"},
		{"cri-o", "1.27.6", "CVE-2024-5154 CVE-2024-8676"},
		{"cri-o", "1.30.1", "CVE-2024-8676"},
		{"cri-o", "1.31.1", ""},
		{"cri-o", "1.34.0", ""},
		{"runc", "built here", ""},
		{"own", "0.1.0", ""},
	} {
		got := Check(c.runtime, c.version)
		if len(got) != len(strings.Fields(c.want)) {
			t.Errorf("Check(%s, %s) = %q, want %q", c.runtime, c.version, got, c.want)
			continue
		}
		for i, id := range strings.Fields(c.want) {
			if !strings.Contains(got[i], id) {
				t.Errorf("Check(%s, %s) = %q, want %s", c.runtime, c.version, got[i], id)
			}
		}
	}
}

// Nothing is known against what is bundled.
func TestBundledRuntimes(t *testing.T) {
	for name, module := range map[string]struct{ file, path string }{
		"runc":       {"../../cri/bundle/runc/go.mod", "github.com/opencontainers/runc"},
		"containerd": {"../../go.mod", "github.com/containerd/containerd/v2"},
	} {
		raw, err := os.ReadFile(module.file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(regexp.QuoteMeta(module.path) + ` (v\S+)`).FindSubmatch(raw)
		if found == nil {
			t.Fatalf("%s does not pin %s", module.file, module.path)
		}
		if got := Check(name, string(found[1])); len(got) > 0 {
			t.Errorf("the bundled %s: %q", name, got)
		}
	}
}
