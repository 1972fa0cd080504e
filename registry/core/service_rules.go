// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rule"
)

const (
	maxClientIPSeconds  = 24 * 60 * 60
	onlyLoadBalancers   = "may only be used when `type` is 'LoadBalancer'"
	setOnce             = "may not change once set"
	notForExternalNames = "may not be set for ExternalName services"
	oneIPPerFamily      = "may specify no more than one IP for each IP family"
)

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	if spec.SessionAffinity == "" {
		spec.SessionAffinity = corev1.ServiceAffinityNone
	}
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		if c := spec.SessionAffinityConfig; c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To(corev1.DefaultClientIPServiceAffinitySeconds)}}
		}
	}
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if externallyAccessible(s) && spec.ExternalTrafficPolicy == "" {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if spec.InternalTrafficPolicy == nil && needsClusterIP(s) {
		spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	if spec.AllocateLoadBalancerNodePorts == nil {
		spec.AllocateLoadBalancerNodePorts = ptr.To(true)
	}
	for i := range s.Status.LoadBalancer.Ingress {
		if in := &s.Status.LoadBalancer.Ingress[i]; in.IP != "" && in.IPMode == nil {
			in.IPMode = ptr.To(corev1.LoadBalancerIPModeVIP)
		}
	}
}

// What a Service has depends on its type.

func needsClusterIP(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		return true
	}
	return false
}

func needsNodePort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

func needsHealthCheck(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func externallyAccessible(s *corev1.Service) bool {
	return needsNodePort(s) || s.Spec.Type == corev1.ServiceTypeClusterIP && len(s.Spec.ExternalIPs) > 0
}

func isHeadless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

func prepareServiceCreate(s *corev1.Service) { s.Status = corev1.ServiceStatus{} }

// prepareServiceUpdate lets a user change the type alone: what the old type had and the new type cannot
// have is cleared if it is still as it was.
func prepareServiceUpdate(s, old *corev1.Service) {
	s.Status = old.Status
	is, was := &s.Spec, &old.Spec
	if old.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.Type == corev1.ServiceTypeExternalName {
		if is.ClusterIP == was.ClusterIP && slices.Equal(is.ClusterIPs, was.ClusterIPs) {
			is.ClusterIP, is.ClusterIPs = "", nil
		}
		if reflect.DeepEqual(is.IPFamilies, was.IPFamilies) {
			is.IPFamilies = nil
		}
		if ptr.Deref(is.IPFamilyPolicy, "") == ptr.Deref(was.IPFamilyPolicy, "") {
			is.IPFamilyPolicy = nil
		}
	}
	if needsNodePort(old) && !needsNodePort(s) && nodePorts(old).IsSuperset(nodePorts(s)) {
		for i := range is.Ports {
			is.Ports[i].NodePort = 0
		}
	}
	if needsHealthCheck(old) && !needsHealthCheck(s) && is.HealthCheckNodePort == was.HealthCheckNodePort {
		is.HealthCheckNodePort = 0
	}
	if externallyAccessible(old) && !externallyAccessible(s) && is.ExternalTrafficPolicy == was.ExternalTrafficPolicy {
		is.ExternalTrafficPolicy = ""
	}
	if is.Type == corev1.ServiceTypeLoadBalancer {
		return
	}
	if was.Type == corev1.ServiceTypeLoadBalancer {
		if reflect.DeepEqual(is.AllocateLoadBalancerNodePorts, was.AllocateLoadBalancerNodePorts) {
			is.AllocateLoadBalancerNodePorts = nil
		}
		if reflect.DeepEqual(is.LoadBalancerClass, was.LoadBalancerClass) {
			is.LoadBalancerClass = nil
		}
	}
	s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
}

func nodePorts(s *corev1.Service) sets.Set[int32] {
	ports := sets.New[int32]()
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			ports.Insert(p.NodePort)
		}
	}
	return ports
}

func prepareServiceStatusUpdate(s, old *corev1.Service) { s.Spec = old.Spec }

// serviceFields are what field selectors of Services know besides name and namespace.
func serviceFields(s *corev1.Service) fields.Set {
	return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
}

func validateService(s *corev1.Service) field.ErrorList {
	return append(rule.ObjectMeta(&s.ObjectMeta, true, apivalidation.NameIsDNSLabel), validateServiceSpec(s, &corev1.Service{})...)
}

func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	errs := rule.ObjectMetaUpdate(&s.ObjectMeta)
	errs = append(errs, validateClusterIPsUpdate(s, old)...)
	errs = append(errs, validateIPFamiliesUpdate(s, old)...)
	path := field.NewPath("spec")
	both := s.Spec.Type == corev1.ServiceTypeLoadBalancer && old.Spec.Type == corev1.ServiceTypeLoadBalancer
	if both && !reflect.DeepEqual(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(path.Child("loadBalancerClass"), s.Spec.LoadBalancerClass, setOnce))
	}
	if needsHealthCheck(s) && needsHealthCheck(old) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(path.Child("healthCheckNodePort"), "field is immutable"))
	}
	return append(errs, validateServiceSpec(s, old)...)
}

// validateServiceSpec checks a Service as it must be; old has the addresses that may be written as they are.
func validateServiceSpec(s, old *corev1.Service) field.ErrorList {
	path, spec := field.NewPath("spec"), &s.Spec
	var errs field.ErrorList
	add := func(more field.ErrorList) { errs = append(errs, more...) }

	add(validateTopologyAnnotations(s))
	add(rule.If(len(spec.Ports) == 0 && !isHeadless(s) && spec.Type != corev1.ServiceTypeExternalName, field.Required(path.Child("ports"), "")))
	switch {
	case needsNodePort(s) && isHeadless(s):
		add(field.ErrorList{field.Invalid(path.Child("clusterIPs").Index(0), spec.ClusterIPs[0], fmt.Sprintf("may not be set to 'None' for %s services", spec.Type))})
	case spec.Type == corev1.ServiceTypeExternalName:
		add(validateExternalName(path, spec))
	}
	add(validateServicePorts(path.Child("ports"), spec))
	add(rule.Labels(path.Child("selector"), spec.Selector))
	add(validateSessionAffinity(path, spec))
	add(ValidateServiceIPs(s, old))
	for i, ip := range spec.ExternalIPs {
		at := path.Child("externalIPs").Index(i)
		wrong := rule.IP(at, ip, old.Spec.ExternalIPs...)
		if len(wrong) == 0 {
			wrong = ValidateEndpointIP(at, ip)
		}
		add(wrong)
	}
	add(rule.OneOf(path.Child("type"), spec.Type,
		corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort))
	add(validateSourceRanges(s, old))
	add(validateLoadBalancerFields(path, spec))
	add(validateTrafficPolicies(path, s))
	return errs
}

func validateTopologyAnnotations(s *corev1.Service) field.ErrorList {
	hints, hinted := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	mode, ok := s.Annotations[corev1.AnnotationTopologyMode]
	return rule.If(ok && hinted && mode != hints, field.Invalid(field.NewPath("metadata", "annotations").Key(corev1.AnnotationTopologyMode), mode,
		fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints)))
}

func validateExternalName(path *field.Path, spec *corev1.ServiceSpec) field.ErrorList {
	errs := rule.If(len(spec.ClusterIPs) > 0, field.Forbidden(path.Child("clusterIPs"), notForExternalNames))
	errs = append(errs, rule.If(len(spec.IPFamilies) > 0, field.Forbidden(path.Child("ipFamilies"), notForExternalNames))...)
	errs = append(errs, rule.If(spec.IPFamilyPolicy != nil, field.Forbidden(path.Child("ipFamilyPolicy"), notForExternalNames))...)
	name := strings.TrimSuffix(spec.ExternalName, ".")
	if name == "" {
		return append(errs, field.Required(path.Child("externalName"), ""))
	}
	return append(errs, rule.DNSSubdomain(path.Child("externalName"), name)...)
}

func validateServicePorts(path *field.Path, spec *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	type number struct {
		protocol corev1.Protocol
		port     int32
	}
	names, ports, nodes := sets.New[string](), sets.New[number](), sets.New[number]()
	for i, p := range spec.Ports {
		at := path.Index(i)
		switch {
		case p.Name != "":
			errs = append(errs, rule.DNSLabel(at.Child("name"), p.Name)...)
			errs = append(errs, rule.If(names.Has(p.Name), field.Duplicate(at.Child("name"), p.Name))...)
			names.Insert(p.Name)
		case len(spec.Ports) > 1:
			errs = append(errs, field.Required(at.Child("name"), ""))
		}
		errs = append(errs, rule.Port(at.Child("port"), p.Port)...)
		errs = append(errs, rule.OneOf(at.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		errs = append(errs, rule.PortNumberOrName(at.Child("targetPort"), p.TargetPort)...)
		if p.AppProtocol != nil {
			errs = append(errs, rule.QualifiedName(at.Child("appProtocol"), *p.AppProtocol)...)
		}
		if p.NodePort != 0 {
			node := number{p.Protocol, p.NodePort}
			errs = append(errs, rule.If(spec.Type == corev1.ServiceTypeClusterIP, field.Forbidden(at.Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))...)
			errs = append(errs, rule.If(nodes.Has(node), field.Duplicate(at.Child("nodePort"), p.NodePort))...)
			nodes.Insert(node)
		}
		port := number{p.Protocol, p.Port}
		errs = append(errs, rule.If(ports.Has(port), field.Duplicate(at, corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))...)
		ports.Insert(port)
	}
	return errs
}

func validateSessionAffinity(path *field.Path, spec *corev1.ServiceSpec) field.ErrorList {
	errs := rule.OneOf(path.Child("sessionAffinity"), spec.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	at, config := path.Child("sessionAffinityConfig"), spec.SessionAffinityConfig
	if spec.SessionAffinity == corev1.ServiceAffinityNone && config != nil {
		errs = append(errs, field.Forbidden(at, fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone)))
	}
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return errs
	}
	required := fmt.Sprintf("when session affinity type is %s", corev1.ServiceAffinityClientIP)
	switch seconds := at.Child("clientIP", "timeoutSeconds"); {
	case config == nil:
		errs = append(errs, field.Required(at, required))
	case config.ClientIP == nil:
		errs = append(errs, field.Required(at.Child("clientIP"), required))
	case config.ClientIP.TimeoutSeconds == nil:
		errs = append(errs, field.Required(seconds, required))
	case *config.ClientIP.TimeoutSeconds <= 0 || *config.ClientIP.TimeoutSeconds > maxClientIPSeconds:
		errs = append(errs, field.Invalid(seconds, config.ClientIP.TimeoutSeconds, fmt.Sprintf("must be greater than 0 and less than %d", maxClientIPSeconds)))
	}
	return errs
}

// ValidateServiceIPs checks cluster IPs and families against each other, as far as they are set: what is
// missing is allocated later. old has the addresses that may be written as they are.
func ValidateServiceIPs(s, old *corev1.Service) field.ErrorList {
	spec := &s.Spec
	if spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	path := field.NewPath("spec")
	at := path.Child("clusterIPs")
	var errs field.ErrorList
	switch {
	case spec.ClusterIP == "" && len(spec.ClusterIPs) > 0:
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "must be empty when `clusterIP` is not specified"))
	case spec.ClusterIP != "" && len(spec.ClusterIPs) == 0:
		errs = append(errs, field.Required(at, ""))
	case spec.ClusterIP != "" && spec.ClusterIPs[0] != spec.ClusterIP:
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "first value must match `clusterIP`"))
	}
	seen := sets.New[corev1.IPFamily]()
	for i, family := range spec.IPFamilies {
		at := path.Child("ipFamilies").Index(i)
		errs = append(errs, rule.Supported(at, family, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		errs = append(errs, rule.If(seen.Has(family), field.Duplicate(at, family))...)
		seen.Insert(family)
	}
	errs = append(errs, rule.SupportedIfSet(path.Child("ipFamilyPolicy"), spec.IPFamilyPolicy,
		corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)

	var wrong field.ErrorList
	for i, ip := range spec.ClusterIPs {
		if i > 0 || ip != corev1.ClusterIPNone {
			wrong = append(wrong, rule.IP(at.Index(i), ip, old.Spec.ClusterIPs...)...)
		} else if len(spec.ClusterIPs) > 1 {
			wrong = append(wrong, field.Invalid(at, spec.ClusterIPs, "'None' must be the first and only value"))
		}
	}
	errs = append(errs, wrong...)
	errs = append(errs, rule.If(len(spec.ClusterIPs) > 2, field.Invalid(at, spec.ClusterIPs, "may only hold up to 2 values"))...)
	if len(wrong) > 0 {
		return errs // of what is no address nothing more can be said
	}
	if len(spec.ClusterIPs) > 1 {
		both, err := netutils.IsDualStackIPStrings(spec.ClusterIPs)
		if err != nil {
			errs = append(errs, field.InternalError(at, fmt.Errorf("failed to check for dual stack with error:%v", err)))
		}
		errs = append(errs, rule.If(!both, field.Invalid(at, spec.ClusterIPs, oneIPPerFamily))...)
	}
	if isHeadless(s) {
		return errs
	}
	for i, ip := range spec.ClusterIPs[:min(len(spec.ClusterIPs), len(spec.IPFamilies))] {
		family := corev1.IPv4Protocol
		if netutils.IsIPv6String(ip) {
			family = corev1.IPv6Protocol
		}
		want := spec.IPFamilies[i]
		if known := want == corev1.IPv4Protocol || want == corev1.IPv6Protocol; known && want != family {
			errs = append(errs, field.Invalid(at.Index(i), ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%v]`", want, i)))
		}
	}
	return errs
}

// validateClusterIPsUpdate: the first address stays, the second may come and go.
func validateClusterIPsUpdate(s, old *corev1.Service) field.ErrorList {
	if s.Spec.Type == corev1.ServiceTypeExternalName || old.Spec.Type == corev1.ServiceTypeExternalName || isHeadless(s) && isHeadless(old) {
		return nil
	}
	path := field.NewPath("spec", "clusterIPs")
	is, was := s.Spec.ClusterIPs, old.Spec.ClusterIPs
	var errs field.ErrorList
	if len(is) == len(was) {
		for i := range was {
			errs = append(errs, rule.If(is[i] != was[i], field.Invalid(path.Index(i), is, setOnce))...)
		}
		return errs
	}
	if len(is) == 0 {
		errs = append(errs, field.Invalid(path.Index(0), is, "primary clusterIP can not be unset"))
	}
	if len(is) > 0 && len(was) > 0 && is[0] != was[0] {
		errs = append(errs, field.Invalid(path.Index(0), is, setOnce))
	}
	if len(was) > len(is) && len(is) == 1 && ptr.Deref(s.Spec.IPFamilyPolicy, "") != corev1.IPFamilyPolicySingleStack {
		errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary clusterIP"))
	}
	return errs
}

// validateIPFamiliesUpdate: the first family stays, the second may come and go.
func validateIPFamiliesUpdate(s, old *corev1.Service) field.ErrorList {
	if s.Spec.Type == corev1.ServiceTypeExternalName || old.Spec.Type == corev1.ServiceTypeExternalName || isHeadless(s) || isHeadless(old) {
		return nil
	}
	first := field.NewPath("spec", "ipFamilies").Index(0)
	is, was := s.Spec.IPFamilies, old.Spec.IPFamilies
	var errs field.ErrorList
	if len(is) == len(was) {
		for i := range was {
			errs = append(errs, rule.If(is[i] != was[i], field.Invalid(first, is, setOnce))...)
		}
		return errs
	}
	if len(was) > len(is) && len(s.Spec.ClusterIPs) == 0 {
		errs = append(errs, field.Invalid(first, is, "primary ipFamily can not be unset"))
	}
	if len(is) > 0 && len(was) > 0 && is[0] != was[0] {
		errs = append(errs, field.Invalid(first, s.Spec.ClusterIPs, setOnce))
	}
	if len(was) > len(is) && len(is) == 1 && ptr.Deref(s.Spec.IPFamilyPolicy, "") != corev1.IPFamilyPolicySingleStack {
		errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary ipFamily"))
	}
	return errs
}

// validateSourceRanges checks the blocks that a load balancer lets in, by field or by annotation. They
// may have blanks around them.
func validateSourceRanges(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	isLB := s.Spec.Type == corev1.ServiceTypeLoadBalancer
	if len(s.Spec.LoadBalancerSourceRanges) > 0 {
		path := field.NewPath("spec", "LoadBalancerSourceRanges")
		errs = append(errs, rule.If(!isLB, field.Forbidden(path, onlyLoadBalancers))...)
		var existing []string
		for _, cidr := range old.Spec.LoadBalancerSourceRanges {
			existing = append(existing, strings.TrimSpace(cidr))
		}
		for i, cidr := range s.Spec.LoadBalancerSourceRanges {
			errs = append(errs, rule.CIDR(path.Index(i), strings.TrimSpace(cidr), existing...)...)
		}
		return errs
	}
	value, ok := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	if !ok {
		return nil
	}
	path := field.NewPath("metadata", "annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
	errs = append(errs, rule.If(!isLB, field.Forbidden(path, onlyLoadBalancers))...)
	if value = strings.TrimSpace(value); value == "" || old.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey] == s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey] {
		return errs
	}
	for _, cidr := range strings.Split(value, ",") {
		errs = append(errs, rule.CIDR(path, strings.TrimSpace(cidr))...)
	}
	return errs
}

func validateLoadBalancerFields(path *field.Path, spec *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		errs = rule.If(spec.AllocateLoadBalancerNodePorts == nil, field.Required(field.NewPath("allocateLoadBalancerNodePorts"), ""))
		if spec.LoadBalancerClass != nil {
			errs = append(errs, rule.QualifiedName(path.Child("loadBalancerClass"), *spec.LoadBalancerClass)...)
		}
		return errs
	}
	errs = rule.If(spec.AllocateLoadBalancerNodePorts != nil, field.Forbidden(path.Child("allocateLoadBalancerNodePorts"), onlyLoadBalancers))
	return append(errs, rule.If(spec.LoadBalancerClass != nil, field.Forbidden(path.Child("loadBalancerClass"), onlyLoadBalancers))...)
}

func validateTrafficPolicies(path *field.Path, s *corev1.Service) field.ErrorList {
	spec := &s.Spec
	var errs field.ErrorList
	if at := path.Child("externalTrafficPolicy"); externallyAccessible(s) {
		errs = rule.OneOf(at, spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	} else {
		errs = rule.If(spec.ExternalTrafficPolicy != "", field.Invalid(at, spec.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	switch at := path.Child("healthCheckNodePort"); {
	case !needsHealthCheck(s):
		errs = append(errs, rule.If(spec.HealthCheckNodePort != 0, field.Invalid(at, spec.HealthCheckNodePort,
			"may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))...)
	case spec.HealthCheckNodePort == 0:
		errs = append(errs, field.Required(at, ""))
	default:
		errs = append(errs, rule.Port(at, spec.HealthCheckNodePort)...)
	}
	errs = append(errs, rule.If(spec.InternalTrafficPolicy == nil && needsClusterIP(s), field.Required(path.Child("internalTrafficPolicy"), ""))...)
	errs = append(errs, rule.SupportedIfSet(path.Child("internalTrafficPolicy"), spec.InternalTrafficPolicy,
		corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	return append(errs, rule.SupportedIfSet(path.Child("trafficDistribution"), spec.TrafficDistribution,
		corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
}

func validateServiceStatusUpdate(s, old *corev1.Service) field.ErrorList {
	path := field.NewPath("status", "loadBalancer", "ingress")
	errs := rule.ObjectMetaUpdate(&s.ObjectMeta)
	if len(s.Status.LoadBalancer.Ingress) > 0 && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return append(errs, field.Forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'"))
	}
	var existing []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		existing = append(existing, in.IP)
	}
	for i, in := range s.Status.LoadBalancer.Ingress {
		at := path.Index(i)
		if in.IP != "" {
			errs = append(errs, rule.IP(at.Child("ip"), in.IP, existing...)...)
		}
		switch {
		case in.IPMode == nil:
			errs = append(errs, rule.If(in.IP != "", field.Required(at.Child("ipMode"), "must be specified when `ip` is set"))...)
		case in.IP == "":
			errs = append(errs, field.Forbidden(at.Child("ipMode"), "may not be specified when `ip` is not set"))
		default:
			errs = append(errs, rule.Supported(at.Child("ipMode"), *in.IPMode, corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)...)
		}
		if in.Hostname != "" {
			errs = append(errs, rule.DNSSubdomain(at.Child("hostname"), in.Hostname)...)
			errs = append(errs, rule.If(netutils.ParseIPSloppy(in.Hostname) != nil,
				field.Invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))...)
		}
	}
	return errs
}

// ValidateEndpointIP says that traffic can be sent to an address: it is none of the node's own, and no group.
func ValidateEndpointIP(path *field.Path, address string) field.ErrorList {
	ip := netutils.ParseIPSloppy(address)
	for _, kind := range []struct {
		is     func(net.IP) bool
		detail string
	}{
		{net.IP.IsUnspecified, fmt.Sprintf("may not be unspecified (%v)", address)},
		{net.IP.IsLoopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"},
		{net.IP.IsLinkLocalUnicast, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"},
		{net.IP.IsLinkLocalMulticast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"},
	} {
		if ip == nil {
			return field.ErrorList{field.Invalid(path, address, "must be a valid IP address")}
		}
		if kind.is(ip) {
			return field.ErrorList{field.Invalid(path, address, kind.detail)}
		}
	}
	return nil
}

func serviceWarnings(s *corev1.Service) []string {
	path, spec := field.NewPath("spec"), &s.Spec
	var list []string
	warn := func(when bool, format string, args ...any) {
		if when {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	_, hinted := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	warn(hinted, "annotation %s is deprecated, please use %s instead", corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode)
	if spec.ClusterIP != "" && spec.ClusterIP != corev1.ClusterIPNone {
		for i, ip := range spec.ClusterIPs {
			list = append(list, validation.GetWarningsForIP(path.Child("clusterIPs").Index(i), ip)...)
		}
	}
	headless := spec.Type == corev1.ServiceTypeClusterIP && spec.ClusterIP == corev1.ClusterIPNone
	external := spec.Type == corev1.ServiceTypeExternalName
	warn(headless && spec.LoadBalancerIP != "", "spec.loadBalancerIP is ignored for headless services")
	warn(headless && len(spec.ExternalIPs) > 0, "spec.externalIPs is ignored for headless services")
	warn(headless && spec.SessionAffinity != corev1.ServiceAffinityNone, "spec.SessionAffinity is ignored for headless services")
	for i, ip := range spec.ExternalIPs {
		list = append(list, validation.GetWarningsForIP(path.Child("externalIPs").Index(i), ip)...)
	}
	warn(len(spec.ExternalIPs) > 0 && !headless && !external, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	if spec.LoadBalancerIP != "" {
		list = append(list, validation.GetWarningsForIP(path.Child("loadBalancerIP"), spec.LoadBalancerIP)...)
	}
	for i, cidr := range spec.LoadBalancerSourceRanges {
		list = append(list, validation.GetWarningsForCIDR(path.Child("loadBalancerSourceRanges").Index(i), cidr)...)
	}
	warn(external && len(spec.ExternalIPs) > 0, "spec.externalIPs is ignored when spec.type is %q", corev1.ServiceTypeExternalName)
	warn(!external && spec.ExternalName != "", "spec.externalName is ignored when spec.type is not %q", corev1.ServiceTypeExternalName)
	warn(ptr.Deref(spec.TrafficDistribution, "") == corev1.ServiceTrafficDistributionPreferClose, "spec.trafficDistribution: %q is deprecated; use %q",
		corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone)
	return list
}
