// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/podspec"
)

var webMeta = metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "u", ResourceVersion: "1"}

// wantErrors compares errors with lines of the form "path: type: detail", which may be cut short.
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

func newPod(edits ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: *webMeta.DeepCopy(), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "nginx:1.29"}}}}
	for _, edit := range edits {
		edit(pod)
	}
	podspec.DefaultPod(pod)
	return pod
}

func TestPreparePodCreate(t *testing.T) {
	pod := newPod(func(pod *corev1.Pod) {
		pod.Labels = map[string]string{"app": "web"}
		pod.Status.Phase = corev1.PodRunning
		pod.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
		pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule, MatchLabelKeys: []string{"app", "other"}, LabelSelector: &metav1.LabelSelector{},
		}}
	})
	preparePodCreate(pod)
	if pod.Status.Phase != corev1.PodPending || pod.Status.QOSClass != corev1.PodQOSBestEffort || pod.Generation != 1 {
		t.Errorf("pod starts as %+v", pod.Status)
	}
	if c := pod.Status.Conditions; len(c) != 1 || c[0].Type != corev1.PodScheduled || c[0].Reason != "SchedulingGated" {
		t.Errorf("conditions are %+v", c)
	}
	if e := pod.Spec.TopologySpreadConstraints[0].LabelSelector.MatchExpressions; len(e) != 1 || e[0].Key != "app" || e[0].Values[0] != "web" {
		t.Errorf("selector is %+v", e)
	}
	wantErrors(t, validatePod(pod))
}

func TestValidatePod(t *testing.T) {
	wantErrors(t, validatePod(newPod()))
	wantErrors(t, validatePod(newPod(func(pod *corev1.Pod) {
		pod.Name = "Web"
		pod.Finalizers = []string{"mine"}
		pod.Spec.NodeName = "n"
		pod.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
		pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: "e:1"}}}
	})), "metadata.name: Invalid value", "metadata.finalizers[0]: Invalid value: name is neither a standard finalizer name nor is it fully qualified",
		"spec.ephemeralContainers: Forbidden: cannot be set on create", "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared")
}

func TestValidatePodUpdate(t *testing.T) {
	gated := func(pod *corev1.Pod) {
		pod.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
		pod.Spec.NodeSelector = map[string]string{"a": "1"}
	}
	for _, test := range []struct {
		name string
		old  func(*corev1.Pod)
		edit func(*corev1.Pod)
		want []string
	}{
		{"image", nil, func(p *corev1.Pod) { p.Spec.Containers[0].Image = "nginx:2" }, nil},
		{"command", nil, func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"x"} }, []string{"spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"}},
		{"containers", nil, func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "b", Image: "b:1"})
		}, []string{"spec.containers: Forbidden: pod updates may not add or remove containers"}},
		{"new deadline", nil, func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) }, nil},
		{"later deadline", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) }, func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](6) },
			[]string{"spec.activeDeadlineSeconds: Invalid value: must be less than or equal to previous value"}},
		{"more tolerations", nil, func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists}}
		}, nil},
		{"fewer tolerations", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists}}
		},
			func(p *corev1.Pod) { p.Spec.Tolerations = nil }, []string{"spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"}},
		{"gate removed", gated, func(p *corev1.Pod) { p.Spec.SchedulingGates = nil }, nil},
		{"gate added", nil, func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} },
			[]string{"spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'"}},
		{"gated selector grows", gated, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "1", "b": "2"} }, nil},
		{"gated selector changes", gated, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "2"} },
			[]string{"spec.nodeSelector: Invalid value: only additions to spec.nodeSelector are allowed (no mutations or deletions)"}},
		{"mirror annotation", nil, func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			p.Spec.NodeName = ""
		},
			[]string{
				"metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation",
				"metadata.annotations[kubernetes.io/config.mirror]: Invalid value: must set spec.nodeName",
				"metadata.annotations[kubernetes.io/config.mirror]: Invalid value: must set spec.nodeName",
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			old := newPod()
			if test.old != nil {
				old = newPod(test.old)
			}
			pod := old.DeepCopy()
			test.edit(pod)
			podspec.DefaultPod(pod)
			preparePodUpdate(pod, old)
			wantErrors(t, validatePodUpdate(pod, old), test.want...)
		})
	}
}

func TestValidatePodStatusUpdate(t *testing.T) {
	old := newPod(func(pod *corev1.Pod) {
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
		pod.Status.QOSClass = corev1.PodQOSBestEffort
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
	})
	pod := old.DeepCopy()
	pod.Status.PodIP, pod.Status.PodIPs = "10.42.0.1", []corev1.PodIP{{IP: "10.42.0.1"}}
	wantErrors(t, validatePodStatusUpdate(pod, old))
	pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	pod.Status.QOSClass = corev1.PodQOSBurstable
	pod.Status.PodIPs = []corev1.PodIP{{IP: "10.42.0.2"}, {IP: "10.42.0.3"}}
	pod.Status.HostIP, pod.Status.HostIPs = "1.1.1.1", []corev1.HostIP{{IP: "x"}}
	wantErrors(t, validatePodStatusUpdate(pod, old),
		"status.qosClass: Invalid value: field is immutable", "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state",
		"status.podIPs: Invalid value: may specify no more than one IP for each IP family", "status.podIPs[0].ip: Invalid value: must be equal to `podIP`",
		"status.hostIPs[0].ip: Invalid value: must be equal to `hostIP`", "status.hostIPs[0]: Invalid value: must be a valid IP address")
}

func TestPodResize(t *testing.T) {
	list := func(cpu string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
	old := newPod(func(pod *corev1.Pod) { pod.Spec.Containers[0].Resources.Requests = list("1") })
	resize := func(edit func(*corev1.Container)) field.ErrorList {
		pod := old.DeepCopy()
		edit(&pod.Spec.Containers[0])
		preparePodResizeUpdate(pod, old)
		return validatePodResizeUpdate(pod, old)
	}
	wantErrors(t, resize(func(c *corev1.Container) { c.Resources.Requests = list("2"); c.Image = "ignored:1" }))
	wantErrors(t, resize(func(c *corev1.Container) { c.Resources.Requests = nil }),
		"spec: Invalid value: Pod QOS Class may not change as a result of resizing", "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed")
	wantErrors(t, resize(func(c *corev1.Container) {
		c.Resources.Requests[corev1.ResourceEphemeralStorage] = resource.MustParse("1")
	}),
		"spec: Forbidden: only cpu and memory resources are mutable")
	wantErrors(t, resize(func(c *corev1.Container) { c.Name = "other" }), "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize")
}

func TestPodEphemeralContainers(t *testing.T) {
	debug := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "busybox:1"}}
	old := newPod(func(pod *corev1.Pod) { pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{debug} })
	pod := old.DeepCopy()
	more := pod.Spec.EphemeralContainers[0]
	more.Name = "more"
	pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, more)
	pod.Spec.Containers[0].Image = "ignored:1"
	preparePodEphemeralContainersUpdate(pod, old)
	wantErrors(t, validatePodEphemeralContainersUpdate(pod, old))
	if pod.Spec.Containers[0].Image != "nginx:1.29" || pod.Generation != old.Generation+1 {
		t.Errorf("pod became %+v", pod)
	}
	pod.Spec.EphemeralContainers = nil
	wantErrors(t, validatePodEphemeralContainersUpdate(pod, old), `spec.ephemeralContainers: Forbidden: existing ephemeral containers "debug" may not be removed`)
}

func TestCheckPodGracefulDelete(t *testing.T) {
	for _, test := range []struct {
		name      string
		edit      func(*corev1.Pod)
		requested *int64
		want      int64
	}{
		{"of the pod", func(p *corev1.Pod) { p.Spec.NodeName = "n" }, nil, 30},
		{"of the request", func(p *corev1.Pod) { p.Spec.NodeName = "n" }, ptr.To[int64](5), 5},
		{"negative", func(p *corev1.Pod) { p.Spec.NodeName = "n" }, ptr.To[int64](-5), 1},
		{"not scheduled", func(*corev1.Pod) {}, ptr.To[int64](5), 0},
		{"ended", func(p *corev1.Pod) { p.Spec.NodeName, p.Status.Phase = "n", corev1.PodSucceeded }, ptr.To[int64](5), 0},
	} {
		options := &metav1.DeleteOptions{GracePeriodSeconds: test.requested}
		if ok := checkPodGracefulDelete(newPod(test.edit), options); !ok || *options.GracePeriodSeconds != test.want {
			t.Errorf("%s: %v, %d s; want %d s", test.name, ok, *options.GracePeriodSeconds, test.want)
		}
	}
	if checkPodGracefulDelete(newPod(), nil) {
		t.Error("a delete without options is graceful")
	}
}

func TestValidateBinding(t *testing.T) {
	wantErrors(t, validateBinding(&corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}))
	wantErrors(t, validateBinding(&corev1.Binding{Target: corev1.ObjectReference{Kind: "Pod"}}), `target.kind: Unsupported value: supported values: "Node", "<empty>"`, "target.name: Required value")
}

func newService(edits ...func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: *webMeta.DeepCopy(), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	for _, edit := range edits {
		edit(&s.Spec)
	}
	defaultService(s)
	return s
}

func TestValidateService(t *testing.T) {
	for _, test := range []struct {
		name string
		edit func(*corev1.ServiceSpec)
		want []string
	}{
		{"ClusterIP", func(*corev1.ServiceSpec) {}, nil},
		{"NodePort", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort; s.Ports[0].NodePort = 30080 }, nil},
		{"LoadBalancer", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeLoadBalancer }, nil},
		{"ExternalName", func(s *corev1.ServiceSpec) {
			s.Type, s.ExternalName, s.Ports = corev1.ServiceTypeExternalName, "example.com.", nil
		}, nil},
		{"headless", func(s *corev1.ServiceSpec) { s.ClusterIP, s.ClusterIPs, s.Ports = "None", []string{"None"}, nil }, nil},
		{"no ports", func(s *corev1.ServiceSpec) { s.Ports = nil }, []string{"spec.ports: Required value"}},
		{"ports", func(s *corev1.ServiceSpec) {
			s.Ports = []corev1.ServicePort{{Port: 80, NodePort: 30000}, {Name: "a", Port: 80}, {Name: "a", Port: 0, Protocol: "X"}}
		}, []string{
			"spec.ports[0].name: Required value", "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'", "spec.ports[1]: Duplicate value",
			"spec.ports[2].name: Duplicate value", "spec.ports[2].port: Invalid value: must be between 1 and 65535, inclusive",
			`spec.ports[2].protocol: Unsupported value: supported values: "SCTP", "TCP", "UDP"`, "spec.ports[2].targetPort: Invalid value",
		}},
		{"headless NodePort", func(s *corev1.ServiceSpec) {
			s.Type, s.ClusterIP, s.ClusterIPs = corev1.ServiceTypeNodePort, "None", []string{"None"}
		},
			[]string{"spec.clusterIPs[0]: Invalid value: may not be set to 'None' for NodePort services"}},
		{"addresses", func(s *corev1.ServiceSpec) {
			s.ClusterIP, s.ClusterIPs = "10.43.0.1", []string{"10.43.0.1", "10.43.0.2"}
		},
			[]string{"spec.clusterIPs: Invalid value: may specify no more than one IP for each IP family"}},
		{"families", func(s *corev1.ServiceSpec) {
			s.ClusterIP, s.ClusterIPs, s.IPFamilies = "10.43.0.1", []string{"10.43.0.1"}, []corev1.IPFamily{corev1.IPv6Protocol, "IPv7"}
		}, []string{
			"spec.clusterIPs[0]: Invalid value: expected an IPv6 value as indicated by `ipFamilies[0]`",
			`spec.ipFamilies[1]: Unsupported value: supported values: "IPv4", "IPv6"`,
		}},
		{"affinity", func(s *corev1.ServiceSpec) {
			s.SessionAffinity = corev1.ServiceAffinityClientIP
			s.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](0)}}
		}, []string{"spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: must be greater than 0 and less than 86400"}},
		{"traffic", func(s *corev1.ServiceSpec) {
			s.ExternalTrafficPolicy, s.HealthCheckNodePort, s.TrafficDistribution = corev1.ServiceExternalTrafficPolicyLocal, 30000, ptr.To("Far")
			s.LoadBalancerSourceRanges = []string{"10.0.0.0/8"}
		}, []string{
			"spec.externalTrafficPolicy: Invalid value: may only be set for externally-accessible services",
			"spec.healthCheckNodePort: Invalid value: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
			`spec.trafficDistribution: Unsupported value: supported values: "PreferClose", "PreferSameZone", "PreferSameNode"`,
			"spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
		}},
		{"external IPs", func(s *corev1.ServiceSpec) { s.ExternalIPs = []string{"127.0.0.1", "x"} },
			[]string{"spec.externalIPs[0]: Invalid value: may not be in the loopback range", "spec.externalIPs[1]: Invalid value: must be a valid IP address"}},
	} {
		t.Run(test.name, func(t *testing.T) { wantErrors(t, validateService(newService(test.edit)), test.want...) })
	}
}

func TestServiceUpdate(t *testing.T) {
	allocated := func(s *corev1.ServiceSpec) {
		s.Type, s.ClusterIP, s.ClusterIPs = corev1.ServiceTypeNodePort, "10.43.0.9", []string{"10.43.0.9"}
		s.IPFamilies, s.IPFamilyPolicy = []corev1.IPFamily{corev1.IPv4Protocol}, ptr.To(corev1.IPFamilyPolicySingleStack)
		s.Ports[0].NodePort = 30080
	}
	old := newService(allocated)
	update := func(edit func(*corev1.ServiceSpec)) (*corev1.Service, field.ErrorList) {
		s := old.DeepCopy()
		edit(&s.Spec)
		defaultService(s)
		prepareServiceUpdate(s, old)
		return s, validateServiceUpdate(s, old)
	}
	s, errs := update(func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeClusterIP })
	wantErrors(t, errs)
	if s.Spec.Ports[0].NodePort != 0 || s.Spec.ExternalTrafficPolicy != "" {
		t.Errorf("a ClusterIP Service kept what is of a NodePort: %+v", s.Spec)
	}
	s, errs = update(func(s *corev1.ServiceSpec) { s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "example.com" })
	wantErrors(t, errs)
	if s.Spec.ClusterIP != "" || s.Spec.ClusterIPs != nil || s.Spec.IPFamilies != nil {
		t.Errorf("an ExternalName Service kept addresses: %+v", s.Spec)
	}
	_, errs = update(func(s *corev1.ServiceSpec) { s.ClusterIP, s.ClusterIPs = "10.43.0.8", []string{"10.43.0.8"} })
	wantErrors(t, errs, "spec.clusterIPs[0]: Invalid value: may not change once set")
}

func TestNamespace(t *testing.T) {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	defaultNamespace(ns)
	prepareNamespaceCreate(ns)
	wantErrors(t, validateNamespace(ns))
	if ns.Labels["kubernetes.io/metadata.name"] != "shop" || !slices.Equal(ns.Spec.Finalizers, []corev1.FinalizerName{"kubernetes"}) || ns.Status.Phase != corev1.NamespaceActive {
		t.Errorf("namespace is %+v", ns)
	}
	ns.Name, ns.Spec.Finalizers = "Shop.1", []corev1.FinalizerName{"mine"}
	wantErrors(t, validateNamespace(ns), "metadata.name: Invalid value", "spec.finalizers: Invalid value: name is neither a standard finalizer name nor is it fully qualified")
	ns.Status.Phase = corev1.NamespaceTerminating
	wantErrors(t, validateNamespaceStatusUpdate(ns, ns), "status.Phase: Invalid value: may only be 'Active' if `deletionTimestamp` is empty")
}

func TestNode(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDR: "10.42.0.0/24", ProviderID: "skiff://n1"}}
	node.Status.Capacity = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("110")}
	defaultNode(node)
	wantErrors(t, validateNode(node))
	if node.Spec.PodCIDRs[0] != "10.42.0.0/24" || node.Status.Allocatable.Pods().Value() != 110 {
		t.Errorf("node is %+v", node)
	}
	changed := node.DeepCopy()
	changed.Spec.PodCIDR, changed.Spec.PodCIDRs, changed.Spec.ProviderID = "10.42.1.0/24", []string{"10.42.1.0/24"}, ""
	changed.Spec.Taints = []corev1.Taint{{Key: "a", Effect: "Bad"}, {Key: "b"}, {Key: "c", Effect: corev1.TaintEffectNoExecute}, {Key: "c", Effect: corev1.TaintEffectNoExecute}}
	changed.Status.DeclaredFeatures = []string{"B", "A", "bad"}
	wantErrors(t, validateNodeUpdate(changed, node),
		`spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid`, "spec.providerID: Invalid value: field cannot be cleared once set",
		`metadata.taints[0].effect: Unsupported value: supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`, "metadata.taints[1].effect: Required value",
		"metadata.taints[3]: Duplicate value: taints must be unique by key and effect pair",
		"status.declaredFeatures[1]: Invalid value: list must be sorted alphabetically", `status.declaredFeatures[2]: Invalid value: invalid feature name "bad"`)
}

func TestSecret(t *testing.T) {
	secret := func(kind corev1.SecretType, data map[string][]byte) *corev1.Secret {
		s := &corev1.Secret{ObjectMeta: webMeta, Type: kind, Data: data}
		defaultSecret(s)
		return s
	}
	wantErrors(t, validateSecret(secret("", map[string][]byte{"k": nil})))
	wantErrors(t, validateSecret(secret("", map[string][]byte{"a/b": nil, "big": make([]byte, corev1.MaxSecretSize+1)})),
		"data[a/b]: Invalid value: a valid config key must consist of", "data: Too long: may not be more than 1048576 bytes")
	wantErrors(t, validateSecret(secret(corev1.SecretTypeTLS, nil)), "data[tls.crt]: Required value", "data[tls.key]: Required value")
	wantErrors(t, validateSecret(secret(corev1.SecretTypeDockerConfigJson, map[string][]byte{".dockerconfigjson": []byte("x")})), "data[.dockerconfigjson]: Invalid value: invalid character")
	wantErrors(t, validateSecret(secret(corev1.SecretTypeServiceAccountToken, nil)), "metadata.annotations[kubernetes.io/service-account.name]: Required value")

	s := &corev1.Secret{StringData: map[string]string{"a": "1"}, Data: map[string][]byte{"a": []byte("0"), "b": []byte("2")}}
	defaultSecret(s)
	if string(s.Data["a"]) != "1" || string(s.Data["b"]) != "2" || s.StringData != nil || s.Type != corev1.SecretTypeOpaque {
		t.Errorf("secret is %+v", s)
	}
	old := secret("", map[string][]byte{"k": []byte("1")})
	old.Immutable = ptr.To(true)
	wantErrors(t, validateSecretUpdate(secret(corev1.SecretTypeBootstrapToken, nil), old), "type: Invalid value: field is immutable",
		"immutable: Forbidden: field is immutable when `immutable` is set", "data: Forbidden: field is immutable when `immutable` is set")
}

func TestConfigMap(t *testing.T) {
	c := &corev1.ConfigMap{ObjectMeta: webMeta, Data: map[string]string{"a": "1", "..": ""}, BinaryData: map[string][]byte{"a": nil}}
	wantErrors(t, validateConfigMap(c), "data[..]: Invalid value", "data[a]: Invalid value: duplicate of key present in binaryData")
	old := &corev1.ConfigMap{ObjectMeta: webMeta, Data: map[string]string{"a": "1"}, Immutable: ptr.To(true)}
	c = old.DeepCopy()
	c.Data["a"] = "2"
	wantErrors(t, validateConfigMapUpdate(c, old), "data: Forbidden: field is immutable when `immutable` is set")
}

func TestPersistentVolumeClaim(t *testing.T) {
	old := &corev1.PersistentVolumeClaim{ObjectMeta: webMeta, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}
	defaultPersistentVolumeClaim(old)
	wantErrors(t, validatePersistentVolumeClaim(old))
	resize := func(size string, phase corev1.PersistentVolumeClaimPhase) field.ErrorList {
		c := old.DeepCopy()
		c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse(size)
		c.Status.Phase = phase
		return validatePersistentVolumeClaimUpdate(c, old)
	}
	wantErrors(t, resize("2Gi", corev1.ClaimBound))
	wantErrors(t, resize("2Gi", corev1.ClaimPending), "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims")
	bound := old.DeepCopy()
	bound.Spec.VolumeName = "pv"
	wantErrors(t, validatePersistentVolumeClaimUpdate(bound, old))
}

func TestLimitRangeAndQuota(t *testing.T) {
	r := &corev1.LimitRange{ObjectMeta: webMeta, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
		Type: corev1.LimitTypeContainer, Max: corev1.ResourceList{"cpu": resource.MustParse("1")}, Min: corev1.ResourceList{"cpu": resource.MustParse("2")},
	}}}}
	defaultLimitRange(r)
	wantErrors(t, validateLimitRange(r), "spec.limits[0].min[cpu]: Invalid value: min value 2 is greater than max value 1",
		"spec.limits[0].defaultRequest[cpu]: Invalid value: min value 2 is greater than default request value 1",
		"spec.limits[0].default[cpu]: Invalid value: min value 2 is greater than default value 1")
	q := &corev1.ResourceQuota{ObjectMeta: webMeta, Spec: corev1.ResourceQuotaSpec{
		Hard:   corev1.ResourceList{"pods": resource.MustParse("1"), "secrets": resource.MustParse("1"), "color": resource.MustParse("1")},
		Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
	}}
	wantErrors(t, validateResourceQuota(q), "spec.hard[color]: Invalid value: must be a standard resource type or fully qualified",
		"spec.hard[color]: Invalid value: must be a standard resource for quota", "spec.scopes: Invalid value: unsupported scope applied to resource",
		"spec.scopes: Invalid value: unsupported scope applied to resource", "spec.scopes: Invalid value: conflicting scopes")
}
