// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// What kubectl prints of each kind but pods, in the order and the words of upstream.

func podTemplateColumns() []rest.Column[*corev1.PodTemplate] {
	containers := func(o *corev1.PodTemplate) []corev1.Container { return o.Template.Spec.Containers }
	return []rest.Column[*corev1.PodTemplate]{
		rest.Name[*corev1.PodTemplate](),
		rest.ContainerNames(containers),
		rest.ContainerImages(containers),
		rest.Text("Pod Labels", "The labels for the pod template.", func(o *corev1.PodTemplate) string { return labels.FormatLabels(o.Template.Labels) }),
	}
}

func replicationControllerColumns() []rest.Column[*corev1.ReplicationController] {
	type RC = *corev1.ReplicationController
	spec, status := corev1.ReplicationControllerSpec{}, corev1.ReplicationControllerStatus{}
	containers := func(o RC) []corev1.Container {
		if o.Spec.Template == nil {
			return nil
		}
		return o.Spec.Template.Spec.Containers
	}
	return []rest.Column[RC]{
		rest.Name[RC](),
		rest.Number("Desired", rest.Doc(spec, "replicas"), func(o RC) int32 { return ptr.Deref(o.Spec.Replicas, 0) }),
		rest.Number("Current", rest.Doc(status, "replicas"), func(o RC) int32 { return o.Status.Replicas }),
		rest.Number("Ready", rest.Doc(status, "readyReplicas"), func(o RC) int32 { return o.Status.ReadyReplicas }),
		rest.Age[RC](),
		rest.ContainerNames(containers).OnWide(),
		rest.ContainerImages(containers).OnWide(),
		rest.Text("Selector", rest.Doc(spec, "selector"), func(o RC) string { return labels.FormatLabels(o.Spec.Selector) }).OnWide(),
	}
}

func serviceColumns() []rest.Column[*corev1.Service] {
	type S = *corev1.Service
	spec := corev1.ServiceSpec{}
	return []rest.Column[S]{
		rest.Name[S](),
		rest.Text("Type", rest.Doc(spec, "type"), func(o S) string { return string(o.Spec.Type) }),
		rest.Text("Cluster-IP", rest.Doc(spec, "clusterIP"), func(o S) string {
			if len(o.Spec.ClusterIPs) == 0 {
				return "<none>"
			}
			return o.Spec.ClusterIPs[0]
		}),
		rest.Text("External-IP", rest.Doc(spec, "externalIPs"), externalIPCell),
		rest.Text("Port(s)", rest.Doc(spec, "ports"), servicePortsCell),
		rest.Age[S](),
		rest.Text("Selector", rest.Doc(spec, "selector"), func(o S) string { return labels.FormatLabels(o.Spec.Selector) }).OnWide(),
	}
}

func externalIPCell(o *corev1.Service) string {
	switch o.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return rest.Or(strings.Join(o.Spec.ExternalIPs, ","), "<none>")
	case corev1.ServiceTypeLoadBalancer:
		ips := sets.New[string]()
		for _, in := range o.Status.LoadBalancer.Ingress {
			if ip := rest.Or(in.IP, in.Hostname); ip != "" {
				ips.Insert(ip)
			}
		}
		return rest.Or(strings.Join(append(sets.List(ips), o.Spec.ExternalIPs...), ","), "<pending>")
	case corev1.ServiceTypeExternalName:
		return o.Spec.ExternalName
	}
	return "<unknown>"
}

func servicePortsCell(o *corev1.Service) string {
	var out []string
	for _, p := range o.Spec.Ports {
		port := strconv.Itoa(int(p.Port))
		if p.NodePort > 0 {
			port += ":" + strconv.Itoa(int(p.NodePort))
		}
		out = append(out, port+"/"+string(p.Protocol))
	}
	return rest.Or(strings.Join(out, ","), "<none>")
}

func endpointsColumns() []rest.Column[*corev1.Endpoints] {
	type E = *corev1.Endpoints
	return []rest.Column[E]{
		rest.Name[E](),
		rest.Text("Endpoints", rest.Doc(corev1.Endpoints{}, "subsets"), endpointsCell), //nolint:staticcheck // still served
		rest.Age[E](),
	}
}

func endpointsCell(o *corev1.Endpoints) string {
	if len(o.Subsets) == 0 {
		return "<none>"
	}
	var out []string
	for _, s := range o.Subsets {
		if len(s.Ports) == 0 { // headless, without ports
			for _, a := range s.Addresses {
				out = append(out, a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				out = append(out, net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	return rest.FirstFew(out, 3, len(out))
}

func nodeColumns() []rest.Column[*corev1.Node] {
	type N = *corev1.Node
	info, status := corev1.NodeSystemInfo{}, corev1.NodeStatus{}
	return []rest.Column[N]{
		rest.Name[N](),
		rest.Text("Status", "The status of the node", nodeStatusCell),
		rest.Text("Roles", "The roles of the node", nodeRolesCell),
		rest.Age[N](),
		rest.Text("Version", rest.Doc(info, "kubeletVersion"), func(o N) string { return o.Status.NodeInfo.KubeletVersion }),
		rest.Text("Internal-IP", rest.Doc(status, "addresses"), func(o N) string { return nodeAddressCell(o, corev1.NodeInternalIP) }).OnWide(),
		rest.Text("External-IP", rest.Doc(status, "addresses"), func(o N) string { return nodeAddressCell(o, corev1.NodeExternalIP) }).OnWide(),
		rest.Text("OS-Image", rest.Doc(info, "osImage"), func(o N) string { return rest.Or(o.Status.NodeInfo.OSImage, "<unknown>") }).OnWide(),
		rest.Text("Kernel-Version", rest.Doc(info, "kernelVersion"), func(o N) string {
			kernel := rest.Or(o.Status.NodeInfo.KernelVersion, "<unknown>")
			if arch := o.Status.NodeInfo.Architecture; arch != "" {
				kernel += " (" + arch + ")"
			}
			return kernel
		}).OnWide(),
		rest.Text("Container-Runtime", rest.Doc(info, "containerRuntimeVersion"), func(o N) string {
			return rest.Or(o.Status.NodeInfo.ContainerRuntimeVersion, "<unknown>")
		}).OnWide(),
	}
}

func nodeStatusCell(o *corev1.Node) string {
	status := "Unknown"
	for _, c := range o.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		status = "NotReady"
		if c.Status == corev1.ConditionTrue {
			status = "Ready"
		}
	}
	if o.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func nodeRolesCell(o *corev1.Node) string {
	roles := sets.New[string]()
	for k, v := range o.Labels {
		if role, ok := strings.CutPrefix(k, "node-role.kubernetes.io/"); ok && role != "" {
			roles.Insert(role)
		}
		if k == "kubernetes.io/role" && v != "" {
			roles.Insert(v)
		}
	}
	return rest.Or(strings.Join(sets.List(roles), ","), "<none>")
}

func nodeAddressCell(o *corev1.Node, t corev1.NodeAddressType) string {
	for _, a := range o.Status.Addresses {
		if a.Type == t {
			return a.Address
		}
	}
	return "<none>"
}

func eventColumns() []rest.Column[*corev1.Event] {
	type E = *corev1.Event
	doc := corev1.Event{}
	count := rest.Number("Count", rest.Doc(doc, "count"), func(o E) int32 {
		if o.Series != nil {
			return o.Series.Count
		}
		if o.Count == 0 {
			return 1 // of the newer API, which does not count single events
		}
		return o.Count
	}).OnWide()
	count.Type = "string"
	name := rest.Name[E]().OnWide()
	return []rest.Column[E]{
		rest.Text("Last Seen", rest.Doc(doc, "lastTimestamp"), lastSeenCell),
		rest.Text("Type", rest.Doc(doc, "type"), func(o E) string { return o.Type }),
		rest.Text("Reason", rest.Doc(doc, "reason"), func(o E) string { return o.Reason }),
		rest.Text("Object", rest.Doc(doc, "involvedObject"), func(o E) string {
			kind := strings.ToLower(o.InvolvedObject.Kind)
			if o.InvolvedObject.Name == "" {
				return kind
			}
			return kind + "/" + o.InvolvedObject.Name
		}),
		rest.Text("Subobject", rest.Doc(corev1.ObjectReference{}, "fieldPath"), func(o E) string { return o.InvolvedObject.FieldPath }).OnWide(),
		rest.Text("Source", rest.Doc(doc, "source"), eventSourceCell).OnWide(),
		rest.Text("Message", rest.Doc(doc, "message"), func(o E) string { return strings.TrimSpace(o.Message) }),
		rest.Text("First Seen", rest.Doc(doc, "firstTimestamp"), firstSeenCell).OnWide(),
		count,
		name,
	}
}

func firstSeenCell(o *corev1.Event) string {
	if o.FirstTimestamp.IsZero() {
		return rest.Since(metav1.NewTime(o.EventTime.Time))
	}
	return rest.Since(o.FirstTimestamp)
}

func lastSeenCell(o *corev1.Event) string {
	switch {
	case o.Series != nil:
		return rest.Since(metav1.NewTime(o.Series.LastObservedTime.Time))
	case o.LastTimestamp.IsZero():
		return firstSeenCell(o)
	}
	return rest.Since(o.LastTimestamp)
}

func eventSourceCell(o *corev1.Event) string {
	component := rest.Or(o.Source.Component, o.ReportingController)
	if host := rest.Or(o.Source.Host, o.ReportingInstance); host != "" {
		return component + ", " + host
	}
	return component
}

func namespaceColumns() []rest.Column[*corev1.Namespace] {
	return []rest.Column[*corev1.Namespace]{
		rest.Name[*corev1.Namespace](),
		rest.Text("Status", "The status of the namespace", func(o *corev1.Namespace) string { return string(o.Status.Phase) }),
		rest.Age[*corev1.Namespace](),
	}
}

// countOf is a column whose type says string and whose cells are numbers, as upstream has them.
func countOf[T rest.Object](name, description string, n func(T) int) rest.Column[T] {
	c := rest.Number(name, description, n)
	c.Type = "string"
	return c
}

func secretColumns() []rest.Column[*corev1.Secret] {
	return []rest.Column[*corev1.Secret]{
		rest.Name[*corev1.Secret](),
		rest.Text("Type", rest.Doc(corev1.Secret{}, "type"), func(o *corev1.Secret) string { return string(o.Type) }),
		countOf("Data", rest.Doc(corev1.Secret{}, "data"), func(o *corev1.Secret) int { return len(o.Data) }),
		rest.Age[*corev1.Secret](),
	}
}

func configMapColumns() []rest.Column[*corev1.ConfigMap] {
	return []rest.Column[*corev1.ConfigMap]{
		rest.Name[*corev1.ConfigMap](),
		countOf("Data", rest.Doc(corev1.ConfigMap{}, "data"), func(o *corev1.ConfigMap) int { return len(o.Data) + len(o.BinaryData) }),
		rest.Age[*corev1.ConfigMap](),
	}
}

func persistentVolumeColumns() []rest.Column[*corev1.PersistentVolume] {
	type PV = *corev1.PersistentVolume
	spec, status := corev1.PersistentVolumeSpec{}, corev1.PersistentVolumeStatus{}
	return []rest.Column[PV]{
		rest.Name[PV](),
		rest.Text("Capacity", rest.Doc(spec, "capacity"), func(o PV) string { return o.Spec.Capacity.Storage().String() }),
		rest.Text("Access Modes", rest.Doc(spec, "accessModes"), func(o PV) string { return accessModesCell(o.Spec.AccessModes) }),
		rest.Text("Reclaim Policy", rest.Doc(spec, "persistentVolumeReclaimPolicy"), func(o PV) string { return string(o.Spec.PersistentVolumeReclaimPolicy) }),
		rest.Text("Status", rest.Doc(status, "phase"), func(o PV) string { return phaseCell(o, string(o.Status.Phase)) }),
		rest.Text("Claim", rest.Doc(spec, "claimRef"), func(o PV) string {
			if o.Spec.ClaimRef == nil {
				return ""
			}
			return o.Spec.ClaimRef.Namespace + "/" + o.Spec.ClaimRef.Name
		}),
		rest.Text("StorageClass", "StorageClass of the pv", func(o PV) string { return storageClassCell(o, o.Spec.StorageClassName) }),
		rest.Text("VolumeAttributesClass", "VolumeAttributesClass of the pv", func(o PV) string { return ptr.Deref(o.Spec.VolumeAttributesClassName, "<unset>") }),
		rest.Text("Reason", rest.Doc(status, "reason"), func(o PV) string { return o.Status.Reason }),
		rest.Age[PV](),
		rest.Text("VolumeMode", rest.Doc(spec, "volumeMode"), func(o PV) string { return string(ptr.Deref(o.Spec.VolumeMode, "<unset>")) }).OnWide(),
	}
}

func persistentVolumeClaimColumns() []rest.Column[*corev1.PersistentVolumeClaim] {
	type PVC = *corev1.PersistentVolumeClaim
	spec, status := corev1.PersistentVolumeClaimSpec{}, corev1.PersistentVolumeClaimStatus{}
	bound := func(value func(PVC) string) func(PVC) string { // the status speaks of the volume
		return func(o PVC) string {
			if o.Spec.VolumeName == "" {
				return ""
			}
			return value(o)
		}
	}
	return []rest.Column[PVC]{
		rest.Name[PVC](),
		rest.Text("Status", rest.Doc(status, "phase"), func(o PVC) string { return phaseCell(o, string(o.Status.Phase)) }),
		rest.Text("Volume", rest.Doc(spec, "volumeName"), func(o PVC) string { return o.Spec.VolumeName }),
		rest.Text("Capacity", rest.Doc(status, "capacity"), bound(func(o PVC) string { return o.Status.Capacity.Storage().String() })),
		rest.Text("Access Modes", rest.Doc(status, "accessModes"), bound(func(o PVC) string { return accessModesCell(o.Status.AccessModes) })),
		rest.Text("StorageClass", "StorageClass of the pvc", func(o PVC) string { return storageClassCell(o, ptr.Deref(o.Spec.StorageClassName, "")) }),
		rest.Text("VolumeAttributesClass", "VolumeAttributesClass of the pvc", func(o PVC) string { return ptr.Deref(o.Spec.VolumeAttributesClassName, "<unset>") }),
		rest.Age[PVC](),
		rest.Text("VolumeMode", rest.Doc(spec, "volumeMode"), func(o PVC) string { return string(ptr.Deref(o.Spec.VolumeMode, "<unset>")) }).OnWide(),
	}
}

func phaseCell(o metav1.Object, phase string) string {
	if o.GetDeletionTimestamp() != nil {
		return "Terminating"
	}
	return phase
}

func storageClassCell(o metav1.Object, class string) string {
	if old, ok := o.GetAnnotations()[corev1.BetaStorageClassAnnotation]; ok {
		return old
	}
	return class
}

func accessModesCell(modes []corev1.PersistentVolumeAccessMode) string {
	var out []string
	for _, m := range []struct {
		mode corev1.PersistentVolumeAccessMode
		text string
	}{
		{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"},
	} {
		if slices.Contains(modes, m.mode) {
			out = append(out, m.text)
		}
	}
	return strings.Join(out, ",")
}

func resourceQuotaColumns() []rest.Column[*corev1.ResourceQuota] {
	type Q = *corev1.ResourceQuota
	return []rest.Column[Q]{
		rest.Name[Q](),
		rest.Text("Request", "Request represents a minimum amount of cpu/memory that a container may consume.", func(o Q) string { return quotaCell(o, false) }),
		rest.Text("Limit", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.", func(o Q) string { return quotaCell(o, true) }),
		rest.Age[Q](),
	}
}

// quotaCell lists what is used of what, for limits or for all else.
func quotaCell(o *corev1.ResourceQuota, limits bool) string {
	var out []string
	for name, hard := range o.Status.Hard {
		if strings.HasPrefix(string(name), "limits.") == limits {
			used := o.Status.Used[name]
			out = append(out, fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String()))
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
