// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sync/errgroup"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/gateway/ingress"
	"github.com/skiff-k8s/skiff/gateway/proxy"
)

// GatewaySettings are about what serves Ingresses and Gateways on this machine.
type GatewaySettings struct {
	IngressHTTPPort  int // 80
	IngressHTTPSPort int // 443
	// TrustedProxies are clients whose X-Forwarded headers are believed.
	TrustedProxies []netip.Prefix
}

func defaultGatewaySettings() GatewaySettings {
	return GatewaySettings{IngressHTTPPort: 80, IngressHTTPSPort: 443}
}

func (g *GatewaySettings) check() error {
	for _, port := range []int{g.IngressHTTPPort, g.IngressHTTPSPort} {
		if port < 1 || port > 65535 {
			return fmt.Errorf("port %d is not between 1 and 65535 (change --ingress-http-port or --ingress-https-port)", port)
		}
	}
	if g.IngressHTTPPort == g.IngressHTTPSPort {
		return fmt.Errorf("port %d cannot be for both HTTP and HTTPS (change --ingress-http-port or --ingress-https-port)", g.IngressHTTPPort)
	}
	return nil
}

// ingressPart is the name by which Config.Disable knows Ingress.
const ingressPart = "ingress"

// servesIngresses tells whether Ingresses are served at this machine.
func (c *Config) servesIngresses() bool { return !c.NoNode && !slices.Contains(c.Disable, ingressPart) }

// buildDataPlane builds what serves Ingresses and Gateways on this machine, and the controller of Ingresses. Nothing listens before there
// is one. The controller asks for informers, so it has to come before these are started.
func (s *Server) buildDataPlane() error {
	metrics, err := proxy.NewMetrics(processMetrics{})
	if err != nil {
		return fmt.Errorf("make the metrics of the gateway: %w", err)
	}
	of := s.cfg.Gateway
	s.dataPlane = proxy.New(proxy.Config{TrustedProxies: of.TrustedProxies, Metrics: metrics})
	if !s.cfg.servesIngresses() {
		return nil
	}
	// The account may read no Secrets. This client is used for those only that Ingresses name.
	secrets, err := kubernetes.NewForConfig(s.plane.configFor(controllerUser(ingress.Name).GetName(), user.SystemPrivilegedGroup))
	if err != nil {
		return fmt.Errorf("make the client of Ingress: %w", err)
	}
	everywhere := func(port int) netip.AddrPort { return netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(port)) }
	s.ingress = ingress.New(ingress.Config{
		NodeName: s.cfg.NodeName, HTTP: everywhere(of.IngressHTTPPort), HTTPS: everywhere(of.IngressHTTPSPort),
		Client: s.plane.clientFor(ingress.Name), Secrets: secrets, Informers: s.plane.informers, DataPlane: s.dataPlane,
	})
	return nil
}

// runDataPlane serves Ingresses until ctx ends, and whatever else the data plane is told to.
func (s *Server) runDataPlane(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.dataPlane.Run(ctx) })
	if s.ingress != nil {
		group.Go(func() error { return s.ingress.Run(ctx) })
	}
	return group.Wait()
}

// ingressPort tells that a port is for Ingresses, if it is.
func (s *Server) ingressPort(port int32) string {
	if s.ingress != nil && s.ingress.Holds(uint16(port)) {
		return "Ingress"
	}
	return ""
}
