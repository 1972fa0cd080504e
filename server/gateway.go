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

	"github.com/skiff-k8s/skiff/gateway/crds"
	"github.com/skiff-k8s/skiff/gateway/gatewayapi"
)

// gatewayPart is the name by which Config.Disable knows the gateway.
const gatewayPart = "gateway"

// runGateway serves the Gateway API at this node, once there is one.
func (s *Server) runGateway(ctx context.Context) error {
	if slices.Contains(s.cfg.Disable, gatewayPart) || s.cfg.NoNode {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := s.installGatewayAPI(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "There is no Gateway API")
		}
		return nil
	})
	group.Go(func() error {
		return crds.Follow(ctx, s.plane.api.Definitions(), func(ctx context.Context, api crds.API) error {
			return s.serveGatewayAPI(ctx, api)
		})
	})
	return group.Wait()
}

func (s *Server) installGatewayAPI(ctx context.Context) error {
	client, err := dynamic.NewForConfig(s.plane.adminConfig())
	if err != nil {
		return fmt.Errorf("make the client of the Gateway API: %w", err)
	}
	return crds.Install(ctx, client)
}

// serveGatewayAPI runs the controller of the Gateway API until ctx ends.
func (s *Server) serveGatewayAPI(ctx context.Context, api crds.API) error {
	if err := s.allowGateway(ctx); err != nil {
		return err
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
