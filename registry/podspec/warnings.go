// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const nullSelector = "a null labelSelector results in matching no pod"

// deprecatedNodeLabels are labels that nodes no longer have, or will not have for long.
var deprecatedNodeLabels = map[string]string{
	`beta.kubernetes.io/arch`:                       `deprecated since v1.14; use "kubernetes.io/arch" instead`,
	`beta.kubernetes.io/os`:                         `deprecated since v1.14; use "kubernetes.io/os" instead`,
	`failure-domain.beta.kubernetes.io/region`:      `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
	`failure-domain.beta.kubernetes.io/zone`:        `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
	`beta.kubernetes.io/instance-type`:              `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
	`app.kubernetes.io/created-by`:                  `deprecated since v1.9`,
	`scheduler.alpha.kubernetes.io/preferAvoidPods`: `deprecated since v1.22; use Taints and Tolerations instead`,
	`node-role.kubernetes.io/master`:                `use "node-role.kubernetes.io/control-plane" instead`,
}

var deprecatedAnnotations = []struct{ key, message string }{
	{`scheduler.alpha.kubernetes.io/critical-pod`, `non-functional in v1.16+; use the "priorityClassName" field instead`},
	{`security.alpha.kubernetes.io/sysctls`, `non-functional in v1.11+; use the "sysctls" field instead`},
	{`security.alpha.kubernetes.io/unsafe-sysctls`, `non-functional in v1.11+; use the "sysctls" field instead`},
}

// NodeLabelWarning says why a label of nodes should not be used any more; ok is false if it may.
func NodeLabelWarning(label string) (message string, ok bool) {
	message, ok = deprecatedNodeLabels[label]
	return message, ok
}

// Warnings collects what to tell a user about a pod or template that is valid. path is that of a
// template, nil for a Pod.
func Warnings(path *field.Path, meta *metav1.ObjectMeta, spec *corev1.PodSpec) []string {
	w := warnings{spec: path.Child("spec"), annotations: path.Child("metadata", "annotations")}
	w.nodes(spec)
	w.pods(spec)
	for _, d := range deprecatedAnnotations {
		if _, ok := meta.Annotations[d.key]; ok {
			w.add(w.annotations.Key(d.key), "%s", d.message)
		}
	}
	for i := range spec.Volumes {
		w.volume(w.spec.Child("volumes").Index(i), &spec.Volumes[i])
	}
	w.list = append(w.list, overlapWarnings(spec.Volumes)...)
	w.duplicates(spec)
	w.wholeBytes(w.spec.Child("overhead"), spec.Overhead)
	w.profiles(meta, spec, path != nil)
	for c, at := range Containers(spec, w.spec) {
		w.wholeBytes(at.Child("resources", "limits"), c.Resources.Limits)
		w.wholeBytes(at.Child("resources", "requests"), c.Resources.Requests)
		w.env(at.Child("env"), c.Env)
	}
	w.ports(spec)
	if p := spec.TerminationGracePeriodSeconds; p != nil && *p < 0 {
		w.add(w.spec.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	if spec.DNSConfig != nil {
		for i, ip := range spec.DNSConfig.Nameservers {
			w.list = append(w.list, validation.GetWarningsForIP(w.spec.Child("dnsConfig", "nameservers").Index(i), ip)...)
		}
	}
	for i, alias := range spec.HostAliases {
		w.list = append(w.list, validation.GetWarningsForIP(w.spec.Child("hostAliases").Index(i).Child("ip"), alias.IP)...)
	}
	return w.list
}

type warnings struct {
	spec, annotations *field.Path
	list              []string
}

func (w *warnings) add(path *field.Path, format string, args ...any) {
	w.list = append(w.list, path.String()+": "+fmt.Sprintf(format, args...))
}

// nodes warns of labels of nodes that are on their way out.
func (w *warnings) nodes(spec *corev1.PodSpec) {
	for _, label := range sets.List(sets.KeySet(spec.NodeSelector)) {
		if msg, ok := NodeLabelWarning(label); ok {
			w.add(w.spec.Child("nodeSelector").Key(label), "%s", msg)
		}
	}
	if spec.Affinity != nil && spec.Affinity.NodeAffinity != nil {
		n, at := spec.Affinity.NodeAffinity, w.spec.Child("affinity", "nodeAffinity")
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			for i, term := range n.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
				at := at.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms").Index(i)
				w.list = append(w.list, NodeSelectorTermWarnings(at, term, false)...)
			}
		}
		for i, term := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			at := at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("preference")
			w.list = append(w.list, NodeSelectorTermWarnings(at, term.Preference, true)...)
		}
	}
	for i, c := range spec.TopologySpreadConstraints {
		at := w.spec.Child("topologySpreadConstraints").Index(i)
		if msg, ok := NodeLabelWarning(c.TopologyKey); ok {
			w.add(at.Child("topologyKey"), "%s is %s", c.TopologyKey, msg)
		}
		if c.LabelSelector == nil {
			w.add(at.Child("labelSelector"), nullSelector)
		}
	}
}

// NodeSelectorTermWarnings warns of labels in a term that chooses nodes, and of values if they are not
// checked otherwise.
func NodeSelectorTermWarnings(path *field.Path, term corev1.NodeSelectorTerm, values bool) []string {
	var w warnings
	for i, e := range term.MatchExpressions {
		at := path.Child("matchExpressions").Index(i)
		if msg, ok := NodeLabelWarning(e.Key); ok {
			w.add(at.Child("key"), "%s is %s", e.Key, msg)
		}
		for j, v := range e.Values {
			for _, msg := range validation.IsValidLabelValue(v) {
				if values {
					w.add(at.Child("values").Index(j), "%s is invalid, %s", v, msg)
				}
			}
		}
	}
	return w.list
}

// LabelSelectorWarnings warns of labels in a selector that chooses nodes.
func LabelSelectorWarnings(path *field.Path, s *metav1.LabelSelector) []string {
	if s == nil {
		return nil
	}
	var w warnings
	for i, e := range s.MatchExpressions {
		if msg, ok := NodeLabelWarning(e.Key); ok {
			w.add(path.Child("matchExpressions").Index(i).Child("key"), "%s is %s", e.Key, msg)
		}
	}
	for _, label := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		if msg, ok := NodeLabelWarning(label); ok {
			w.add(path.Child("matchLabels").Child(label), "%s", msg)
		}
	}
	return w.list
}

// pods warns of selectors of other pods that were left out.
func (w *warnings) pods(spec *corev1.PodSpec) {
	if spec.Affinity == nil {
		return
	}
	check := func(at *field.Path, hard []corev1.PodAffinityTerm, soft []corev1.WeightedPodAffinityTerm) {
		for i, t := range hard {
			if t.LabelSelector == nil {
				w.add(at.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i).Child("labelSelector"), nullSelector)
			}
		}
		for i, t := range soft {
			if t.PodAffinityTerm.LabelSelector == nil {
				w.add(at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("podAffinityTerm", "labelSelector"), nullSelector)
			}
		}
	}
	if a := spec.Affinity.PodAffinity; a != nil {
		check(w.spec.Child("affinity", "podAffinity"), a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := spec.Affinity.PodAntiAffinity; a != nil {
		check(w.spec.Child("affinity", "podAntiAffinity"), a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func (w *warnings) volume(path *field.Path, v *corev1.Volume) {
	for _, old := range []struct {
		used          bool
		name, message string
	}{
		{v.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
		{v.GitRepo != nil, "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"},
		{v.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
		{v.Flocker != nil, "flocker", "deprecated in v1.22, non-functional in v1.25+"},
		{v.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
		{v.Quobyte != nil, "quobyte", "deprecated in v1.22, non-functional in v1.25+"},
		{v.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
		{v.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+"},
		{v.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+"},
	} {
		if old.used {
			w.add(path.Child(old.name), "%s", old.message)
		}
	}
	if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
		w.list = append(w.list, ClaimWarnings(path.Child("ephemeral", "volumeClaimTemplate", "spec"), &v.Ephemeral.VolumeClaimTemplate.Spec)...)
	}
}

// ClaimWarnings warns of a claim for fractions of a byte.
func ClaimWarnings(path *field.Path, spec *corev1.PersistentVolumeClaimSpec) []string {
	var w warnings
	w.whole(path.Child("resources", "requests"), spec.Resources.Requests, corev1.ResourceStorage)
	w.whole(path.Child("resources", "limits"), spec.Resources.Limits, corev1.ResourceStorage)
	return w.list
}

// duplicates warns of entries that overwrite each other.
func (w *warnings) duplicates(spec *corev1.PodSpec) {
	ips := sets.New[string]()
	for i, a := range spec.HostAliases {
		if ips.Has(a.IP) {
			w.add(w.spec.Child("hostAliases").Index(i).Child("ip"), "duplicate ip %q", a.IP)
		}
		ips.Insert(a.IP)
	}
	secrets := sets.New[string]()
	for i, s := range spec.ImagePullSecrets {
		if secrets.Has(s.Name) {
			w.add(w.spec.Child("imagePullSecrets").Index(i).Child("name"), "duplicate name %q", s.Name)
		}
		secrets.Insert(s.Name)
	}
	for i, s := range spec.ImagePullSecrets {
		if s.Name == "" {
			w.add(w.spec.Child("imagePullSecrets").Index(i).Child("name"), "invalid empty name %q", s.Name)
		}
	}
}

func (w *warnings) wholeBytes(path *field.Path, list corev1.ResourceList) {
	w.whole(path, list, corev1.ResourceMemory)
	w.whole(path, list, corev1.ResourceEphemeralStorage)
}

func (w *warnings) whole(path *field.Path, list corev1.ResourceList, name corev1.ResourceName) {
	if q, ok := list[name]; ok && q.MilliValue()%1000 != 0 {
		w.add(path.Key(string(name)), "fractional byte value %q is invalid, must be an integer", q.String())
	}
}

// profiles warns of annotations for seccomp and AppArmor. Those of AppArmor still work; for pods
// SyncAppArmor warns of them.
func (w *warnings) profiles(meta *metav1.ObjectMeta, spec *corev1.PodSpec, template bool) {
	const useSeccompField = `non-functional in v1.27+; use the "seccompProfile" field instead`
	sc := spec.SecurityContext
	if sc == nil {
		sc = &corev1.PodSecurityContext{}
	}
	if _, ok := meta.Annotations[corev1.SeccompPodAnnotationKey]; ok && sc.SeccompProfile == nil {
		w.add(w.annotations.Key(corev1.SeccompPodAnnotationKey), useSeccompField)
	}
	for c := range Containers(spec, nil) {
		own := c.SecurityContext
		if own == nil {
			own = &corev1.SecurityContext{}
		}
		if _, ok := meta.Annotations[seccompAnnotation+c.Name]; ok && own.SeccompProfile == nil {
			w.add(w.annotations.Key(seccompAnnotation+c.Name), useSeccompField)
		}
		annotation, ok := meta.Annotations[appArmorAnnotation+c.Name]
		same := sc.AppArmorProfile != nil && reflect.DeepEqual(sc.AppArmorProfile, appArmorFromAnnotation(annotation))
		if ok && template && own.AppArmorProfile == nil && !same {
			w.add(w.annotations.Key(appArmorAnnotation+c.Name), useAppArmorField)
		}
	}
}

const useAppArmorField = `deprecated since v1.30; use the "appArmorProfile" field instead`

// SyncAppArmor sets the field of each container that only has the annotation, and returns a warning for
// each annotation that was needed for it or is no profile.
func SyncAppArmor(pod *corev1.Pod) []string {
	if isWindows(&pod.Spec) {
		return nil
	}
	var w warnings
	var ofPod *corev1.AppArmorProfile
	if sc := pod.Spec.SecurityContext; sc != nil {
		ofPod = sc.AppArmorProfile
	}
	for c := range Containers(&pod.Spec, nil) {
		key := appArmorAnnotation + c.Name
		annotation, ok := pod.Annotations[key]
		if !ok || c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
			continue
		}
		profile := appArmorFromAnnotation(annotation)
		if len(validateAppArmor(nil, profile)) > 0 {
			profile = nil
		}
		if apiequality.Semantic.DeepEqual(profile, ofPod) && profile != nil {
			continue
		}
		if profile != nil {
			if c.SecurityContext == nil {
				c.SecurityContext = &corev1.SecurityContext{}
			}
			c.SecurityContext.AppArmorProfile = profile
		}
		w.add(field.NewPath("metadata", "annotations").Key(key), useAppArmorField)
	}
	return w.list
}

// env warns of variables that come twice, unless the later one adds to the earlier: server-side apply
// knows them by name and may lose one.
func (w *warnings) env(path *field.Path, vars []corev1.EnvVar) {
	seen := sets.New[string]()
	for i, v := range vars {
		ref := "$(" + v.Name + ")"
		extends := v.ValueFrom == nil && v.Value != ref && strings.Contains(v.Value, ref)
		if seen.Has(v.Name) && !extends {
			w.add(path.Index(i), "hides previous definition of %q, which may be dropped when using apply", v.Name)
		}
		seen.Insert(v.Name)
	}
}

// ports warns of ports of containers that are the same, and of names that are.
func (w *warnings) ports(spec *corev1.PodSpec) {
	type placed struct {
		path *field.Path
		port corev1.ContainerPort
	}
	seen := map[string][]placed{}
	for c, at := range Containers(spec, w.spec) {
		for i, p := range c.Ports {
			at := at.Child("ports").Index(i)
			if p.HostIP != "" && p.HostPort == 0 {
				w.add(at, "hostIP set without hostPort: %+v", p)
			}
			key := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
			for _, other := range seen[key] {
				switch q := other.port; {
				case p.HostIP == q.HostIP && p.HostPort == q.HostPort:
					w.add(at, "duplicate port definition with %s", other.path)
				case p.HostPort == 0 || q.HostPort == 0:
					w.add(at, "overlapping port definition with %s", other.path)
				case p.HostPort == q.HostPort && (p.HostIP == "") != (q.HostIP == ""):
					w.add(at, "dangerously ambiguous port definition with %s", other.path)
				}
			}
			seen[key] = append(seen[key], placed{at, p})
		}
	}
	names := map[string]*field.Path{}
	for c, at := range Containers(spec, w.spec) {
		for i, p := range c.Ports {
			at := at.Child("ports").Index(i)
			if other, ok := names[p.Name]; ok && p.Name != "" {
				w.add(at, "duplicate port name %q with %s, services and probes that select ports by name will use %s", p.Name, other, other)
			} else {
				names[p.Name] = at
			}
		}
	}
}

// mapped is a file in a volume, and what it is made from if that is worth telling.
type mapped struct{ path, source string }

func (m mapped) String() string {
	if m.source == "" {
		return fmt.Sprintf("%q", m.path)
	}
	return fmt.Sprintf("%q (%s)", m.path, m.source)
}

// overlapWarnings warns of files in one volume of which one is the other, or lies in it.
func overlapWarnings(volumes []corev1.Volume) []string {
	var list []string
	for _, v := range volumes {
		var what string
		var files []mapped
		switch {
		case v.ConfigMap != nil:
			what, files = fmt.Sprintf("ConfigMap %q", v.ConfigMap.Name), keyFiles(v.ConfigMap.Items, "")
		case v.Secret != nil:
			what, files = fmt.Sprintf("Secret %q", v.Secret.SecretName), keyFiles(v.Secret.Items, "")
		case v.DownwardAPI != nil:
			what, files = "DownwardAPI", downwardFiles(v.DownwardAPI.Items, "")
		case v.Projected != nil:
			what = "Projected"
			for _, s := range v.Projected.Sources {
				if s == (corev1.VolumeProjection{}) {
					list = append(list, fmt.Sprintf("volume %q (Projected) has no sources provided", v.Name))
				}
				files = append(files, projectedFiles(&s)...)
			}
		}
		for i, file := range files {
			for _, other := range files[:i] {
				if overlap(file.path, other.path) {
					list = append(list, fmt.Sprintf("volume %q (%s): overlapping paths: %s with %s", v.Name, what, file, other))
				}
			}
		}
	}
	return list
}

func overlap(a, b string) bool {
	return a != "" && b != "" && (strings.HasPrefix(a+"/", b+"/") || strings.HasPrefix(b+"/", a+"/"))
}

func keyFiles(items []corev1.KeyToPath, source string) []mapped {
	files := make([]mapped, 0, len(items))
	for _, item := range items {
		files = append(files, mapped{strings.TrimRight(item.Path, "/"), source})
	}
	return files
}

func downwardFiles(items []corev1.DownwardAPIVolumeFile, source string) []mapped {
	files := make([]mapped, 0, len(items))
	for _, item := range items {
		files = append(files, mapped{strings.TrimRight(item.Path, "/"), source})
	}
	return files
}

func projectedFiles(s *corev1.VolumeProjection) []mapped {
	switch {
	case s.ConfigMap != nil:
		return keyFiles(s.ConfigMap.Items, fmt.Sprintf("ConfigMap %q", s.ConfigMap.Name))
	case s.Secret != nil:
		return keyFiles(s.Secret.Items, fmt.Sprintf("Secret %q", s.Secret.Name))
	case s.DownwardAPI != nil:
		return downwardFiles(s.DownwardAPI.Items, "DownwardAPI")
	case s.ServiceAccountToken != nil:
		return []mapped{{strings.TrimRight(s.ServiceAccountToken.Path, "/"), "ServiceAccountToken"}}
	case s.ClusterTrustBundle != nil:
		name := s.ClusterTrustBundle.Name
		if name == nil {
			name = s.ClusterTrustBundle.SignerName
		}
		if name == nil {
			return nil
		}
		return []mapped{{strings.TrimRight(s.ClusterTrustBundle.Path, "/"), fmt.Sprintf("ClusterTrustBundle %q", *name)}}
	case s.PodCertificate != nil:
		return []mapped{
			{strings.TrimRight(s.PodCertificate.CertificateChainPath, "/"), "PodCertificate chain"},
			{strings.TrimRight(s.PodCertificate.KeyPath, "/"), "PodCertificate key"},
			{strings.TrimRight(s.PodCertificate.CredentialBundlePath, "/"), "PodCertificate credential bundle"},
		}
	}
	return nil
}
