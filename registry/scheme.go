// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/registry/autoscaling"
	"github.com/skiff-k8s/skiff/registry/core"
	"github.com/skiff-k8s/skiff/registry/events"
	"github.com/skiff-k8s/skiff/registry/metrics"
)

// hubs are the versions whose Go types are both served and held in memory.
var hubs = []struct {
	gv    schema.GroupVersion
	types func(*runtime.Scheme) error
}{
	{corev1.SchemeGroupVersion, corev1.AddToScheme},
	{admissionregistrationv1.SchemeGroupVersion, admissionregistrationv1.AddToScheme},
	{appsv1.SchemeGroupVersion, appsv1.AddToScheme},
	{authenticationv1.SchemeGroupVersion, authenticationv1.AddToScheme},
	{authorizationv1.SchemeGroupVersion, authorizationv1.AddToScheme},
	{autoscalingv2.SchemeGroupVersion, autoscalingv2.AddToScheme},
	{batchv1.SchemeGroupVersion, batchv1.AddToScheme},
	{certificatesv1.SchemeGroupVersion, certificatesv1.AddToScheme},
	{coordinationv1.SchemeGroupVersion, coordinationv1.AddToScheme},
	{discoveryv1.SchemeGroupVersion, discoveryv1.AddToScheme},
	{flowcontrolv1.SchemeGroupVersion, flowcontrolv1.AddToScheme},
	{networkingv1.SchemeGroupVersion, networkingv1.AddToScheme},
	{nodev1.SchemeGroupVersion, nodev1.AddToScheme},
	{policyv1.SchemeGroupVersion, policyv1.AddToScheme},
	{rbacv1.SchemeGroupVersion, rbacv1.AddToScheme},
	{resourcev1.SchemeGroupVersion, resourcev1.AddToScheme},
	{schedulingv1.SchemeGroupVersion, schedulingv1.AddToScheme},
	{storagev1.SchemeGroupVersion, storagev1.AddToScheme},
	{storagemigrationv1.SchemeGroupVersion, storagemigrationv1.AddToScheme},
}

// NewScheme knows every type that is served: the hub types under their own version and, the same Go types,
// as the internal version; besides them the second versions of Event and HorizontalPodAutoscaler, with
// their conversions; and the defaults and selectable fields of definitions.
func NewScheme(definitions []Definition) (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	scheme.AddUnversionedTypes(schema.GroupVersion{Version: "v1"}, &metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	if err := internalversion.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("build the scheme: %w", err)
	}
	for _, hub := range hubs {
		if err := hub.types(scheme); err != nil {
			return nil, fmt.Errorf("add %s to the scheme: %w", hub.gv, err)
		}
		addInternal(scheme, hub.gv)
		if err := scheme.SetVersionPriority(hub.gv); err != nil {
			return nil, fmt.Errorf("add %s to the scheme: %w", hub.gv, err)
		}
	}
	for _, add := range []func(*runtime.Scheme) error{autoscaling.AddVersion1, events.AddToScheme, core.AddOptions, metrics.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("build the scheme: %w", err)
		}
	}
	if err := scheme.SetVersionPriority(autoscalingv2.SchemeGroupVersion, autoscalingv1.SchemeGroupVersion); err != nil {
		return nil, fmt.Errorf("order the versions of autoscaling: %w", err)
	}
	if err := scheme.SetVersionPriority(eventsv1.SchemeGroupVersion); err != nil {
		return nil, fmt.Errorf("add events to the scheme: %w", err)
	}
	for _, d := range definitions {
		if err := d.Register(scheme); err != nil {
			return nil, err
		}
	}
	return scheme, nil
}

// addInternal registers the types of gv as the internal version too.
func addInternal(scheme *runtime.Scheme, gv schema.GroupVersion) {
	internal := schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}
	meta := runtime.NewScheme()
	metav1.AddToGroupVersion(meta, gv)
	for kind, t := range scheme.KnownTypes(gv) {
		if meta.Recognizes(gv.WithKind(kind)) {
			continue // list, get, delete options and the like belong to no group
		}
		obj, err := scheme.New(gv.WithKind(kind))
		if err != nil {
			panic(fmt.Sprintf("scheme lists %s %v and cannot make it: %v", kind, t, err))
		}
		scheme.AddKnownTypeWithName(internal.WithKind(kind), obj)
	}
	scheme.AddKnownTypeWithName(internal.WithKind(metav1.WatchEventKind), &metav1.InternalEvent{})
}
