// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"strconv"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/dnsutil"
	"github.com/coredns/coredns/plugin/pkg/upstream"
)

// setup adds the plugin to a server block. CoreDNS calls it while start holds the Server.
func setup(c *caddy.Controller) error {
	k, err := parsePlugin(c, starting.records)
	if err == nil {
		k.search, err = searchDomains(starting.cfg)
	}
	if err != nil {
		return plugin.Error("kubernetes", err)
	}
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
		k.next = next
		return k
	})
	return nil
}

func parsePlugin(c *caddy.Controller, rec *records) (*kubernetes, error) {
	k := &kubernetes{records: rec, upstream: upstream.New(), ttl: defaultTTL, pods: podsDisabled, namespaces: map[string]bool{}}
	for first := true; c.Next(); first = false {
		if !first {
			return nil, plugin.ErrOnce
		}
		k.zones = plugin.OriginsFromArgsOrServerBlock(c.RemainingArgs(), c.ServerBlockKeys)
		for _, z := range k.zones {
			if dnsutil.IsReverse(z) == 0 {
				k.primary = z
				break
			}
		}
		if k.primary == "" {
			return nil, c.Err("non-reverse zone name must be used")
		}
		for c.NextBlock() {
			if err := k.option(c); err != nil {
				return nil, err
			}
		}
	}
	var err error
	if k.pods == podsVerified {
		k.podIndex, err = rec.podIndex()
	}
	return k, err
}

// option takes one line of the block.
func (k *kubernetes) option(c *caddy.Controller) error {
	name, args := c.Val(), c.RemainingArgs()
	switch name {
	case "pods":
		if len(args) != 1 {
			return c.ArgErr()
		}
		switch k.pods = podMode(args[0]); k.pods {
		case podsDisabled, podsInsecure, podsVerified:
		default:
			return c.Errf("wrong value for pods: %s,  must be one of: disabled, verified, insecure", args[0])
		}
	case "namespaces":
		if len(args) == 0 {
			return c.ArgErr()
		}
		for _, ns := range args {
			k.namespaces[ns] = true
		}
	case "fallthrough":
		k.fall.SetZonesFromArgs(args)
	case "ttl":
		if len(args) != 1 {
			return c.ArgErr()
		}
		ttl, err := strconv.ParseUint(args[0], 10, 32)
		if err != nil || ttl > 3600 {
			return c.Errf("ttl must be in range [0, 3600]: %s", args[0])
		}
		k.ttl = uint32(ttl)
	case "endpoint_pod_names":
		k.podNames = true
	case "noendpoints":
		k.noEndpoints = true
	case "ignore":
		if len(args) != 1 || args[0] != "empty_service" {
			return c.ArgErr()
		}
		k.ignoreEmpty = true
	case "endpoint", "tls", "kubeconfig", "startup_timeout", "apiserver_qps", "apiserver_burst", "apiserver_max_inflight":
		// How to reach the API: we have it already.
	default:
		return c.Errf("unknown property '%s'", name)
	}
	return nil
}
