// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

// Rules of what there is: ResourceSlices, and taints of devices in them or in DeviceTaintRules.

var effects = []resourcev1.DeviceTaintEffect{resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone}

const (
	whereOfSlice  = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	whereOfDevice = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	unsetOrTrue   = "must be either unset or set to true"
)

func defaultSlice(s *resourcev1.ResourceSlice) {
	for i := range s.Spec.Devices {
		for j := range s.Spec.Devices[i].Taints {
			defaultTaint(&s.Spec.Devices[i].Taints[j])
		}
	}
}

func defaultTaint(t *resourcev1.DeviceTaint) {
	if t.TimeAdded == nil {
		t.TimeAdded = now()
	}
}

func now() *metav1.Time { return &metav1.Time{Time: time.Now().Truncate(time.Second)} } // as it is stored

// dropDisabledSlice takes out what upstream has off by default: DRADeviceCompatibilityGroups, DRAListTypeAttributes,
// DRANodeAllocatableResources, DRAOptionalNodeOperations and DRAPartitionableDevicesType.
func dropDisabledSlice(s *resourcev1.ResourceSlice) {
	s.Spec.PartitionTypeAttribute, s.Spec.SkipNodeOperations = nil, nil
	for i := range s.Spec.Devices {
		d := &s.Spec.Devices[i]
		d.NodeAllocatableResources = nil
		for j := range d.ConsumesCounters {
			d.ConsumesCounters[j].CompatibilityGroups = nil
		}
		for name, a := range d.Attributes {
			a.BoolValues, a.IntValues, a.StringValues, a.VersionValues = nil, nil, nil, nil
			d.Attributes[name] = a
		}
	}
}

func validateSlice(s *resourcev1.ResourceSlice) field.ErrorList {
	errs := rule.ObjectMeta(&s.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateSliceSpec(&s.Spec, &resourcev1.ResourceSliceSpec{})...)
}

func validateSliceUpdate(s, old *resourcev1.ResourceSlice) field.ErrorList {
	errs, path := rule.ObjectMetaUpdate(&s.ObjectMeta), field.NewPath("spec")
	errs = append(errs, rule.Unchanged(path.Child("pool", "name"), s.Spec.Pool.Name, old.Spec.Pool.Name)...)
	errs = append(errs, rule.Unchanged(path.Child("driver"), s.Spec.Driver, old.Spec.Driver)...)
	errs = append(errs, rule.Unchanged(path.Child("nodeName"), s.Spec.NodeName, old.Spec.NodeName)...)
	return append(errs, validateSliceSpec(&s.Spec, &old.Spec)...)
}

func validateSliceSpec(spec, old *resourcev1.ResourceSliceSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateDriver(path.Child("driver"), spec.Driver)
	errs = append(errs, validatePool(path.Child("pool", "name"), spec.Pool.Name)...)
	errs = append(errs, rule.Positive(path.Child("pool", "resourceSliceCount"), spec.Pool.ResourceSliceCount)...)
	errs = append(errs, rule.If(spec.Pool.Generation < 0, field.Invalid(path.Child("pool", "generation"), spec.Pool.Generation, "must be greater than or equal to zero"))...)
	errs = append(errs, validateSliceNodes(path, spec)...)
	errs = append(errs, rule.If(spec.SharedCounters != nil && spec.Devices != nil, field.Invalid(path, "", "only one of `sharedCounters` or `devices` is allowed"))...)
	most := resourcev1.ResourceSliceMaxDevices
	if slices.ContainsFunc(spec.Devices, func(d resourcev1.Device) bool { return len(d.Taints)+len(d.ConsumesCounters) > 0 }) {
		most = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	names := sets.New[string]()
	errs = append(errs, list(path.Child("devices"), spec.Devices, most, func(path *field.Path, d resourcev1.Device) field.ErrorList {
		errs := rule.If(names.Has(d.Name), field.Duplicate(path, d.Name))
		names.Insert(d.Name)
		return append(errs, validateDevice(path, &d, old, ptr.Deref(spec.PerDeviceNodeSelection, false))...)
	})...)
	counterSet := func(c resourcev1.CounterSet) string { return c.Name }
	return append(errs, set(path.Child("sharedCounters"), spec.SharedCounters, resourcev1.ResourceSliceMaxCounterSets, counterSet,
		func(path *field.Path, c resourcev1.CounterSet) field.ErrorList {
			return validateCounters(path, "name", c.Name, c.Counters)
		})...)
}

// validateCounters checks a set of counters and its name.
func validateCounters(path *field.Path, nameField, name string, counters map[string]resourcev1.Counter) field.ErrorList {
	errs, at := rule.RequiredAnd(path.Child(nameField), name, validate.ShortName), path.Child("counters")
	const most = resourcev1.ResourceSliceMaxCountersPerCounterSet
	switch n := len(counters); {
	case n == 0:
		return append(errs, field.Required(at, ""))
	case n > most:
		return append(errs, field.TooMany(at, n, most))
	}
	for _, counter := range slices.Sorted(maps.Keys(counters)) {
		errs = append(errs, rule.Declared(at, counter, validate.ShortName)...)
	}
	return errs
}

// places collects in which ways it is said where devices can be used: one is right.
type places struct {
	path *field.Path
	set  []string
	errs field.ErrorList
}

func (p *places) node(name *string, empty string) {
	if name == nil {
		return
	}
	at := p.path.Child("nodeName")
	if *name == "" {
		p.errs = append(p.errs, field.Invalid(at, *name, empty))
		return
	}
	p.set = append(p.set, "`nodeName`")
	p.errs = append(p.errs, rule.DNSSubdomain(at, *name)...)
}

func (p *places) selector(s *corev1.NodeSelector) {
	if s != nil {
		p.set = append(p.set, "`nodeSelector`")
		p.errs = append(p.errs, podspec.ValidateNodeSelector(p.path.Child("nodeSelector"), s, false)...)
	}
}

func (p *places) flag(name string, value *bool) {
	switch {
	case value == nil:
	case *value:
		p.set = append(p.set, "`"+name+"`")
	default:
		p.errs = append(p.errs, field.Invalid(p.path.Child(name), *value, unsetOrTrue))
	}
}

func (p *places) one(detail, several string) field.ErrorList {
	switch len(p.set) {
	case 0:
		return append(p.errs, field.Required(p.path, detail))
	case 1:
		return p.errs
	}
	return append(p.errs, field.Invalid(p.path, fmt.Sprintf("{%s}", strings.Join(p.set, ", ")), detail+several))
}

func validateSliceNodes(path *field.Path, spec *resourcev1.ResourceSliceSpec) field.ErrorList {
	p := places{path: path}
	p.node(spec.NodeName, "must be either unset or set to a non-empty string")
	p.selector(spec.NodeSelector)
	if s := spec.NodeSelector; s != nil && len(s.NodeSelectorTerms) != 1 {
		p.errs = append(p.errs, field.Invalid(path.Child("nodeSelector", "nodeSelectorTerms"), s.NodeSelectorTerms, "must have exactly one node selector term"))
	}
	p.flag("allNodes", spec.AllNodes)
	p.flag("perDeviceNodeSelection", spec.PerDeviceNodeSelection)
	return p.one(whereOfSlice, ", but multiple fields are set")
}

func validateDeviceNodes(path *field.Path, d *resourcev1.Device, perDevice bool) field.ErrorList {
	if !perDevice {
		return rule.If(d.NodeName != nil || d.NodeSelector != nil || d.AllNodes != nil, field.Invalid(path, nil,
			"`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"))
	}
	p := places{path: path}
	p.node(d.NodeName, "must not be empty")
	p.selector(d.NodeSelector)
	p.flag("allNodes", d.AllNodes)
	return p.one(whereOfDevice, "")
}

func validateDevice(path *field.Path, d *resourcev1.Device, old *resourcev1.ResourceSliceSpec, perDevice bool) field.ErrorList {
	var was *resourcev1.Device
	if i := slices.IndexFunc(old.Devices, func(o resourcev1.Device) bool { return o.Name == d.Name }); i >= 0 {
		was = &old.Devices[i]
	}
	errs := rule.DNSLabel(path.Child("name"), d.Name)
	const most = resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice
	n := len(d.Attributes) + len(d.Capacity)
	errs = append(errs, rule.If(n > most, field.Invalid(path, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", most)))...)
	const mostValues = resourcev1.ResourceSliceMaxAttributeValuesPerDevice
	errs = append(errs, rule.If(len(d.Attributes) > mostValues,
		field.Invalid(path, len(d.Attributes), fmt.Sprintf("the total number of attribute values must not exceed %d", mostValues)))...)
	errs = append(errs, named(path.Child("attributes"), d.Attributes, validateAttribute)...)
	if was == nil || !equality.Semantic.DeepEqual(was.Capacity, d.Capacity) {
		errs = append(errs, named(path.Child("capacity"), d.Capacity, func(path *field.Path, c resourcev1.DeviceCapacity) field.ErrorList {
			return validateCapacity(path.Child("requestPolicy"), c, ptr.Deref(d.AllowMultipleAllocations, false))
		})...)
	}
	if was == nil || !equality.Semantic.DeepEqual(was.Taints, d.Taints) {
		errs = append(errs, list(path.Child("taints"), d.Taints, resourcev1.DeviceTaintsMaxLength, func(path *field.Path, t resourcev1.DeviceTaint) field.ErrorList {
			return validateTaint(path, t, "")
		})...)
	}
	counterSet := func(c resourcev1.DeviceCounterConsumption) string { return c.CounterSet }
	errs = append(errs, set(path.Child("consumesCounters"), d.ConsumesCounters, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice, counterSet,
		func(path *field.Path, c resourcev1.DeviceCounterConsumption) field.ErrorList {
			return validateCounters(path, "counterSet", c.CounterSet, c.Counters)
		})...)
	errs = append(errs, validateDeviceNodes(path, d, perDevice)...)
	return append(errs, validateBinding(path, d.BindingConditions, d.BindingFailureConditions)...)
}

// named checks a map from names of attributes or capacities. Errors show a long name without its middle.
func named[T any](path *field.Path, items map[resourcev1.QualifiedName]T, check func(*field.Path, T) field.ErrorList) field.ErrorList {
	const most = resourcev1.DeviceMaxDomainLength + 1 + resourcev1.DeviceMaxIDLength
	var errs field.ErrorList
	for _, name := range slices.Sorted(maps.Keys(items)) {
		key := string(name)
		if left := most - len("..."); len(key) > most {
			key = key[:(left+1)/2] + "..." + key[len(key)-left/2:]
		}
		errs = append(errs, validateName(path, string(name))...)
		errs = append(errs, check(path.Key(key), items[name])...)
	}
	return errs
}

// semver is https://semver.org/spec/v2.0.0.html, with as many or as few identifiers as that has.
var semver = regexp.MustCompile(`^(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}` +
	`(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$`)

func validateAttribute(path *field.Path, a resourcev1.DeviceAttribute) field.ErrorList {
	const most = resourcev1.DeviceAttributeMaxValueLength
	var errs field.ErrorList
	if s := a.StringValue; s != nil {
		errs = append(errs, rule.If(len(*s) > most, field.TooLong(path.Child("string"), "", most))...)
	}
	if v, at := a.VersionValue, path.Child("version"); v != nil {
		errs = append(errs, rule.If(!semver.MatchString(*v), field.Invalid(at, *v, "must be a string compatible with semver.org spec 2.0.0"))...)
		errs = append(errs, rule.If(len(*v) > most, field.TooLong(at, "", most))...)
	}
	var fields []string
	for _, member := range []struct {
		name string
		set  bool
	}{{"int", a.IntValue != nil}, {"bool", a.BoolValue != nil}, {"string", a.StringValue != nil}, {"version", a.VersionValue != nil}} {
		if member.set {
			fields = append(fields, member.name)
		}
	}
	return append(errs, rule.OneMember(path, fields, "int", "bool", "string", "version", "ints", "bools", "strings", "versions")...)
}

func validateTaint(path *field.Path, t resourcev1.DeviceTaint, oldEffect resourcev1.DeviceTaintEffect) field.ErrorList {
	errs := metavalidation.ValidateLabelName(t.Key, path.Child("key"))
	if t.Value != "" {
		errs = append(errs, rule.Invalid(path.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
	}
	if oldEffect != "" && oldEffect == t.Effect {
		return errs
	}
	return append(errs, rule.OneOf(path.Child("effect"), t.Effect, effects...)...)
}

func sliceWarnings(s, _ *resourcev1.ResourceSlice) []string {
	if s.Spec.Driver == strings.ToLower(s.Spec.Driver) {
		return nil
	}
	return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", s.Spec.Driver)}
}

func defaultTaintRule(r *resourcev1.DeviceTaintRule) { defaultTaint(&r.Spec.Taint) }

// prepareTaintRuleUpdate: another effect is another taint, so it starts now if nobody says otherwise.
func prepareTaintRuleUpdate(r, old *resourcev1.DeviceTaintRule) {
	if r.Spec.Taint.Effect != old.Spec.Taint.Effect && r.Spec.Taint.TimeAdded.Equal(old.Spec.Taint.TimeAdded) {
		r.Spec.Taint.TimeAdded = now()
	}
}

func validateTaintRule(r *resourcev1.DeviceTaintRule) field.ErrorList {
	errs := rule.ObjectMeta(&r.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateTaintRuleSpec(&r.Spec, "")...)
}

func validateTaintRuleUpdate(r, old *resourcev1.DeviceTaintRule) field.ErrorList {
	return append(rule.ObjectMetaUpdate(&r.ObjectMeta), validateTaintRuleSpec(&r.Spec, old.Spec.Taint.Effect)...)
}

func validateTaintRuleSpec(spec *resourcev1.DeviceTaintRuleSpec, oldEffect resourcev1.DeviceTaintEffect) field.ErrorList {
	var errs field.ErrorList
	if s, path := spec.DeviceSelector, field.NewPath("spec", "deviceSelector"); s != nil {
		if s.Driver != nil {
			errs = append(errs, validateDriver(path.Child("driver"), *s.Driver)...)
		}
		if s.Pool != nil {
			errs = append(errs, validatePool(path.Child("pool"), *s.Pool)...)
		}
		if s.Device != nil {
			errs = append(errs, rule.DNSLabel(path.Child("device"), *s.Device)...)
		}
	}
	return append(errs, validateTaint(field.NewPath("spec", "taint"), spec.Taint, oldEffect)...)
}

func validateTaintRuleStatus(r, _ *resourcev1.DeviceTaintRule) field.ErrorList {
	errs, path, n := rule.ObjectMetaUpdate(&r.ObjectMeta), field.NewPath("status", "conditions"), len(r.Status.Conditions)
	errs = append(errs, metavalidation.ValidateConditions(r.Status.Conditions, path)...)
	return append(errs, rule.If(n > resourcev1.DeviceTaintRuleStatusMaxConditions, field.TooMany(path, n, resourcev1.DeviceTaintRuleStatusMaxConditions))...)
}
