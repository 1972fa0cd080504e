// SPDX-License-Identifier: Apache-2.0

// Package registries reads a file that says how images are pulled from registries, in the form that k3s made known:
//
//	mirrors:
//	  docker.io:
//	    endpoint: ["https://mirror.example.org:5000"]
//	configs:
//	  mirror.example.org:5000:
//	    auth: {username: me, password: secret}
//	    tls: {ca_file: /etc/ssl/mirror.pem}
//
// Mirrors and TLS become a folder of hosts.toml files, which containerd looks into at each pull. Credentials are the
// kubelet's: it sends them with each pull.
package registries

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// Registries is the file.
type Registries struct {
	// Mirrors by the registry that images name; "*" for all others.
	Mirrors map[string]Mirror `json:"mirrors,omitempty"`
	// Configs by the host that is called, with its port.
	Configs map[string]Config `json:"configs,omitempty"`
}

// Mirror is where images are looked for before the registry itself is asked.
type Mirror struct {
	Endpoints []string `json:"endpoint"`
}

// Config is how one host is called.
type Config struct {
	Auth *Auth `json:"auth,omitempty"`
	TLS  *TLS  `json:"tls,omitempty"`
}

// Auth is who we are there.
type Auth struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	Auth          string `json:"auth,omitempty"` // user name and password in one, as docker keeps them
	IdentityToken string `json:"identity_token,omitempty"`
}

// TLS is whom we believe, and by what we show who we are.
type TLS struct {
	CAFile             string `json:"ca_file,omitempty"`
	CertFile           string `json:"cert_file,omitempty"`
	KeyFile            string `json:"key_file,omitempty"`
	InsecureSkipVerify bool   `json:"insecure_skip_verify,omitempty"`
}

// Load reads the file.
func Load(path string) (*Registries, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read registries: %w", err)
	}
	r := &Registries{}
	if err := yaml.UnmarshalStrict(data, r); err != nil {
		return nil, fmt.Errorf("read registries in %s: %w", path, err)
	}
	for name, m := range r.Mirrors {
		for _, endpoint := range m.Endpoints {
			if u, err := url.Parse(endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
				return nil, fmt.Errorf("read registries in %s: mirrors.%s: %q is not like https://mirror.example.org:5000", path, name, endpoint)
			}
		}
	}
	for host, c := range r.Configs {
		if c.TLS != nil && (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
			return nil, fmt.Errorf("read registries in %s: configs.%s.tls: cert_file and key_file belong together", path, host)
		}
	}
	return r, nil
}

// WriteHosts makes the folder hold exactly what the file says.
func (r *Registries) WriteHosts(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove old registry configuration: %w", err)
	}
	for _, name := range r.named() {
		folder := filepath.Join(dir, folderOf(name))
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return fmt.Errorf("write registry configuration: %w", err)
		}
		if err := os.WriteFile(filepath.Join(folder, "hosts.toml"), []byte(r.hosts(name)), 0o600); err != nil {
			return fmt.Errorf("write registry configuration: %w", err)
		}
	}
	return nil
}

// named are the registries that need a file.
func (r *Registries) named() []string {
	names := slices.Collect(maps.Keys(r.Mirrors))
	for host, c := range r.Configs {
		if _, mirrored := r.Mirrors[host]; c.TLS != nil && !mirrored {
			names = append(names, host)
		}
	}
	slices.Sort(names)
	return names
}

func folderOf(registry string) string {
	if registry == "*" {
		return "_default"
	}
	return registry
}

// hosts is the hosts.toml of a registry.
func (r *Registries) hosts(registry string) string {
	var out strings.Builder
	if c, ok := r.Configs[registry]; ok && c.TLS != nil && registry != "*" {
		fmt.Fprintf(&out, "server = %s\n", strconv.Quote("https://"+registry))
		c.TLS.write(&out, "")
	}
	for _, endpoint := range r.Mirrors[registry].Endpoints {
		u, err := url.Parse(endpoint)
		if err != nil {
			continue // Load has checked it
		}
		base := u.Scheme + "://" + u.Host
		if path := strings.TrimSuffix(u.Path, "/"); path != "" {
			base += path
		}
		fmt.Fprintf(&out, "\n[host.%s]\n  capabilities = [\"pull\", \"resolve\"]\n", strconv.Quote(base))
		if u.Path != "" && u.Path != "/" && u.Path != "/v2" {
			out.WriteString("  override_path = true\n")
		}
		if c, ok := r.Configs[u.Host]; ok && c.TLS != nil {
			c.TLS.write(&out, "  ")
		}
	}
	return out.String()
}

func (t *TLS) write(out *strings.Builder, indent string) {
	if t.CAFile != "" {
		fmt.Fprintf(out, "%sca = %s\n", indent, strconv.Quote(t.CAFile))
	}
	if t.CertFile != "" {
		fmt.Fprintf(out, "%sclient = [[%s, %s]]\n", indent, strconv.Quote(t.CertFile), strconv.Quote(t.KeyFile))
	}
	if t.InsecureSkipVerify {
		fmt.Fprintf(out, "%sskip_verify = true\n", indent)
	}
}
