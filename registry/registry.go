// SPDX-License-Identifier: Apache-2.0

// Package registry lists the resources that the API server serves. What one of them is stands in one file
// of its group's folder; what all share is in registry/rest.
package registry

import (
	"github.com/skiff-k8s/skiff/registry/admissionregistration"
	"github.com/skiff-k8s/skiff/registry/apps"
	"github.com/skiff-k8s/skiff/registry/autoscaling"
	"github.com/skiff-k8s/skiff/registry/batch"
	"github.com/skiff-k8s/skiff/registry/certificates"
	"github.com/skiff-k8s/skiff/registry/coordination"
	"github.com/skiff-k8s/skiff/registry/core"
	"github.com/skiff-k8s/skiff/registry/discovery"
	"github.com/skiff-k8s/skiff/registry/flowcontrol"
	"github.com/skiff-k8s/skiff/registry/networking"
	"github.com/skiff-k8s/skiff/registry/node"
	"github.com/skiff-k8s/skiff/registry/policy"
	"github.com/skiff-k8s/skiff/registry/rbac"
	"github.com/skiff-k8s/skiff/registry/resource"
	"github.com/skiff-k8s/skiff/registry/rest"
	"github.com/skiff-k8s/skiff/registry/scheduling"
	"github.com/skiff-k8s/skiff/registry/storage"
	"github.com/skiff-k8s/skiff/registry/storagemigration"
)

// Definition is one entry of the list.
type Definition = rest.Definition

// Deps is what resources need besides their own storage, by group.
type Deps struct {
	Admission admissionregistration.Deps
	Core      core.Deps
	RBAC      rbac.Deps
	Resource  resource.Deps
}

// All is every resource that is stored.
func All(deps Deps) []Definition {
	return []Definition{
		core.Pods(deps.Core),
		core.PodTemplates(),
		core.ReplicationControllers(),
		core.Services(deps.Core),
		core.Endpoints(),
		core.Nodes(deps.Core),
		core.Namespaces(),
		core.ServiceAccounts(deps.Core),
		core.Secrets(),
		core.ConfigMaps(),
		core.Events(deps.Core),
		core.LimitRanges(),
		core.ResourceQuotas(),
		core.PersistentVolumes(),
		core.PersistentVolumeClaims(),

		apps.Deployments(),
		apps.ReplicaSets(),
		apps.StatefulSets(),
		apps.DaemonSets(),
		apps.ControllerRevisions(),

		autoscaling.HorizontalPodAutoscalers(),

		batch.Jobs(),
		batch.CronJobs(),

		certificates.CertificateSigningRequests(),
		certificates.ClusterTrustBundles(),
		certificates.PodCertificateRequests(),

		coordination.Leases(),

		discovery.EndpointSlices(),

		flowcontrol.FlowSchemas(),
		flowcontrol.PriorityLevelConfigurations(),

		networking.Ingresses(),
		networking.IngressClasses(),
		networking.NetworkPolicies(),
		networking.IPAddresses(),
		networking.ServiceCIDRs(),

		node.RuntimeClasses(),

		policy.PodDisruptionBudgets(),

		rbac.Roles(deps.RBAC),
		rbac.RoleBindings(deps.RBAC),
		rbac.ClusterRoles(deps.RBAC),
		rbac.ClusterRoleBindings(deps.RBAC),

		resource.DeviceClasses(),
		resource.ResourceClaims(deps.Resource),
		resource.ResourceClaimTemplates(deps.Resource),
		resource.ResourceSlices(),
		resource.DeviceTaintRules(),

		scheduling.PriorityClasses(),

		storage.StorageClasses(),
		storage.VolumeAttachments(),
		storage.CSIDrivers(),
		storage.CSINodes(),
		storage.CSIStorageCapacities(),
		storage.VolumeAttributesClasses(),

		storagemigration.StorageVersionMigrations(),

		admissionregistration.ValidatingAdmissionPolicies(deps.Admission),
		admissionregistration.ValidatingAdmissionPolicyBindings(deps.Admission),
		admissionregistration.MutatingAdmissionPolicies(deps.Admission),
		admissionregistration.MutatingAdmissionPolicyBindings(deps.Admission),
		admissionregistration.ValidatingWebhookConfigurations(),
		admissionregistration.MutatingWebhookConfigurations(),
	}
}
