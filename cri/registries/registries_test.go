// SPDX-License-Identifier: Apache-2.0

package registries

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func load(t *testing.T, text string) (*Registries, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "registries.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

func TestWriteHosts(t *testing.T) {
	r, err := load(t, `
mirrors:
  docker.io: {endpoint: ["https://mirror.example.org:5000", "http://10.0.0.1/v2"]}
  "*": {endpoint: ["https://all.example.org/proxy"]}
configs:
  mirror.example.org:5000:
    auth: {username: me, password: secret}
    tls: {ca_file: /ca.pem, cert_file: /cert.pem, key_file: /key.pem}
  own.example.org:
    tls: {insecure_skip_verify: true}
`)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "certs.d")
	for range 2 {
		if err := r.WriteHosts(dir); err != nil {
			t.Fatal(err)
		}
	}
	for folder, want := range map[string]string{
		"docker.io": `
[host."https://mirror.example.org:5000"]
  capabilities = ["pull", "resolve"]
  ca = "/ca.pem"
  client = [["/cert.pem", "/key.pem"]]

[host."http://10.0.0.1/v2"]
  capabilities = ["pull", "resolve"]
`,
		"_default": `
[host."https://all.example.org/proxy"]
  capabilities = ["pull", "resolve"]
  override_path = true
`,
		"own.example.org": `server = "https://own.example.org"
skip_verify = true
`,
	} {
		got, err := os.ReadFile(filepath.Join(dir, folder, "hosts.toml"))
		if err != nil || string(got) != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", folder, err, got, want)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 4 {
		t.Errorf("%d folders, %v", len(entries), err)
	}
	if err := (&Registries{}).WriteHosts(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("what the file no longer says is still there")
	}
}

func TestLoadRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"mirrors: {docker.io: {endpoint: [mirror]}}":              "is not like https://",
		"mirrors: {docker.io: {rewrite: {a: b}}}":                 "unknown field",
		"configs: {a.io: {tls: {cert_file: /a}}}":                 "belong together",
		"mirrors: {docker.io: {endpoint: [\"ftp://a.example\"]}}": "is not like https://",
	} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
