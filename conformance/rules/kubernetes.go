// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/admissionregistration"
	_ "k8s.io/kubernetes/pkg/apis/admissionregistration/install"
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/storagemigration/install"
	"k8s.io/kubernetes/pkg/capabilities"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
	printerstorage "k8s.io/kubernetes/pkg/printers/storage"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicy"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicybinding"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingwebhookconfiguration"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicy"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicybinding"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingwebhookconfiguration"
	"k8s.io/kubernetes/pkg/registry/apps/controllerrevision"
	"k8s.io/kubernetes/pkg/registry/apps/daemonset"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/batch/cronjob"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	"k8s.io/kubernetes/pkg/registry/certificates/certificates"
	"k8s.io/kubernetes/pkg/registry/certificates/clustertrustbundle"
	"k8s.io/kubernetes/pkg/registry/certificates/podcertificaterequest"
	"k8s.io/kubernetes/pkg/registry/coordination/lease"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/endpoint"
	"k8s.io/kubernetes/pkg/registry/core/event"
	"k8s.io/kubernetes/pkg/registry/core/limitrange"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/core/node"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolume"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/kubernetes/pkg/registry/core/podtemplate"
	"k8s.io/kubernetes/pkg/registry/core/replicationcontroller"
	"k8s.io/kubernetes/pkg/registry/core/resourcequota"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/kubernetes/pkg/registry/core/serviceaccount"
	"k8s.io/kubernetes/pkg/registry/discovery/endpointslice"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/flowschema"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/prioritylevelconfiguration"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/ingressclass"
	"k8s.io/kubernetes/pkg/registry/networking/ipaddress"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/networking/servicecidr"
	"k8s.io/kubernetes/pkg/registry/node/runtimeclass"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"
	"k8s.io/kubernetes/pkg/registry/resource/deviceclass"
	"k8s.io/kubernetes/pkg/registry/resource/devicetaintrule"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaim"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaimtemplate"
	"k8s.io/kubernetes/pkg/registry/resource/resourceslice"
	"k8s.io/kubernetes/pkg/registry/scheduling/priorityclass"
	"k8s.io/kubernetes/pkg/registry/storage/csidriver"
	"k8s.io/kubernetes/pkg/registry/storage/csinode"
	"k8s.io/kubernetes/pkg/registry/storage/csistoragecapacity"
	"k8s.io/kubernetes/pkg/registry/storage/storageclass"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattachment"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattributesclass"
	"k8s.io/kubernetes/pkg/registry/storagemigration/storagemigration"
	"k8s.io/utils/clock"
)

// newKubernetes makes the rules of k8s.io/kubernetes, in the version that go.mod names.
func newKubernetes() *api {
	key := func(group, kind string) schema.GroupKind { return schema.GroupKind{Group: group, Kind: kind} }
	capabilities.Setup(true, 0) // as every installer of clusters has it
	allow := authorizerfactory.NewAlwaysAllowAuthorizer()
	var plural resources
	validating := validatingadmissionpolicy.NewStrategy(allow, plural)
	mutating := mutatingadmissionpolicy.NewStrategy(allow, plural)
	validatingBinding := validatingadmissionpolicybinding.NewStrategy(allow, policies{}, plural)
	mutatingBinding := mutatingadmissionpolicybinding.NewStrategy(allow, policies{}, plural)
	certificate := podcertificaterequest.NewStrategy()
	claim := resourceclaim.NewStrategy(namespaces{}, allow)
	claimTemplate := resourceclaimtemplate.NewStrategy(namespaces{})
	kinds := map[schema.GroupKind]kind{
		key("", "Pod"):                                          {create: pod.Strategy, update: pod.Strategy, status: pod.StatusStrategy, parts: map[string]genericrest.RESTUpdateStrategy{"ephemeralcontainers": pod.EphemeralContainersStrategy, "resize": pod.ResizeStrategy}},
		key("", "PodTemplate"):                                  {create: podtemplate.Strategy, update: podtemplate.Strategy, status: nil},
		key("", "ReplicationController"):                        {create: replicationcontroller.Strategy, update: replicationcontroller.Strategy, status: replicationcontroller.StatusStrategy},
		key("", "Service"):                                      {create: service.Strategy, update: service.Strategy, status: service.StatusStrategy},
		key("", "Endpoints"):                                    {create: endpoint.Strategy, update: endpoint.Strategy, status: nil},
		key("", "Node"):                                         {create: node.Strategy, update: node.Strategy, status: node.StatusStrategy},
		key("", "Namespace"):                                    {create: namespace.Strategy, update: namespace.Strategy, status: namespace.StatusStrategy},
		key("", "ServiceAccount"):                               {create: serviceaccount.Strategy, update: serviceaccount.Strategy, status: nil},
		key("", "Secret"):                                       {create: secret.Strategy, update: secret.Strategy, status: nil},
		key("", "ConfigMap"):                                    {create: configmap.Strategy, update: configmap.Strategy, status: nil},
		key("", "Event"):                                        {create: event.Strategy, update: event.Strategy, status: nil},
		key("", "LimitRange"):                                   {create: limitrange.Strategy, update: limitrange.Strategy, status: nil},
		key("", "ResourceQuota"):                                {create: resourcequota.Strategy, update: resourcequota.Strategy, status: resourcequota.StatusStrategy},
		key("", "PersistentVolume"):                             {create: persistentvolume.Strategy, update: persistentvolume.Strategy, status: persistentvolume.StatusStrategy},
		key("", "PersistentVolumeClaim"):                        {create: persistentvolumeclaim.Strategy, update: persistentvolumeclaim.Strategy, status: persistentvolumeclaim.StatusStrategy},
		key("apps", "Deployment"):                               {create: deployment.Strategy, update: deployment.Strategy, status: deployment.StatusStrategy},
		key("apps", "ReplicaSet"):                               {create: replicaset.Strategy, update: replicaset.Strategy, status: replicaset.StatusStrategy},
		key("apps", "StatefulSet"):                              {create: statefulset.Strategy, update: statefulset.Strategy, status: statefulset.StatusStrategy},
		key("apps", "DaemonSet"):                                {create: daemonset.Strategy, update: daemonset.Strategy, status: daemonset.StatusStrategy},
		key("apps", "ControllerRevision"):                       {create: controllerrevision.Strategy, update: controllerrevision.Strategy, status: nil},
		key("autoscaling", "HorizontalPodAutoscaler"):           {create: horizontalpodautoscaler.Strategy, update: horizontalpodautoscaler.Strategy, status: horizontalpodautoscaler.StatusStrategy},
		key("batch", "Job"):                                     {create: job.Strategy, update: job.Strategy, status: job.StatusStrategy},
		key("batch", "CronJob"):                                 {create: cronjob.Strategy, update: cronjob.Strategy, status: cronjob.StatusStrategy},
		key("certificates.k8s.io", "CertificateSigningRequest"): {create: certificates.Strategy, update: certificates.Strategy, status: certificates.StatusStrategy, parts: map[string]genericrest.RESTUpdateStrategy{"approval": certificates.ApprovalStrategy}},
		key("certificates.k8s.io", "ClusterTrustBundle"):        {create: clustertrustbundle.Strategy, update: clustertrustbundle.Strategy, status: nil},
		key("coordination.k8s.io", "Lease"):                     {create: lease.Strategy, update: lease.Strategy, status: nil},
		key("discovery.k8s.io", "EndpointSlice"):                {create: endpointslice.Strategy, update: endpointslice.Strategy, status: nil},
		key("flowcontrol.apiserver.k8s.io", "FlowSchema"):       {create: flowschema.Strategy, update: flowschema.Strategy, status: flowschema.StatusStrategy},
		key("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"):     {create: prioritylevelconfiguration.Strategy, update: prioritylevelconfiguration.Strategy, status: prioritylevelconfiguration.StatusStrategy},
		key("networking.k8s.io", "Ingress"):                                   {create: ingress.Strategy, update: ingress.Strategy, status: ingress.StatusStrategy},
		key("networking.k8s.io", "IngressClass"):                              {create: ingressclass.Strategy, update: ingressclass.Strategy, status: nil},
		key("networking.k8s.io", "NetworkPolicy"):                             {create: networkpolicy.Strategy, update: networkpolicy.Strategy, status: nil},
		key("networking.k8s.io", "IPAddress"):                                 {create: ipaddress.Strategy, update: ipaddress.Strategy, status: nil},
		key("networking.k8s.io", "ServiceCIDR"):                               {create: servicecidr.Strategy, update: servicecidr.Strategy, status: servicecidr.StatusStrategy},
		key("node.k8s.io", "RuntimeClass"):                                    {create: runtimeclass.Strategy, update: runtimeclass.Strategy, status: nil},
		key("policy", "PodDisruptionBudget"):                                  {create: poddisruptionbudget.Strategy, update: poddisruptionbudget.Strategy, status: poddisruptionbudget.StatusStrategy},
		key("rbac.authorization.k8s.io", "Role"):                              {create: role.Strategy, update: role.Strategy, status: nil},
		key("rbac.authorization.k8s.io", "RoleBinding"):                       {create: rolebinding.Strategy, update: rolebinding.Strategy, status: nil},
		key("rbac.authorization.k8s.io", "ClusterRole"):                       {create: clusterrole.Strategy, update: clusterrole.Strategy, status: nil},
		key("rbac.authorization.k8s.io", "ClusterRoleBinding"):                {create: clusterrolebinding.Strategy, update: clusterrolebinding.Strategy, status: nil},
		key("resource.k8s.io", "DeviceClass"):                                 {create: deviceclass.Strategy, update: deviceclass.Strategy, status: nil},
		key("resource.k8s.io", "ResourceSlice"):                               {create: resourceslice.Strategy, update: resourceslice.Strategy, status: nil},
		key("resource.k8s.io", "DeviceTaintRule"):                             {create: devicetaintrule.Strategy, update: devicetaintrule.Strategy, status: devicetaintrule.StatusStrategy},
		key("scheduling.k8s.io", "PriorityClass"):                             {create: priorityclass.Strategy, update: priorityclass.Strategy, status: nil},
		key("storage.k8s.io", "StorageClass"):                                 {create: storageclass.Strategy, update: storageclass.Strategy, status: nil},
		key("storage.k8s.io", "VolumeAttachment"):                             {create: volumeattachment.Strategy, update: volumeattachment.Strategy, status: volumeattachment.StatusStrategy},
		key("storage.k8s.io", "CSIDriver"):                                    {create: csidriver.Strategy, update: csidriver.Strategy, status: nil},
		key("storage.k8s.io", "CSINode"):                                      {create: csinode.Strategy, update: csinode.Strategy, status: csinode.StatusStrategy},
		key("storage.k8s.io", "CSIStorageCapacity"):                           {create: csistoragecapacity.Strategy, update: csistoragecapacity.Strategy, status: nil},
		key("storage.k8s.io", "VolumeAttributesClass"):                        {create: volumeattributesclass.Strategy, update: volumeattributesclass.Strategy, status: nil},
		key("storagemigration.k8s.io", "StorageVersionMigration"):             {create: storagemigration.Strategy, update: storagemigration.Strategy, status: storagemigration.StatusStrategy},
		key("admissionregistration.k8s.io", "MutatingWebhookConfiguration"):   {create: mutatingwebhookconfiguration.Strategy, update: mutatingwebhookconfiguration.Strategy, status: nil},
		key("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): {create: validatingwebhookconfiguration.Strategy, update: validatingwebhookconfiguration.Strategy, status: nil},

		key("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"): {
			create: validating, update: validating, status: validatingadmissionpolicy.NewStatusStrategy(validating),
		},
		key("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding"): {create: validatingBinding, update: validatingBinding},
		key("admissionregistration.k8s.io", "MutatingAdmissionPolicy"):          {create: mutating, update: mutating},
		key("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding"):   {create: mutatingBinding, update: mutatingBinding},
		key("certificates.k8s.io", "PodCertificateRequest"): {
			create: certificate, update: certificate, status: podcertificaterequest.NewStatusStrategy(certificate, allow, clock.RealClock{}),
		},
		key("resource.k8s.io", "ResourceClaim"):         {create: claim, update: claim, status: resourceclaim.NewStatusStrategy(claim)},
		key("resource.k8s.io", "ResourceClaimTemplate"): {create: claimTemplate, update: claimTemplate},
	}
	kinds[key("events.k8s.io", "Event")] = kinds[key("", "Event")]
	generator := printers.NewTableGenerator().With(printersinternal.AddHandlers)
	for gk, k := range kinds {
		k.table = printerstorage.TableConvertor{TableGenerator: generator}
		switch gk.Kind {
		case "CSIStorageCapacity", "Role", "ClusterRole", "LimitRange":
			k.table = genericrest.NewDefaultTableConvertor(schema.GroupResource{Group: gk.Group})
		}
		kinds[gk] = k
	}
	return &api{scheme: legacyscheme.Scheme, convertor: legacyscheme.Scheme, kinds: kinds}
}

// resources are named after their kinds.
type resources struct{}

func (resources) Resolve(gvk schema.GroupVersionKind) (schema.GroupVersionResource, error) {
	return gvk.GroupVersion().WithResource(strings.ToLower(gvk.Kind) + "s"), nil
}

// policies says that every policy is there, with ConfigMaps for parameters.
type policies struct{}

var parameters = admissionregistration.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}

func (policies) GetValidatingAdmissionPolicy(context.Context, string) (*admissionregistration.ValidatingAdmissionPolicy, error) {
	return &admissionregistration.ValidatingAdmissionPolicy{Spec: admissionregistration.ValidatingAdmissionPolicySpec{ParamKind: &parameters}}, nil
}

func (policies) GetMutatingAdmissionPolicy(context.Context, string) (*admissionregistration.MutatingAdmissionPolicy, error) {
	return &admissionregistration.MutatingAdmissionPolicy{Spec: admissionregistration.MutatingAdmissionPolicySpec{ParamKind: &parameters}}, nil
}

// namespaces says that every namespace is there, without labels.
type namespaces struct {
	corev1client.NamespaceInterface
}

func (n namespaces) Namespaces() corev1client.NamespaceInterface { return n }

func (namespaces) Get(_ context.Context, name string, _ metav1.GetOptions) (*corev1.Namespace, error) {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil
}
