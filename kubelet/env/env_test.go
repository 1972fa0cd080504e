// SPDX-License-Identifier: Apache-2.0

package env

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// References are replaced as the expansion rules say: $(NAME), $$ for $, everything else stays.
func TestExpand(t *testing.T) {
	lookup := Lookup(map[string]string{"A": "1", "EMPTY": "", "REF": "$(A)"}, map[string]string{"A": "hidden", "B": "2"})
	for in, want := range map[string]string{
		"":                  "",
		"plain":             "plain",
		"$(A)$(B)":          "12",
		"<$(EMPTY)>":        "<>",
		"$(NONE)":           "$(NONE)",
		"$$(A)":             "$(A)",
		"$$$(A)":            "$1",
		"$$$$(A)":           "$$(A)",
		"$A ${A} $ (A)":     "$A ${A} $ (A)",
		"$(A":               "$(A",
		"$":                 "$",
		"a$":                "a$",
		"$()":               "$()",
		"$(REF)":            "$(A)",
		"$(A)$(":            "1$(",
		"foo$(A)$$(B)$(B)x": "foo1$(B)2x",
	} {
		if got := Expand(in, lookup); got != want {
			t.Errorf("Expand(%q) = %q, want %q", in, got, want)
		}
	}
}

// Each field of the downward API, and upstream's words for what is none.
func TestField(t *testing.T) {
	pod := testPod()
	for path, want := range map[string]string{
		"metadata.name":                 "web",
		"metadata.namespace":            "default",
		"metadata.uid":                  "u-1",
		"metadata.labels":               "app=\"web\"\ntier=\"a\\\"b\"",
		"metadata.labels['app']":        "web",
		"metadata.labels['none']":       "",
		"metadata.annotations['x/Y']":   "z",
		"metadata.annotations":          "x/Y=\"z\"",
		"spec.nodeName":                 "n1",
		"spec.serviceAccountName":       "robot",
		"status.podIP":                  "10.42.0.5",
		"status.podIPs":                 "10.42.0.5,fd00::5",
		"status.hostIP":                 "192.0.2.1",
		"status.hostIPs":                "192.0.2.1",
		"spec.containers":               "unsupported fieldPath: spec.containers",
		"metadata.name['x']":            `fieldPath "metadata.name['x']" does not support subscript`,
		"metadata.labels['not a name']": "invalid key subscript in metadata.labels['not a name']",
	} {
		got, err := Field(pod, path)
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.HasPrefix(got, want)) {
			t.Errorf("Field(%s) = %q, want %q", path, got, want)
		}
	}
}

// Resources are in units of the divisor and rounded up; a missing limit is what the node has.
func TestResource(t *testing.T) {
	pod := testPod()
	allocatable := corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi"), "ephemeral-storage": resource.MustParse("10Gi")}
	for _, c := range []struct{ container, resource, divisor, want string }{
		{"", "limits.cpu", "", "1"},
		{"", "limits.cpu", "1m", "250"},
		{"", "limits.memory", "", "67108864"},
		{"", "limits.memory", "1Mi", "64"},
		{"", "requests.memory", "1Gi", "1"},
		{"", "requests.cpu", "", "0"},
		{"side", "limits.cpu", "", "4"},
		{"side", "limits.memory", "1Gi", "8"},
		{"side", "limits.ephemeral-storage", "1Gi", "10"},
		{"side", "requests.cpu", "1m", "0"},
		{"side", "limits.hugepages-2Mi", "1Mi", "0"},
		{"init", "limits.cpu", "", "4"},
		{"nobody", "limits.cpu", "", "container nobody not found"},
		{"", "limits.gpu", "", "unsupported container resource : limits.gpu"},
		{"", "cpu", "", "unsupported container resource : cpu"},
	} {
		ref := &corev1.ResourceFieldSelector{ContainerName: c.container, Resource: c.resource}
		if c.divisor != "" {
			ref.Divisor = resource.MustParse(c.divisor)
		}
		got, err := Resource(pod, &pod.Spec.Containers[0], ref, allocatable)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s of %q by %q = %s, want %s", c.resource, c.container, c.divisor, got, c.want)
		}
	}
	pod.Spec.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("2")}}
	if got, _ := Resource(pod, &pod.Spec.Containers[1], &corev1.ResourceFieldSelector{Resource: "limits.cpu"}, allocatable); got != "2" {
		t.Errorf("limit under a pod's limit = %s, want 2", got)
	}
}

// The whole environment: Services below envFrom below env, with references to what came before.
func TestEnvironment(t *testing.T) {
	b := testBuilder(t)
	yes := true
	pod := testPod()
	c := &pod.Spec.Containers[0]
	c.EnvFrom = []corev1.EnvFromSource{
		{Prefix: "CM_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref("settings")}},
		{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: ref("password")}},
		{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref("none"), Optional: &yes}},
	}
	from := func(s corev1.EnvVarSource) *corev1.EnvVarSource { return &s }
	c.Env = []corev1.EnvVar{
		{Name: "PLAIN", Value: "v"},
		{Name: "EXPANDED", Value: "$(PLAIN)-$(CM_color)-$(DB_SERVICE_HOST)-$(LATER)"},
		{Name: "LATER", Value: "x"},
		{Name: "OWN", Value: "set"},
		{Name: "POD_IP", ValueFrom: from(corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}})},
		{Name: "HOST_IP", ValueFrom: from(corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.hostIP"}})},
		{Name: "CPU", ValueFrom: from(corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}})},
		{Name: "COLOR", ValueFrom: from(corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref("settings"), Key: "color"}})},
		{Name: "MISSING", ValueFrom: from(corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref("settings"), Key: "none", Optional: &yes}})},
		{Name: "WORD", ValueFrom: from(corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("password"), Key: "WORD"}})},
	}
	got := environment(t, b, pod)
	for name, want := range map[string]string{
		"PLAIN": "v", "EXPANDED": "v-blue-10.43.1.2-$(LATER)", "OWN": "set", "POD_IP": "10.42.0.77", "HOST_IP": "192.0.2.1",
		"CPU": "1", "COLOR": "blue", "WORD": "xyzzy", "CM_color": "blue",
		"KUBERNETES_SERVICE_HOST": "10.43.0.1", "KUBERNETES_PORT": "tcp://10.43.0.1:443", "KUBERNETES_SERVICE_PORT_HTTPS": "443",
		"DB_SERVICE_HOST": "10.43.1.2", "DB_SERVICE_PORT": "5432", "DB_PORT_5432_TCP_ADDR": "10.43.1.2", "DB_PORT_5432_TCP_PROTO": "tcp",
	} {
		if got[name] != want {
			t.Errorf("%s = %q, want %q", name, got[name], want)
		}
	}
	for _, name := range []string{"MISSING", "HEADLESS_SERVICE_HOST", "OTHER_SERVICE_HOST"} {
		if v, there := got[name]; there {
			t.Errorf("%s = %q, want it absent", name, v)
		}
	}
	no := false
	pod.Spec.EnableServiceLinks = &no
	got = environment(t, b, pod)
	if _, there := got["DB_PORT"]; there || got["KUBERNETES_SERVICE_HOST"] == "" {
		t.Error("without service links only the API's variables remain")
	}
}

// Errors have upstream's words; they become the message of CreateContainerConfigError.
func TestEnvironmentErrors(t *testing.T) {
	b := testBuilder(t)
	for want, source := range map[string]corev1.EnvVarSource{
		"couldn't find key none in ConfigMap default/settings": {ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref("settings"), Key: "none"}},
		"couldn't find key none in Secret default/password":    {SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("password"), Key: "none"}},
		`configmap "none" not found`:                           {ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref("none"), Key: "k"}},
		`secret "none" not found`:                              {SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("none"), Key: "k"}},
	} {
		pod := testPod()
		pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "X", ValueFrom: &source}}
		_, err := b.Environ(t.Context(), pod, &pod.Spec.Containers[0], "", nil)
		if err == nil || err.Error() != want {
			t.Errorf("error = %v, want %s", err, want)
		}
	}
}

// Command and args see the whole environment; a subPathExpr must find all that it names.
func TestCommandAndSubPath(t *testing.T) {
	b := testBuilder(t)
	pod := testPod()
	c := &pod.Spec.Containers[0]
	c.Env = []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "E"}}
	c.Command, c.Args = []string{"run-$(A)", "$$(A)"}, []string{"$(NONE)"}
	vars, err := b.Environ(t.Context(), pod, c, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	command, args := CommandAndArgs(c, vars)
	if strings.Join(command, "|") != "run-1|$(A)" || strings.Join(args, "|") != "$(NONE)" {
		t.Errorf("command %q, args %q", command, args)
	}
	if path, err := SubPath(&corev1.VolumeMount{SubPathExpr: "logs/$(A)"}, vars); path != "logs/1" || err != nil {
		t.Errorf("SubPath = %q, %v", path, err)
	}
	if _, err := SubPath(&corev1.VolumeMount{SubPathExpr: "$(E)/$(B)/$(E)"}, vars); err == nil || err.Error() != "missing value for B, E" {
		t.Errorf("SubPath = %v, want the missing names", err)
	}
}

func environment(t *testing.T, b *Builder, pod *corev1.Pod) map[string]string {
	t.Helper()
	vars, err := b.Environ(t.Context(), pod, &pod.Spec.Containers[0], "10.42.0.77", nil)
	if err != nil {
		t.Fatal(err)
	}
	return byName(vars)
}

func testBuilder(t *testing.T) *Builder {
	t.Helper()
	services := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for _, s := range []*corev1.Service{
		service("default", "kubernetes", "10.43.0.1", corev1.ServicePort{Name: "https", Port: 443}),
		service("default", "db", "10.43.1.2", corev1.ServicePort{Port: 5432, Protocol: corev1.ProtocolTCP}),
		service("default", "own", "10.43.1.3", corev1.ServicePort{Port: 1}),
		service("default", "headless", "None", corev1.ServicePort{Port: 1}),
		service("elsewhere", "other", "10.43.1.4", corev1.ServicePort{Port: 1}),
	} {
		if err := services.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	return New(testObjects{}, Services{Lister: corelisters.NewServiceLister(services), Synced: func() bool { return true }}, Node{
		Allocatable: func() (corev1.ResourceList, error) { return corev1.ResourceList{"cpu": resource.MustParse("4")}, nil },
		HostIPs:     func() ([]string, error) { return []string{"192.0.2.1", "2001:db8::1"}, nil },
	})
}

func service(namespace, name, ip string, port corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{port}}}
}

// testObjects has one ConfigMap and one Secret.
type testObjects struct{}

func (testObjects) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if name != "settings" {
		return nil, apierrors.NewNotFound(corev1.Resource("configmap"), name)
	}
	return &corev1.ConfigMap{Data: map[string]string{"color": "blue"}}, nil
}

func (testObjects) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if name != "password" {
		return nil, apierrors.NewNotFound(corev1.Resource("secret"), name)
	}
	return &corev1.Secret{Data: map[string][]byte{"WORD": []byte("xyzzy")}}, nil
}

func ref(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }

func testPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "web", UID: "u-1",
			Labels:      map[string]string{"tier": `a"b`, "app": "web"},
			Annotations: map[string]string{"x/Y": "z"},
		},
		Spec: corev1.PodSpec{
			NodeName: "n1", ServiceAccountName: "robot",
			InitContainers: []corev1.Container{{Name: "init"}},
			Containers: []corev1.Container{
				{Name: "main", Resources: corev1.ResourceRequirements{
					Limits:   corev1.ResourceList{"cpu": resource.MustParse("250m"), "memory": resource.MustParse("64Mi")},
					Requests: corev1.ResourceList{"memory": resource.MustParse("1Mi")},
				}},
				{Name: "side"},
			},
		},
		Status: corev1.PodStatus{
			HostIP: "192.0.2.1", HostIPs: []corev1.HostIP{{IP: "192.0.2.1"}},
			PodIP: "10.42.0.5", PodIPs: []corev1.PodIP{{IP: "10.42.0.5"}, {IP: "fd00::5"}},
		},
	}
}
