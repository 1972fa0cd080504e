// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"fmt"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/util/shufflesharding"

	"github.com/skiff-k8s/skiff/registry/rule"
)

const (
	maxQueues       = 10_000_000
	defaultQueues   = 64
	defaultHandSize = 8
	defaultLength   = 50
	defaultShares   = 30

	// zeroShares is how flowcontrol/v1beta3 said that shares are none, rather than not set.
	zeroShares = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares"
)

func setDefault[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

func setNumber(n *int32, value int32) {
	if *n == 0 {
		*n = value
	}
}

func defaultPriorityLevel(p *flowcontrolv1.PriorityLevelConfiguration) {
	if e := p.Spec.Exempt; e != nil {
		setDefault(&e.NominalConcurrencyShares, 0)
		setDefault(&e.LendablePercent, 0)
	}
	l := p.Spec.Limited
	if l == nil {
		return
	}
	setDefault(&l.NominalConcurrencyShares, defaultShares)
	setDefault(&l.LendablePercent, 0)
	if q := l.LimitResponse.Queuing; q != nil {
		setNumber(&q.HandSize, defaultHandSize)
		setNumber(&q.Queues, defaultQueues)
		setNumber(&q.QueueLengthLimit, defaultLength)
	}
}

func validatePriorityLevel(p *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	errs, path := rule.ObjectMeta(&p.ObjectMeta, false, apivalidation.NameIsDNSSubdomain), field.NewPath("spec")
	_, old := p.Annotations[zeroShares]
	errs = append(errs, rule.If(old, field.Forbidden(field.NewPath("metadata", "annotations"), fmt.Sprintf("annotation '%s' is forbidden", zeroShares)))...)
	errs = append(errs, validatePriorityLevelSpec(path, p.Name, &p.Spec)...)
	errs = append(errs, validateMandatoryLevel(path, p)...)
	return append(errs, validatePriorityLevelStatus(p, nil)...)
}

// validateMandatoryLevel keeps the levels that the server needs as they are, but for what is reserved for the exempt.
func validateMandatoryLevel(path *field.Path, p *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	for _, mandatory := range bootstrap.MandatoryPriorityLevelConfigurations {
		if mandatory.Name != p.Name {
			continue
		}
		is, want, except := p.Spec.DeepCopy(), mandatory.DeepCopy(), ""
		defaultPriorityLevel(want)
		if p.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt {
			is.Exempt, except = want.Spec.Exempt, " except the 'spec.exempt' field"
		}
		return rule.If(!equality.Semantic.DeepEqual(*is, want.Spec),
			field.Invalid(path, p.Spec, fmt.Sprintf("spec of '%s'%s must equal the fixed value", p.Name, except)))
	}
	return nil
}

func validatePriorityLevelStatus(p, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	types := make([]string, len(p.Status.Conditions))
	for i, c := range p.Status.Conditions {
		types[i] = string(c.Type)
	}
	return validateConditionTypes(types)
}

func validatePriorityLevelSpec(path *field.Path, name string, spec *flowcontrolv1.PriorityLevelConfigurationSpec) field.ErrorList {
	isExempt, isLimited := spec.Type == flowcontrolv1.PriorityLevelEnablementExempt, spec.Type == flowcontrolv1.PriorityLevelEnablementLimited
	exempt, limited, response := path.Child("exempt"), path.Child("limited"), path.Child("limited", "limitResponse")
	errs := rule.If((name == flowcontrolv1.PriorityLevelConfigurationNameExempt) != isExempt,
		field.Invalid(path.Child("type"), spec.Type, "must be 'Exempt' if and only if `name` is 'exempt'"))
	if !isExempt && !isLimited {
		errs = append(errs, rule.OneOf(path.Child("type"), spec.Type, flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited)...)
	}
	errs = append(errs, rule.If(spec.Exempt != nil && !isExempt, field.Forbidden(exempt, ""))...)
	if spec.Exempt != nil && isExempt {
		errs = append(errs, validateShares(exempt, spec.Exempt.NominalConcurrencyShares, spec.Exempt.LendablePercent)...)
	}
	if spec.Limited == nil {
		return append(errs, rule.If(isLimited, field.Required(limited, ""))...)
	}
	errs = append(errs, rule.If(!isLimited, field.Forbidden(limited, ""))...)
	errs = append(errs, validateResponse(response, &spec.Limited.LimitResponse)...)
	if isLimited {
		errs = append(errs, validateLimited(limited, spec.Limited)...)
	}
	return errs
}

// validateResponse says that a response has the one member that its type names.
func validateResponse(path *field.Path, r *flowcontrolv1.LimitResponse) field.ErrorList {
	queues := r.Type == flowcontrolv1.LimitResponseTypeQueue
	errs := rule.Required(path.Child("type"), string(r.Type))
	errs = append(errs, rule.If(r.Queuing != nil && !queues, field.Forbidden(path.Child("queuing"), ""))...)
	return append(errs, rule.If(r.Queuing == nil && queues, field.Required(path.Child("queuing"), ""))...)
}

func validateShares(path *field.Path, shares, lendable *int32) field.ErrorList {
	var errs field.ErrorList
	if shares != nil && *shares < 0 {
		errs = append(errs, field.Invalid(path.Child("nominalConcurrencyShares"), *shares, "must be a non-negative integer"))
	}
	if lendable != nil && (*lendable < 0 || *lendable > 100) {
		errs = append(errs, field.Invalid(path.Child("lendablePercent"), *lendable, "must be between 0 and 100, inclusive"))
	}
	return errs
}

func validateLimited(path *field.Path, l *flowcontrolv1.LimitedPriorityLevelConfiguration) field.ErrorList {
	errs := validateShares(path, l.NominalConcurrencyShares, l.LendablePercent)
	if n := l.BorrowingLimitPercent; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(path.Child("borrowingLimitPercent"), *n, "if specified, must be a non-negative integer"))
	}
	response, r := path.Child("limitResponse"), l.LimitResponse
	switch {
	case r.Type == flowcontrolv1.LimitResponseTypeQueue && r.Queuing != nil:
		errs = append(errs, validateQueuing(response.Child("queuing"), r.Queuing)...)
	case r.Type != "":
		errs = append(errs, rule.Supported(response.Child("type"), r.Type, flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject)...)
	}
	return errs
}

// validateQueuing says that a flow's hand of queues can be dealt from the bits of a hash.
func validateQueuing(path *field.Path, q *flowcontrolv1.QueuingConfiguration) field.ErrorList {
	const positive = "must be positive"
	queues, hand := path.Child("queues"), path.Child("handSize")
	errs := rule.If(q.QueueLengthLimit <= 0, field.Invalid(path.Child("queueLengthLimit"), q.QueueLengthLimit, positive))
	errs = append(errs, rule.If(q.Queues <= 0, field.Invalid(queues, q.Queues, positive))...)
	errs = append(errs, rule.If(q.Queues > maxQueues, field.Invalid(queues, q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues)))...)
	switch {
	case q.HandSize <= 0:
		return append(errs, field.Invalid(hand, q.HandSize, positive))
	case q.HandSize > q.Queues:
		return append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	}
	return append(errs, rule.If(shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)) > shufflesharding.MaxHashBits,
		field.Invalid(hand, q.HandSize, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d",
			q.Queues, q.HandSize, shufflesharding.MaxHashBits)))...)
}
