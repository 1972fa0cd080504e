// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"
	gatewayconsts "sigs.k8s.io/gateway-api/pkg/consts"

	"github.com/skiff-k8s/skiff/apiserver/ondemand"
	"github.com/skiff-k8s/skiff/gateway/crds"
	"github.com/skiff-k8s/skiff/gateway/gatewayapi"
)

// gatewayPart is the name by which Config.Disable knows the gateway.
const gatewayPart = "gateway"

// gatewayAPI is the Gateway API, which is installed when somebody uses it; nothing if it is not wanted.
func (c *controlPlane) gatewayAPI(cfg Config) ([]ondemand.Group, error) {
	if !cfg.servesGateways() {
		return nil, nil
	}
	versions, err := crds.Discovery()
	if err != nil || len(versions) == 0 {
		return nil, err
	}
	client, err := dynamic.NewForConfig(c.adminConfig())
	if err != nil {
		return nil, fmt.Errorf("make the client of the Gateway API: %w", err)
	}
	return []ondemand.Group{{
		Name: crds.Group, Versions: versions,
		Installed: func() bool { return crds.Installed(c.api.Definitions().GetStore()) },
		Install:   func(ctx context.Context) error { return crds.Install(ctx, client, c.api.Definitions().GetStore()) },
	}}, nil
}

// servesGateways tells whether Gateways are served at this machine.
func (c *Config) servesGateways() bool { return !c.NoNode && !slices.Contains(c.Disable, gatewayPart) }

// runGateway serves the Gateway API at this node, once somebody uses it.
func (s *Server) runGateway(ctx context.Context) error {
	if !s.cfg.servesGateways() {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return crds.Follow(ctx, s.plane.api.Definitions(), func(ctx context.Context, api crds.API) error {
			return s.serveGatewayAPI(ctx, api)
		})
	})
	return group.Wait()
}

// serveGatewayAPI runs the controller of the Gateway API until ctx ends.
func (s *Server) serveGatewayAPI(ctx context.Context, api crds.API) error {
	if err := s.allowGateway(ctx); err != nil {
		return err
	}
	if api.Bundle != gatewayconsts.BundleVersion {
		if err := s.upgradeGatewayAPI(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "The Gateway API is served in the version that is there", "version", api.Bundle)
		}
	}
	config := s.plane.configForController(gatewayapi.Account)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make the gateway's client: %w", err)
	}
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	gateways, err := gatewayclient.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make the gateway's client: %w", err)
	}
	// The account may read no Secrets. This client is used for those only that Gateways refer to.
	single, err := kubernetes.NewForConfig(s.plane.configFor(controllerUser(gatewayapi.Account).GetName(), user.SystemPrivilegedGroup))
	if err != nil {
		return fmt.Errorf("make the gateway's client: %w", err)
	}
	address, _ := netip.AddrFromSlice(s.cfg.NodeIP)
	controller := gatewayapi.New(gatewayapi.Config{
		NodeName: s.cfg.NodeName, NodeIP: address.Unmap(),
		Client: client, Gateways: gateways, Single: single, Informers: s.plane.informers, DataPlane: s.dataPlane, API: api,
	})
	s.plane.informers.Start(s.informersDone) // it may have asked for one more
	return controller.Run(ctx)
}

// upgradeGatewayAPI brings the definitions up to date if they are an older Skiff's. Whoever follows them sees that.
func (s *Server) upgradeGatewayAPI(ctx context.Context) error {
	client, err := dynamic.NewForConfig(s.plane.adminConfig())
	if err != nil {
		return fmt.Errorf("make the client of the Gateway API: %w", err)
	}
	return crds.Upgrade(ctx, client)
}

// allowGateway lets the gateway's account do what it does.
func (s *Server) allowGateway(ctx context.Context) error {
	role, binding := gatewayapi.Role()
	rbac := s.plane.admin.RbacV1()
	if _, err := rbac.ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
		_, err = rbac.ClusterRoles().Update(ctx, role, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("update ClusterRole %s: %w", role.Name, err)
		}
	} else if err != nil {
		return fmt.Errorf("create ClusterRole %s: %w", role.Name, err)
	}
	if _, err := rbac.ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create ClusterRoleBinding %s: %w", binding.Name, err)
	}
	return nil
}
