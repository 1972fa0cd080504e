// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"

	// The plugins that a Corefile may name.
	_ "github.com/coredns/coredns/plugin/acl"
	_ "github.com/coredns/coredns/plugin/any"
	_ "github.com/coredns/coredns/plugin/autopath"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/bufsize"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/cancel"
	_ "github.com/coredns/coredns/plugin/chaos"
	_ "github.com/coredns/coredns/plugin/debug"
	_ "github.com/coredns/coredns/plugin/dns64"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/file"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/header"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/local"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/minimal"
	_ "github.com/coredns/coredns/plugin/nsid"
	_ "github.com/coredns/coredns/plugin/rewrite"
	_ "github.com/coredns/coredns/plugin/template"
	_ "github.com/coredns/coredns/plugin/whoami"
)

// directives are those of a Corefile, in CoreDNS's order: a query passes the plugins in this order
// whatever the order in the Corefile is.
var directives = []string{
	"cancel", "reload", "nsid", "bufsize", "bind", "debug", "errors", "log", "local", "dns64",
	"any", "chaos", "loadbalance", "rewrite", "autopath", "acl", "cache", "header", "minimal", "template", "hosts",
	"kubernetes", "file", "loop", "forward", noUpstream, "whoami",
}

// elsewhere are the directives of CoreDNS itself. Those that are not ours are refused by name.
var elsewhere = dnsserver.Directives

// registerOwn adds the plugins that are ours.
func registerOwn() {
	plugin.Register("kubernetes", setup)
	// The Corefile is followed where it is: in its ConfigMap.
	plugin.Register("reload", accept)
	// CoreDNS's loop ends the whole process when it finds one. Our upstreams never contain ourselves.
	plugin.Register("loop", accept)
	plugin.Register(noUpstream, func(c *caddy.Controller) error {
		dnsserver.GetConfig(c).AddPlugin(func(plugin.Handler) plugin.Handler { return unanswered{} })
		return accept(c)
	})
}

// noUpstream is the directive of unanswered.
const noUpstream = "no_upstream"

// unanswered ends the chain on a node that has nobody to ask, without a line in the log per query.
type unanswered struct{}

func (unanswered) Name() string { return noUpstream }

func (unanswered) ServeDNS(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) {
	return dns.RcodeServerFailure, nil
}

// accept takes a directive that means nothing here.
func accept(c *caddy.Controller) error {
	for c.Next() {
		c.RemainingArgs()
		for c.NextBlock() {
			c.RemainingArgs()
		}
	}
	return nil
}

// defaultCorefile is kubeadm's. Cluster names are not cached.
const defaultCorefile = `.:53 {
    errors
    kubernetes %[1]s in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }
    forward . /etc/resolv.conf {
        max_concurrent 1000
    }
    cache 30 {
        disable success %[1]s
        disable denial %[1]s
    }
    loadbalance
`

// maxUpstreams is how many servers CoreDNS forwards to at most.
const maxUpstreams = 15

// upstreams reads the node's resolv.conf, without this server itself. A node may have none.
func upstreams(cfg Config) ([]string, error) {
	conf, err := resolvConf(cfg)
	if err != nil {
		return nil, err
	}
	var servers []string
	for _, s := range conf.Servers {
		addr, err := netip.ParseAddr(s)
		if err != nil || isSelf(cfg, addr) || slices.Contains(servers, s) {
			continue
		}
		servers = append(servers, s)
	}
	return servers[:min(len(servers), maxUpstreams)], nil
}

// searchDomains are those of the node, which its pods look names up in after the cluster's.
func searchDomains(cfg Config) ([]string, error) {
	conf, err := resolvConf(cfg)
	if err != nil {
		return nil, err
	}
	domains := make([]string, 0, len(conf.Search))
	for _, domain := range conf.Search {
		domains = append(domains, dns.Fqdn(strings.ToLower(domain)))
	}
	return domains, nil
}

// resolvConf reads the node's resolv.conf; it is empty if there is none.
func resolvConf(cfg Config) (*dns.ClientConfig, error) {
	conf, err := dns.ClientConfigFromFile(cfg.ResolvConf)
	if errors.Is(err, fs.ErrNotExist) {
		return &dns.ClientConfig{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("dns: read %s: %w", cfg.ResolvConf, err)
	}
	return conf, nil
}

// isSelf tells whether a query to addr, port 53, would come back here.
func isSelf(cfg Config, addr netip.Addr) bool {
	addr = addr.Unmap()
	if slices.Contains(cfg.ClusterIPs, addr.String()) {
		return true
	}
	return slices.ContainsFunc(cfg.Listen, func(l netip.AddrPort) bool {
		return l.Port() == 53 && (l.Addr().Unmap() == addr || l.Addr().IsUnspecified() && addr.IsLoopback())
	})
}
