// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/gateway-api/pkg/features"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// writeStatuses tells all objects that concern us how they fare, where that has changed.
func (c *Controller) writeStatuses(ctx context.Context, w *World, o *Outcome) error {
	api := c.cfg.Gateways.GatewayV1()
	var errs []error
	for _, object := range w.Classes {
		if list, ours := o.Classes[object.Name]; ours {
			after := gatewayv1.GatewayClassStatus{Conditions: list, SupportedFeatures: supportedFeatures()}
			errs = append(errs, write(ctx, object, object.Status, after, func(u *gatewayv1.GatewayClass) { u.Status = after }, api.GatewayClasses().UpdateStatus))
		}
	}
	for _, object := range w.Gateways {
		if after, ours := o.Gateways[reconcile.KeyOf(object)]; ours {
			errs = append(errs, write(ctx, object, object.Status, after, func(u *gatewayv1.Gateway) { u.Status = after }, api.Gateways(object.Namespace).UpdateStatus))
		}
	}
	for _, object := range w.ListenerSets {
		if after, ours := o.ListenerSets[reconcile.KeyOf(object)]; ours {
			errs = append(errs, write(ctx, object, object.Status, after, func(u *gatewayv1.ListenerSet) { u.Status = after }, api.ListenerSets(object.Namespace).UpdateStatus))
		}
	}
	for _, object := range w.HTTPRoutes {
		before := object.Status.Parents
		after := parents(before, o.Routes[Route{httpRoute, reconcile.KeyOf(object)}])
		errs = append(errs, write(ctx, object, before, after, func(u *gatewayv1.HTTPRoute) { u.Status.Parents = after }, api.HTTPRoutes(object.Namespace).UpdateStatus))
	}
	for _, object := range w.GRPCRoutes {
		before := object.Status.Parents
		after := parents(before, o.Routes[Route{grpcRoute, reconcile.KeyOf(object)}])
		errs = append(errs, write(ctx, object, before, after, func(u *gatewayv1.GRPCRoute) { u.Status.Parents = after }, api.GRPCRoutes(object.Namespace).UpdateStatus))
	}
	for _, object := range w.TLSRoutes {
		before := object.Status.Parents
		after := parents(before, o.Routes[Route{tlsRoute, reconcile.KeyOf(object)}])
		errs = append(errs, write(ctx, object, before, after, func(u *gatewayv1.TLSRoute) { u.Status.Parents = after }, api.TLSRoutes(object.Namespace).UpdateStatus))
	}
	for _, object := range w.TCPRoutes {
		before := object.Status.Parents
		after := parents(before, o.Routes[Route{tcpRoute, reconcile.KeyOf(object)}])
		errs = append(errs, write(ctx, object, before, after, func(u *gatewayv1.TCPRoute) { u.Status.Parents = after }, api.TCPRoutes(object.Namespace).UpdateStatus))
	}
	for _, object := range w.UDPRoutes {
		before := object.Status.Parents
		after := parents(before, o.Routes[Route{udpRoute, reconcile.KeyOf(object)}])
		errs = append(errs, write(ctx, object, before, after, func(u *gatewayv1.UDPRoute) { u.Status.Parents = after }, api.UDPRoutes(object.Namespace).UpdateStatus))
	}
	for _, object := range w.Policies {
		before := object.Status.Ancestors
		others := slices.DeleteFunc(slices.Clone(before), func(a gatewayv1.PolicyAncestorStatus) bool { return a.ControllerName == ControllerName })
		after := append(others, o.Policies[reconcile.KeyOf(object)]...)
		errs = append(errs, write(ctx, object, before, after, func(u *gatewayv1.BackendTLSPolicy) { u.Status.Ancestors = after }, api.BackendTLSPolicies(object.Namespace).UpdateStatus))
	}
	return errors.Join(errs...)
}

// parents puts our part into the status of a route, behind that of others.
func parents(have, ours []gatewayv1.RouteParentStatus) []gatewayv1.RouteParentStatus {
	others := slices.DeleteFunc(slices.Clone(have), func(p gatewayv1.RouteParentStatus) bool { return p.ControllerName == ControllerName })
	return append(others, ours...)
}

// write updates a status, or a part of it, that has changed. An object that has changed meanwhile, or is gone, will be seen as it
// is now.
func write[T interface {
	metav1.Object
	DeepCopy() T
}, S any](ctx context.Context, object T, before, after S, set func(T), update func(context.Context, T, metav1.UpdateOptions) (T, error)) error {
	if equality.Semantic.DeepEqual(before, after) {
		return nil
	}
	object = object.DeepCopy()
	set(object)
	_, err := update(ctx, object, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("write the status of %T %s: %w", object, reconcile.KeyOf(object), err)
	}
	return nil
}

// supportedFeatures are those of the Gateway API's features that the data plane has.
func supportedFeatures() []gatewayv1.SupportedFeature {
	var out []gatewayv1.SupportedFeature
	for _, name := range Features() {
		out = append(out, gatewayv1.SupportedFeature{Name: gatewayv1.FeatureName(name)})
	}
	return out
}

// Features are the names of the Gateway API's features that are supported, in order.
func Features() []features.FeatureName {
	names := []features.FeatureName{
		features.SupportGateway, features.SupportReferenceGrant, features.SupportHTTPRoute, features.SupportGRPCRoute, features.SupportTLSRoute,
		features.SupportTCPRoute, features.SupportUDPRoute, features.SupportBackendTLSPolicy, features.SupportBackendTLSPolicySANValidation,

		features.SupportGatewayPort8080, features.SupportGatewayStaticAddresses, features.SupportGatewayHTTPListenerIsolation,
		features.SupportGatewayHTTPSListenerDetectMisdirectedRequests, features.SupportGatewayInfrastructure, features.SupportGatewayAddressEmpty,
		features.SupportListenerSet, features.SupportGatewayBackendClientCertificate, features.SupportGatewayFrontendClientCertificateValidation,
		features.SupportGatewayFrontendClientCertificateValidationInsecureFallback,

		features.SupportHTTPRouteBackendRequestHeaderModification, features.SupportHTTPRouteQueryParamMatching, features.SupportHTTPRouteMethodMatching,
		features.SupportHTTPRouteResponseHeaderModification, features.SupportHTTPRoutePortRedirect, features.SupportHTTPRouteSchemeRedirect,
		features.SupportHTTPRoutePathRedirect, features.SupportHTTPRouteHostRewrite, features.SupportHTTPRoutePathRewrite,
		features.SupportHTTPRouteRequestMirror, features.SupportHTTPRouteRequestMultipleMirrors, features.SupportHTTPRouteRequestPercentageMirror,
		features.SupportHTTPRouteRequestTimeout, features.SupportHTTPRouteBackendTimeout, features.SupportHTTPRouteParentRefPort,
		features.SupportHTTPRouteBackendProtocolH2C, features.SupportHTTPRouteBackendProtocolWebSocket, features.SupportHTTPRouteNamedRouteRule,
		features.SupportHTTPRouteCORS, features.SupportHTTPRoute303RedirectStatusCode, features.SupportHTTPRoute307RedirectStatusCode,
		features.SupportHTTPRoute308RedirectStatusCode,

		features.SupportGRPCRouteNamedRouteRule, features.SupportTLSRouteModeTerminate, features.SupportTLSRouteModeMixed,
	}
	slices.Sort(names)
	return names
}
