// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
)

// The status of a claim has several writers, each with a part of its own. Who may update the status may change a part
// only with a permission on it, which RBAC grants like one on a subresource, although there is none of that name:
// resourceclaims/binding for what is allocated and to whom (the scheduler's), resourceclaims/driver with the driver's
// name for what a driver tells of its devices, on its own node or on any.

// permitParts refuses changes of parts that the writer has no permission for.
func (d Deps) permitParts(ctx context.Context, status, old *resourcev1.ResourceClaimStatus) field.ErrorList {
	if d.Authorizer == nil {
		return nil
	}
	errs := d.permitBinding(ctx, status, old)
	if status.Allocation == nil {
		return errs // what drivers told goes with the devices
	}
	return append(errs, d.permitDrivers(ctx, status, old)...)
}

func (d Deps) permitBinding(ctx context.Context, status, old *resourcev1.ResourceClaimStatus) field.ErrorList {
	if equality.Semantic.DeepEqual(status.Allocation, old.Allocation) && equality.Semantic.DeepEqual(status.ReservedFor, old.ReservedFor) {
		return nil
	}
	at := field.NewPath("status", "allocation")
	request, err := filters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return field.ErrorList{field.InternalError(at, fmt.Errorf("cannot build authorizer attributes: %w", err))}
	}
	err = d.ask(ctx, statusPart{Attributes: request, verb: request.GetVerb(), subresource: resourcev1.SubresourceBinding})
	if err != nil {
		return field.ErrorList{field.Forbidden(at, fmt.Sprintf(
			`changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="%s" permission: %s`, request.GetVerb(), err))}
	}
	return nil
}

func (d Deps) permitDrivers(ctx context.Context, status, old *resourcev1.ResourceClaimStatus) field.ErrorList {
	drivers := changedDrivers(status.Devices, old.Devices)
	if len(drivers) == 0 {
		return nil
	}
	at := field.NewPath("status", "devices")
	request, err := filters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return field.ErrorList{field.InternalError(at, fmt.Errorf("cannot build authorizer attributes: %w", err))}
	}
	verbs := []string{resourcev1.VerbPrefixArbitraryNode + request.GetVerb()}
	if node := nodeOf(status.Allocation); node != "" && runsOn(request.GetUser(), node) {
		verbs = append([]string{resourcev1.VerbPrefixAssociatedNode + request.GetVerb()}, verbs...)
	}
	var errs field.ErrorList
	for _, driver := range drivers {
		if err := d.askForDriver(ctx, request, driver, verbs); err != nil {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf(
				`changing status.devices requires resource="resourceclaims/driver", verb="%s" permission: %s`, verbs, err)))
		}
	}
	return errs
}

// askForDriver returns the first refusal if no verb is allowed.
func (d Deps) askForDriver(ctx context.Context, request authorizer.Attributes, driver string, verbs []string) (first error) {
	for _, verb := range verbs {
		err := d.ask(ctx, statusPart{
			Attributes: request, verb: verb, subresource: resourcev1.SubresourceDriver, namespace: request.GetNamespace(), name: driver,
		})
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

func (d Deps) ask(ctx context.Context, part statusPart) error {
	decision, reason, err := d.Authorizer.Authorize(ctx, part)
	if decision == authorizer.DecisionAllow { // whatever was wrong besides
		return nil
	}
	if err != nil {
		if reason == "" {
			reason = err.Error()
		} else {
			reason = fmt.Sprintf("%v: %s", err, reason)
		}
	}
	return responsewriters.ForbiddenStatusError(part, reason)
}

// statusPart asks for a part of a status instead of all that a request is about.
type statusPart struct {
	authorizer.Attributes
	verb, subresource, namespace, name string
}

func (p statusPart) GetVerb() string        { return p.verb }
func (p statusPart) GetSubresource() string { return p.subresource }
func (p statusPart) GetNamespace() string   { return p.namespace }
func (p statusPart) GetName() string        { return p.name }

// changedDrivers are those of whose devices something was added, changed or removed.
func changedDrivers(devices, old []resourcev1.AllocatedDeviceStatus) []string {
	before := map[deviceID]resourcev1.AllocatedDeviceStatus{}
	for _, d := range old {
		before[idOf(d)] = d
	}
	drivers := sets.New[string]()
	for _, d := range devices {
		was, ok := before[idOf(d)]
		delete(before, idOf(d))
		if !ok || !equality.Semantic.DeepEqual(was, d) {
			drivers.Insert(d.Driver)
		}
	}
	for id := range before {
		drivers.Insert(id.driver)
	}
	return sets.List(drivers)
}

// nodeOf is the one node that has what is allocated, if there is just one.
func nodeOf(a *resourcev1.AllocationResult) string {
	if a.NodeSelector == nil || len(a.NodeSelector.NodeSelectorTerms) != 1 {
		return ""
	}
	term := a.NodeSelector.NodeSelectorTerms[0]
	if len(term.MatchExpressions) != 0 || len(term.MatchFields) != 1 {
		return ""
	}
	if f := term.MatchFields[0]; f.Key == "metadata.name" && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
		return f.Values[0]
	}
	return ""
}

// runsOn tells whether a user is the service account of a pod on the node.
func runsOn(u user.Info, node string) bool {
	if _, _, err := serviceaccount.SplitUsername(u.GetName()); err != nil {
		return false
	}
	return slices.Equal(u.GetExtra()[serviceaccount.NodeNameKey], []string{node}) && len(validation.NameIsDNSSubdomain(node, false)) == 0
}
