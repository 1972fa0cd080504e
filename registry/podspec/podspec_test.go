// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// newPod returns a valid Pod with the defaults of a new one, changed by edits before the defaults are set.
func newPod(edits ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "nginx:1.29"}}},
	}
	for _, edit := range edits {
		edit(pod)
	}
	DefaultPod(pod)
	return pod
}

// wantErrors compares errors with lines of the form "path: type: detail", where the detail is only looked
// for if it is given.
func wantErrors(t *testing.T, got field.ErrorList, want ...string) {
	t.Helper()
	unmatched := slices.Clone(got)
	for _, line := range want {
		i := slices.IndexFunc(unmatched, func(e *field.Error) bool {
			return strings.HasPrefix(fmt.Sprintf("%s: %s: %s", e.Field, e.Type, e.Detail), line)
		})
		if i < 0 {
			t.Errorf("no error %q in %v", line, got)
			continue
		}
		unmatched = slices.Delete(unmatched, i, i+1)
	}
	for _, err := range unmatched {
		t.Errorf("unexpected error: %v", err)
	}
}

func TestDefaultPod(t *testing.T) {
	pod := newPod(func(pod *corev1.Pod) {
		pod.Spec.HostNetwork = true
		pod.Spec.DeprecatedServiceAccount = "robot"
		pod.Spec.Volumes = []corev1.Volume{
			{Name: "none"},
			{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv"}}},
			{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
				{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "ns", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
			}}}},
		}
		c := &pod.Spec.Containers[0]
		c.Ports = []corev1.ContainerPort{{ContainerPort: 80}}
		c.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}
		c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(80)}}}
		pod.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "busybox"}}
		pod.Status.PodIP = "10.42.0.7"
	})
	spec := &pod.Spec
	app := spec.Containers[0]
	probe := app.ReadinessProbe
	limit := app.Resources.Requests[corev1.ResourceMemory]
	for name, ok := range map[string]bool{
		"restartPolicy":                 spec.RestartPolicy == corev1.RestartPolicyAlways,
		"dnsPolicy":                     spec.DNSPolicy == corev1.DNSClusterFirst,
		"schedulerName":                 spec.SchedulerName == "default-scheduler",
		"terminationGracePeriodSeconds": *spec.TerminationGracePeriodSeconds == 30,
		"enableServiceLinks":            *spec.EnableServiceLinks,
		"securityContext":               spec.SecurityContext != nil,
		"serviceAccountName":            spec.ServiceAccountName == "robot",
		"emptyDir":                      spec.Volumes[0].EmptyDir != nil,
		"hostPath.type":                 *spec.Volumes[1].HostPath.Type == corev1.HostPathUnset,
		"projected.defaultMode":         *spec.Volumes[2].Projected.DefaultMode == 0o644,
		"token.expirationSeconds":       *spec.Volumes[2].Projected.Sources[0].ServiceAccountToken.ExpirationSeconds == 3600,
		"fieldRef.apiVersion":           spec.Volumes[2].Projected.Sources[1].DownwardAPI.Items[0].FieldRef.APIVersion == "v1",
		"imagePullPolicy of a tag":      app.ImagePullPolicy == corev1.PullIfNotPresent,
		"imagePullPolicy without a tag": spec.InitContainers[0].ImagePullPolicy == corev1.PullAlways,
		"terminationMessagePath":        app.TerminationMessagePath == "/dev/termination-log",
		"terminationMessagePolicy":      app.TerminationMessagePolicy == corev1.TerminationMessageReadFile,
		"protocol":                      app.Ports[0].Protocol == corev1.ProtocolTCP,
		"hostPort":                      app.Ports[0].HostPort == 80,
		"requests":                      limit.String() == "1Gi",
		"probe":                         probe.TimeoutSeconds == 1 && probe.PeriodSeconds == 10 && probe.SuccessThreshold == 1 && probe.FailureThreshold == 3,
		"httpGet":                       probe.HTTPGet.Path == "/" && probe.HTTPGet.Scheme == corev1.URISchemeHTTP,
		"podIPs":                        len(pod.Status.PodIPs) == 1 && pod.Status.PodIPs[0].IP == "10.42.0.7",
	} {
		if !ok {
			t.Errorf("%s has not its default", name)
		}
	}
	wantErrors(t, ValidatePod(pod, OptionsForPod(nil)))
}

func TestPullPolicy(t *testing.T) {
	const digest = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for image, want := range map[string]corev1.PullPolicy{
		"nginx":                 corev1.PullAlways,
		"nginx:latest":          corev1.PullAlways,
		"nginx:1.29":            corev1.PullIfNotPresent,
		"registry:5000/nginx":   corev1.PullAlways,
		"nginx" + digest:        corev1.PullIfNotPresent,
		"nginx:latest" + digest: corev1.PullAlways,
		"no image":              corev1.PullIfNotPresent,
	} {
		if got := pullPolicyFor(image); got != want {
			t.Errorf("pull policy of %s is %s, want %s", image, got, want)
		}
	}
}

// A template does not get what only pods get: host ports, requests from limits, service links.
func TestDefaultTemplate(t *testing.T) {
	template := &corev1.PodTemplateSpec{Spec: corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{
		Name: "app", Image: "nginx", Ports: []corev1.ContainerPort{{ContainerPort: 80}},
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
	}}}}
	DefaultTemplate(template)
	c := template.Spec.Containers[0]
	if c.Ports[0].HostPort != 0 || c.Resources.Requests != nil || template.Spec.EnableServiceLinks != nil {
		t.Errorf("template got defaults of a Pod: %+v", template.Spec)
	}
	if c.Ports[0].Protocol != corev1.ProtocolTCP || template.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		t.Errorf("template has no defaults: %+v", template.Spec)
	}
}

func TestDefaultPodLevelResources(t *testing.T) {
	list := func(cpu string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
	pod := newPod(func(pod *corev1.Pod) {
		pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list("500m"), Limits: list("1")}
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "b", Image: "b:1", Resources: corev1.ResourceRequirements{Limits: list("2")}})
		pod.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}}
	})
	DefaultPodLevelResources(pod)
	request, limit := pod.Spec.Resources.Requests[corev1.ResourceCPU], pod.Spec.Resources.Limits[corev1.ResourceCPU]
	if request.String() != "2500m" || limit.String() != "3" {
		t.Errorf("pod requests %s and is limited to %s CPUs, want 2500m and 3", request.String(), limit.String())
	}
	wantErrors(t, ValidatePod(pod, OptionsForPod(nil)))
}

func TestValidatePod(t *testing.T) {
	spec := func(edit func(*corev1.PodSpec)) func(*corev1.Pod) {
		return func(pod *corev1.Pod) { edit(&pod.Spec) }
	}
	container := func(edit func(*corev1.Container)) func(*corev1.Pod) {
		return func(pod *corev1.Pod) { edit(&pod.Spec.Containers[0]) }
	}
	volume := func(source corev1.VolumeSource) func(*corev1.Pod) {
		return spec(func(s *corev1.PodSpec) { s.Volumes = []corev1.Volume{{Name: "v", VolumeSource: source}} })
	}
	resources := func(requests, limits map[corev1.ResourceName]string) func(*corev1.Pod) {
		parse := func(in map[corev1.ResourceName]string) corev1.ResourceList {
			out := corev1.ResourceList{}
			for name, q := range in {
				out[name] = resource.MustParse(q)
			}
			return out
		}
		return container(func(c *corev1.Container) {
			c.Resources = corev1.ResourceRequirements{Requests: parse(requests), Limits: parse(limits)}
		})
	}
	for _, test := range []struct {
		name string
		edit func(*corev1.Pod)
		want []string
	}{
		{"minimal", func(*corev1.Pod) {}, nil},
		{"no containers", spec(func(s *corev1.PodSpec) { s.Containers = nil }), []string{"spec.containers: Required value"}},
		{"container names", spec(func(s *corev1.PodSpec) {
			s.Containers = append(s.Containers, corev1.Container{Name: "app", Image: "x:1"}, corev1.Container{Name: "Bad", Image: "x:1"})
			s.InitContainers = []corev1.Container{{Name: "app", Image: "x:1"}}
		}), []string{
			"spec.containers[1].name: Duplicate value",
			"spec.containers[2].name: Invalid value: a lowercase RFC 1123 label must consist of",
			"spec.initContainers[0].name: Duplicate value",
		}},
		{"image", spec(func(s *corev1.PodSpec) {
			s.Containers[0].Image = ""
			s.InitContainers = []corev1.Container{{Name: "init", Image: " x:1"}}
		}), []string{
			"spec.containers[0].image: Required value",
			"spec.initContainers[0].image: Invalid value: must not have leading or trailing whitespace",
		}},
		{"policies", spec(func(s *corev1.PodSpec) {
			s.RestartPolicy, s.DNSPolicy = "Sometimes", "Never"
			s.Containers[0].ImagePullPolicy, s.Containers[0].TerminationMessagePolicy = "Maybe", "Loud"
			s.PreemptionPolicy = ptr.To(corev1.PreemptionPolicy("Often"))
		}), []string{
			`spec.restartPolicy: Unsupported value: supported values: "Always", "OnFailure", "Never"`,
			`spec.dnsPolicy: Unsupported value: supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"`,
			`spec.containers[0].imagePullPolicy: Unsupported value: supported values: "Always", "IfNotPresent", "Never"`,
			`spec.containers[0].terminationMessagePolicy: Unsupported value: supported values: "File", "FallbackToLogsOnError"`,
			`spec.preemptionPolicy: Unsupported value: supported values: "PreemptLowerPriority", "Never"`,
		}},
		{"ports", container(func(c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{
				{Name: "a", ContainerPort: 80, HostPort: 80}, {Name: "a", ContainerPort: 70000}, {Protocol: "ICMP"},
				{ContainerPort: 81, HostPort: 80},
			}
		}), []string{
			"spec.containers[0].ports[1].name: Duplicate value",
			"spec.containers[0].ports[1].containerPort: Invalid value: must be between 1 and 65535, inclusive",
			"spec.containers[0].ports[2].containerPort: Required value",
			`spec.containers[0].ports[2].protocol: Unsupported value: supported values: "SCTP", "TCP", "UDP"`,
			"spec.containers[0].ports[3].hostPort: Duplicate value",
		}},
		{"host network", spec(func(s *corev1.PodSpec) {
			s.HostNetwork = true
			s.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 81}}
		}), []string{"spec.containers[0].ports[0].hostPort: Invalid value: must match `containerPort` when `hostNetwork` is true"}},
		{"env", container(func(c *corev1.Container) {
			c.Env = []corev1.EnvVar{
				{Name: ""}, {Name: "a=b"}, {Name: "none", ValueFrom: &corev1.EnvVarSource{}},
				{Name: "both", Value: "x", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
				{Name: "field", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.phase"}}},
				{Name: "path", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.color"}}},
				{Name: "label", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['app']"}}},
				{Name: "divisor", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu", Divisor: resource.MustParse("10")}}},
				{Name: "key", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "S"}}}},
			}
			c.EnvFrom = []corev1.EnvFromSource{{}}
		}), []string{
			"spec.containers[0].env[0].name: Required value",
			"spec.containers[0].env[1].name: Invalid value: a valid environment variable name must consist only of printable ASCII characters other than '='",
			"spec.containers[0].env[2].valueFrom: Invalid value: must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
			"spec.containers[0].env[3].valueFrom: Invalid value: may not be specified when `value` is not empty",
			`spec.containers[0].env[4].valueFrom.fieldRef.fieldPath: Unsupported value: supported values: "metadata.name", "metadata.namespace"`,
			"spec.containers[0].env[5].valueFrom.fieldRef.fieldPath: Invalid value: error converting fieldPath: field label not supported: metadata.color",
			"spec.containers[0].env[7].valueFrom.resourceFieldRef.divisor: Invalid value: only divisor's values 1m and 1 are supported with the cpu resource",
			"spec.containers[0].env[8].valueFrom.secretKeyRef.name: Invalid value",
			"spec.containers[0].env[8].valueFrom.secretKeyRef.key: Required value",
			"spec.containers[0].envFrom: Invalid value: must specify one of: `configMapRef` or `secretRef`",
		}},
		{"mounts", func(pod *corev1.Pod) {
			pod.Spec.Volumes = []corev1.Volume{{Name: "v"}}
			pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
				{Name: "v", MountPath: "/a"}, {Name: "v", MountPath: "/a"}, {Name: "other", MountPath: "/b"}, {Name: "v"},
				{Name: "v", MountPath: "/c", SubPath: "../x", MountPropagation: ptr.To(corev1.MountPropagationBidirectional)},
				{Name: "v", MountPath: "/d", RecursiveReadOnly: ptr.To(corev1.RecursiveReadOnlyEnabled)},
			}
			pod.Spec.Containers[0].VolumeDevices = []corev1.VolumeDevice{{Name: "v", DevicePath: "/dev/x"}}
		}, []string{
			"spec.containers[0].volumeMounts[1].mountPath: Invalid value: must be unique",
			"spec.containers[0].volumeMounts[2].name: Not found",
			"spec.containers[0].volumeMounts[3].mountPath: Required value",
			"spec.containers[0].volumeMounts.subPath: Invalid value: must not contain '..'",
			"spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
			"spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
			"spec.containers[0].volumeDevices[0].name: Invalid value: can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
			"spec.containers[0].volumeMounts[0].name: Invalid value: must not already exist in volumeDevices",
			"spec.containers[0].volumeMounts[1].name: Invalid value: must not already exist in volumeDevices",
			"spec.containers[0].volumeMounts[3].name: Invalid value: must not already exist in volumeDevices",
			"spec.containers[0].volumeMounts[4].name: Invalid value: must not already exist in volumeDevices",
			"spec.containers[0].volumeMounts[5].name: Invalid value: must not already exist in volumeDevices",
			"spec.containers[0].volumeDevices[0].name: Invalid value: must not already exist in volumeMounts",
		}},
		{"two sources", volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}, Secret: &corev1.SecretVolumeSource{SecretName: "s"}}),
			[]string{"spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type"}},
		{"secret volume", volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
			DefaultMode: ptr.To[int32](0o1000), Items: []corev1.KeyToPath{{Key: "k", Path: "../up"}, {Path: "/abs"}, {Key: "k", Path: "..data"}},
		}}), []string{
			"spec.volumes[0].secret.secretName: Required value",
			"spec.volumes[0].secret.defaultMode: Invalid value: must be a number between 0 and 0777 (octal), both inclusive",
			"spec.volumes[0].secret.items[0].path: Invalid value: must not contain '..'",
			"spec.volumes[0].secret.items[1].key: Required value",
			"spec.volumes[0].secret.items[1].path: Invalid value: must be a relative path",
			"spec.volumes[0].secret.items[2].path: Invalid value: must not start with '..'",
		}},
		{"host path", volume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/a/../b", Type: ptr.To(corev1.HostPathType("Pipe"))}}), []string{
			"spec.volumes[0].hostPath.path: Invalid value: must not contain '..'",
			`spec.volumes[0].hostPath.type: Unsupported value: supported values: "", "BlockDevice", "CharDevice"`,
		}},
		{"projected volume", volume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "a"}, Items: []corev1.KeyToPath{{Key: "k", Path: "f"}}}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "b"}, Items: []corev1.KeyToPath{{Key: "k", Path: "f"}}}},
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t", ExpirationSeconds: ptr.To[int64](60)}},
		}}}), []string{
			"spec.volumes[0].projected: Invalid value: conflicting duplicate paths",
			"spec.volumes[0].projected.sources[2].serviceAccountToken.expirationSeconds: Invalid value: may not specify a duration less than 10 minutes",
			"spec.volumes[0].projected.sources[2].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set",
		}},
		{"ephemeral volume", volume(corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
			ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{"Any"}},
		}}}), []string{
			"spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set",
			`spec.volumes[0].ephemeral.volumeClaimTemplate.spec.accessModes: Unsupported value: supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"`,
			"spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value",
		}},
		{"probes", container(func(c *corev1.Container) {
			c.LivenessProbe = &corev1.Probe{SuccessThreshold: 2, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{}}}
			c.ReadinessProbe = &corev1.Probe{TerminationGracePeriodSeconds: ptr.To[int64](1), ProbeHandler: corev1.ProbeHandler{
				HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("")}, TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(1)}}}
			c.StartupProbe = &corev1.Probe{PeriodSeconds: -1}
		}), []string{
			"spec.containers[0].livenessProbe.successThreshold: Invalid value: must be 1",
			"spec.containers[0].livenessProbe.exec.command: Required value",
			"spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: must not be set for readinessProbes",
			"spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
			"spec.containers[0].readinessProbe.httpGet.port: Invalid value: must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
			"spec.containers[0].readinessProbe.httpGet.port: Invalid value: must contain at least one letter (a-z)",
			"spec.containers[0].startupProbe: Required value: must specify a handler type",
			"spec.containers[0].startupProbe.periodSeconds: Invalid value: must be greater than or equal to 0",
		}},
		{"hooks", container(func(c *corev1.Container) {
			c.Lifecycle = &corev1.Lifecycle{
				PostStart:  &corev1.LifecycleHandler{},
				PreStop:    &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 31}},
				StopSignal: ptr.To(corev1.SIGTERM),
			}
		}), []string{
			"spec.containers[0].lifecycle.postStart: Required value: must specify a handler type",
			"spec.containers[0].lifecycle.preStop.sleep: Invalid value: must be non-negative and less than terminationGracePeriodSeconds (30)",
			"spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`",
		}},
		{"init containers", spec(func(s *corev1.PodSpec) {
			probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
			s.InitContainers = []corev1.Container{
				{Name: "a", Image: "x:1", ReadinessProbe: probe},
				{Name: "b", Image: "x:1", ReadinessProbe: probe.DeepCopy(), RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)},
				{Name: "c", Image: "x:1", RestartPolicyRules: []corev1.ContainerRestartRule{{Action: "Dance"}}},
			}
		}), []string{
			"spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
			"spec.initContainers[2].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
		}},
		{"restart rules", container(func(c *corev1.Container) {
			c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyNever)
			c.RestartPolicyRules = []corev1.ContainerRestartRule{{Action: "Dance"}}
		}), []string{
			`spec.containers[0].restartPolicyRules[0].action: Unsupported value: supported values: "Restart", "RestartAllContainers"`,
			"spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified",
		}},
		{"ephemeral containers", spec(func(s *corev1.PodSpec) {
			s.EphemeralContainers = []corev1.EphemeralContainer{{TargetContainerName: "who", EphemeralContainerCommon: corev1.EphemeralContainerCommon{
				Name: "app", Image: "x:1", Ports: []corev1.ContainerPort{{ContainerPort: 1}},
			}}}
		}), []string{
			"spec.ephemeralContainers[0].name: Duplicate value",
			"spec.ephemeralContainers[0].targetContainerName: Not found",
			"spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
		}},
		{"requests above limits", resources(map[corev1.ResourceName]string{"cpu": "2"}, map[corev1.ResourceName]string{"cpu": "1"}),
			[]string{"spec.containers[0].resources.requests: Invalid value: must be less than or equal to cpu limit of 1"}},
		{"resource names", resources(nil, map[corev1.ResourceName]string{"gpu": "1", "pods": "1", "nvidia.com/gpu": "500m", "cpu": "-1"}), []string{
			"spec.containers[0].resources.limits[gpu]: Invalid value: must be a standard resource type or fully qualified",
			"spec.containers[0].resources.limits[gpu]: Invalid value: must be a standard resource for containers",
			"spec.containers[0].resources.requests[gpu]: Invalid value: must be a standard resource type or fully qualified",
			"spec.containers[0].resources.requests[gpu]: Invalid value: must be a standard resource for containers",
			"spec.containers[0].resources.limits[pods]: Invalid value: must be a standard resource for containers",
			"spec.containers[0].resources.requests[pods]: Invalid value: must be a standard resource for containers",
			"spec.containers[0].resources.limits[nvidia.com/gpu]: Invalid value: must be an integer",
			"spec.containers[0].resources.requests[nvidia.com/gpu]: Invalid value: must be an integer",
			"spec.containers[0].resources.limits[cpu]: Invalid value: must be greater than or equal to 0",
			"spec.containers[0].resources.requests[cpu]: Invalid value: must be greater than or equal to 0",
		}},
		{"huge pages", resources(map[corev1.ResourceName]string{"hugepages-2Mi": "2Mi"}, map[corev1.ResourceName]string{"hugepages-2Mi": "3Mi"}), []string{
			"spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: 3Mi is not positive integer multiple of hugepages-2Mi",
			"spec.containers[0].resources.requests: Invalid value: must be equal to hugepages-2Mi limit of 3Mi",
			"spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
		}},
		{"pod-level resources", func(pod *corev1.Pod) {
			resources(map[corev1.ResourceName]string{"cpu": "2"}, map[corev1.ResourceName]string{"cpu": "3"})(pod)
			pod.Spec.Resources = &corev1.ResourceRequirements{
				Requests: corev1.ResourceList{"cpu": resource.MustParse("1")},
				Limits:   corev1.ResourceList{"cpu": resource.MustParse("2"), "nvidia.com/gpu": resource.MustParse("1")},
			}
		}, []string{
			"spec.resources.requests[cpu]: Invalid value: must be greater than or equal to aggregate container requests of 2",
			"spec.resources.containers[0][cpu].limits: Invalid value: must be less than or equal to pod limits of 2",
			"spec.resources.limits[nvidia.com/gpu]: Unsupported value",
		}},
		{"resource claims", spec(func(s *corev1.PodSpec) {
			s.ResourceClaims = []corev1.PodResourceClaim{{Name: "a"}, {Name: "b", ResourceClaimName: ptr.To("b")}}
			s.Containers[0].Resources.Claims = []corev1.ResourceClaim{{Name: "b"}, {Name: "b", Request: "r"}, {Name: "c"}}
		}), []string{
			"spec.resourceClaims[0]: Invalid value: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
			"spec.containers[0].resources.claims[1]: Duplicate value",
			"spec.containers[0].resources.claims[2]: Not found: must be one of the names in pod.spec.resourceClaims: a, b",
		}},
		{"security", spec(func(s *corev1.PodSpec) {
			s.HostNetwork = true
			s.SecurityContext = &corev1.PodSecurityContext{
				RunAsUser: ptr.To[int64](-1), Sysctls: []corev1.Sysctl{{Name: "net.core.somaxconn"}, {Name: "BAD"}},
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost},
			}
			s.Containers[0].SecurityContext = &corev1.SecurityContext{
				Privileged: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false), ProcMount: ptr.To(corev1.UnmaskedProcMount),
				AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost},
			}
		}), []string{
			"spec.securityContext.runAsUser: Invalid value: must be between 0 and 2147483647, inclusive",
			"spec.securityContext.sysctls[0].name: Invalid value: may not be specified when 'hostNetwork' is true",
			"spec.securityContext.sysctls[1].name: Invalid value: must have at most 253 characters and match regex",
			"spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
			"spec.containers[0].securityContext: Invalid value: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
			"spec.containers[0].securityContext.procMount: Invalid value: `hostUsers` must be false to use `Unmasked`",
			"spec.containers[0].securityContext.appArmorProfile.localhostProfile: Required value: must be set when AppArmor type is Localhost",
		}},
		{"windows", spec(func(s *corev1.PodSpec) {
			s.OS = &corev1.PodOS{Name: corev1.Windows}
			s.HostPID = true
			s.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](1), WindowsOptions: &corev1.WindowsSecurityContextOptions{RunAsUserName: ptr.To(`a\b\c`)}}
		}), []string{
			"spec.securityContext.windowsOptions.runAsUserName: Invalid value: runAsUserName cannot contain more than one backslash",
			"spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
			"spec.hostPID: Forbidden: cannot be set for a windows pod",
		}},
		{"affinity", spec(func(s *corev1.PodSpec) {
			s.Affinity = &corev1.Affinity{
				NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn}},
					MatchFields:      []corev1.NodeSelectorRequirement{{Key: "spec.x", Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}}},
				}}}},
				PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{
					Weight: 101, PodAffinityTerm: corev1.PodAffinityTerm{MatchLabelKeys: []string{"app"}, TopologyKey: "zone"},
				}}},
			}
		}), []string{
			"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
			"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].key: Invalid value: not a valid field selector key",
			"spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: must be in the range 1-100",
			"spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
		}},
		{"scheduling", spec(func(s *corev1.PodSpec) {
			s.Tolerations = []corev1.Toleration{{}, {Key: "a", Operator: "Lt", Value: "1"}, {Key: "b", Effect: "NoWay"}, {Key: "c", TolerationSeconds: ptr.To[int64](1)}}
			s.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{
				{MaxSkew: 0, WhenUnsatisfiable: corev1.ScheduleAnyway, MinDomains: ptr.To[int32](1)},
				{MaxSkew: 1, TopologyKey: "z", WhenUnsatisfiable: corev1.DoNotSchedule}, {MaxSkew: 1, TopologyKey: "z", WhenUnsatisfiable: corev1.DoNotSchedule},
			}
			s.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}, {Name: "g"}}
		}), []string{
			"spec.tolerations[0].operator: Invalid value: operator must be Exists when `key` is empty",
			`spec.tolerations[1].operator: Unsupported value: supported values: "Equal", "Exists", "Lt", "Gt"`,
			`spec.tolerations[2].effect: Unsupported value: supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`,
			"spec.tolerations[3].effect: Invalid value: effect must be 'NoExecute' when `tolerationSeconds` is set",
			"spec.topologySpreadConstraints[0].maxSkew: Invalid value: must be greater than zero",
			"spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
			"spec.topologySpreadConstraints[0].minDomains: Invalid value: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
			"spec.topologySpreadConstraints[1].{topologyKey, whenUnsatisfiable}: Duplicate value",
			"spec.schedulingGates[1]: Duplicate value",
		}},
		{"dns", spec(func(s *corev1.PodSpec) { s.DNSPolicy = corev1.DNSNone }),
			[]string{"spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"}},
		{"names", spec(func(s *corev1.PodSpec) {
			s.Hostname, s.NodeName, s.ServiceAccountName, s.HostnameOverride = "a.b", "A", "B", ptr.To("C")
			s.HostAliases = []corev1.HostAlias{{IP: "1.2.3"}}
			s.ActiveDeadlineSeconds = ptr.To[int64](0)
		}), []string{
			"spec.hostname: Invalid value", "spec.nodeName: Invalid value", "spec.serviceAccountName: Invalid value", "spec.hostnameOverride: Invalid value",
			"spec.hostAliases[0].ip: Invalid value: must be a valid IP address", "spec.activeDeadlineSeconds: Invalid value: must be between 1 and 2147483647, inclusive",
		}},
		{"user namespace", spec(func(s *corev1.PodSpec) { s.HostUsers, s.HostNetwork, s.HostPID = ptr.To(false), true, true }), []string{
			"spec.hostNetwork: Forbidden: when `hostUsers` is false", "spec.HostPID: Forbidden: when `hostUsers` is false",
		}},
		{"annotations", func(pod *corev1.Pod) {
			pod.Annotations = map[string]string{
				corev1.PodDeletionCost: "08", corev1.MirrorPodAnnotationKey: "x", corev1.SeccompPodAnnotationKey: "what",
				corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + "who": "odd",
			}
		}, []string{
			"metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: must be a 32bit integer",
			"metadata.annotations[kubernetes.io/config.mirror]: Invalid value: must set spec.nodeName if mirror pod annotation is set",
			"metadata.annotations.seccomp.security.alpha.kubernetes.io/pod: Invalid value: must be a valid seccomp profile",
			"metadata.annotations[container.apparmor.security.beta.kubernetes.io/who]: Invalid value: container not found",
			`metadata.annotations[container.apparmor.security.beta.kubernetes.io/who]: Invalid value: invalid AppArmor profile name: "odd"`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantErrors(t, ValidatePod(newPod(test.edit), OptionsForPod(nil)), test.want...)
		})
	}
}

// What was stored before a rule came up stays updatable.
func TestOptionsTolerateOldMistakes(t *testing.T) {
	for name, edit := range map[string]func(*corev1.Pod){
		"deletion cost": func(pod *corev1.Pod) { pod.Annotations = map[string]string{corev1.PodDeletionCost: "x"} },
		"sysctls": func(pod *corev1.Pod) {
			pod.Spec.HostNetwork = true
			pod.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net.core.somaxconn"}}}
		},
		"CAP_SYS_ADMIN": func(pod *corev1.Pod) {
			pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
				AllowPrivilegeEscalation: ptr.To(false), Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"CAP_SYS_ADMIN"}},
			}
		},
		"image volume": func(pod *corev1.Pod) {
			pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{}}}}
		},
		"numeric toleration": func(pod *corev1.Pod) {
			pod.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpGt, Value: "1"}}
		},
	} {
		pod := newPod(edit)
		if errs := ValidatePod(pod, OptionsForPod(nil)); len(errs) == 0 {
			t.Errorf("%s: a new pod may have it", name)
		}
		if errs := ValidatePod(pod, OptionsForPod(pod)); len(errs) > 0 {
			t.Errorf("%s: an old pod may not keep it: %v", name, errs)
		}
	}
}

func TestDropDisabled(t *testing.T) {
	pod := newPod(func(pod *corev1.Pod) {
		pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Mode: ptr.To[int32](0o700)}}}}
		pod.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{StopSignal: ptr.To(corev1.SIGTERM)}
		pod.Annotations = map[string]string{"pod.beta.kubernetes.io/init-containers": "[]"}
	})
	kept := pod.DeepCopy()
	DropDisabledPod(kept, pod)
	if kept.Spec.Volumes[0].EmptyDir.Mode == nil || kept.Spec.Containers[0].Lifecycle == nil {
		t.Error("fields that the old pod has are gone")
	}
	DropDisabledPod(pod, nil)
	if pod.Spec.Volumes[0].EmptyDir.Mode != nil || pod.Spec.Containers[0].Lifecycle != nil || len(pod.Annotations) > 0 {
		t.Errorf("disabled fields are still there: %+v", pod)
	}
}

func TestSyncAppArmor(t *testing.T) {
	pod := newPod(func(pod *corev1.Pod) {
		pod.Annotations = map[string]string{corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + "app": "localhost/web"}
	})
	warnings := SyncAppArmor(pod)
	profile := pod.Spec.Containers[0].SecurityContext.AppArmorProfile
	if profile.Type != corev1.AppArmorProfileTypeLocalhost || *profile.LocalhostProfile != "web" {
		t.Errorf("profile is %+v", profile)
	}
	want := `metadata.annotations[container.apparmor.security.beta.kubernetes.io/app]: deprecated since v1.30; use the "appArmorProfile" field instead`
	if !slices.Equal(warnings, []string{want}) {
		t.Errorf("warnings are %q, want %q", warnings, want)
	}
	if again := SyncAppArmor(pod); len(again) > 0 {
		t.Errorf("warned again: %q", again)
	}
}

func TestWarnings(t *testing.T) {
	pod := newPod(func(pod *corev1.Pod) {
		pod.Spec.NodeSelector = map[string]string{"beta.kubernetes.io/os": "linux"}
		pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "A", Value: "$(A):2"}, {Name: "A", Value: "3"}}
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 80}, {Name: "http2", ContainerPort: 80}}
		pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: "c"}, Items: []corev1.KeyToPath{{Key: "a", Path: "x"}, {Key: "b", Path: "x/y"}},
		}}}}
		pod.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "s"}, {Name: "s"}}
	})
	want := []string{
		`spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead`,
		`volume "v" (ConfigMap "c"): overlapping paths: "x/y" with "x"`,
		`spec.imagePullSecrets[1].name: duplicate name "s"`,
		`spec.containers[0].env[2]: hides previous definition of "A", which may be dropped when using apply`,
		`spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]`,
	}
	if got := Warnings(nil, &pod.ObjectMeta, &pod.Spec); !slices.Equal(got, want) {
		t.Errorf("warnings are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestQOSClass(t *testing.T) {
	full := corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi")}
	cpu := corev1.ResourceList{"cpu": resource.MustParse("1")}
	for _, test := range []struct {
		name string
		edit func(*corev1.PodSpec)
		want corev1.PodQOSClass
	}{
		{"nothing", func(*corev1.PodSpec) {}, corev1.PodQOSBestEffort},
		{"all limited", func(s *corev1.PodSpec) { s.Containers[0].Resources.Limits = full }, corev1.PodQOSGuaranteed},
		{"one limited", func(s *corev1.PodSpec) { s.Containers[0].Resources.Limits = cpu }, corev1.PodQOSBurstable},
		{"requests only", func(s *corev1.PodSpec) { s.Containers[0].Resources.Requests = full }, corev1.PodQOSBurstable},
		{"init container", func(s *corev1.PodSpec) {
			s.Containers[0].Resources.Limits = full
			s.InitContainers = []corev1.Container{{Name: "i", Image: "i:1"}}
		}, corev1.PodQOSBurstable},
		{"pod level", func(s *corev1.PodSpec) {
			s.Resources = &corev1.ResourceRequirements{Limits: full, Requests: full}
		}, corev1.PodQOSGuaranteed},
	} {
		if got := QOSClass(newPod(func(pod *corev1.Pod) { test.edit(&pod.Spec) })); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestShouldRestart(t *testing.T) {
	rules := &corev1.Container{RestartPolicy: ptr.To(corev1.ContainerRestartPolicyNever), RestartPolicyRules: []corev1.ContainerRestartRule{{
		Action: corev1.ContainerRestartRuleActionRestart, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
	}}}
	onFailure := &corev1.PodSpec{RestartPolicy: corev1.RestartPolicyOnFailure}
	for _, test := range []struct {
		c    *corev1.Container
		code int32
		want bool
	}{{&corev1.Container{}, 0, false}, {&corev1.Container{}, 1, true}, {rules, 42, true}, {rules, 1, false}} {
		if got := ShouldRestart(test.c, onFailure, test.code); got != test.want {
			t.Errorf("exit code %d of %+v: restart is %v", test.code, test.c, got)
		}
	}
}
