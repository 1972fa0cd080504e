// SPDX-License-Identifier: Apache-2.0

package podautoscaler

import (
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	usualDownWindow = 5 * time.Minute // in which the highest recommendation counts
	longestWindow   = time.Hour       // that an autoscaler may ask for

	// Without a behavior, a target at most doubles, or gets four replicas if that is more.
	usualGrowth  = 2
	usualAtLeast = 4
)

// history is what was recommended and done for one autoscaler lately. Its times are the process's own, which go on when the clock is set.
type history struct {
	owner           types.UID
	recommendations []event
	changes         []event // of the size: added replicas are positive
}

type event struct {
	n  int32
	at time.Time
}

// begin makes the size at the start count as a recommendation: a controller that has just started must not scale
// down at once what the one before it has scaled up.
func (h *history) begin(current int32) {
	if len(h.recommendations) == 0 {
		h.recommendations = []event{{current, time.Now()}}
	}
}

func (h *history) recommend(n int32) { h.recommendations = remember(h.recommendations, n) }

func (h *history) rescaled(before, after int32) { h.changes = remember(h.changes, after-before) }

// remember adds an event and drops those that no window reaches.
func remember(events []event, n int32) []event {
	now := time.Now()
	events = slices.DeleteFunc(events, func(e event) bool { return now.Sub(e.at) > longestWindow })
	return append(events, event{n, now})
}

// since returns the replicas that were added, less those taken away, in the last seconds.
func (h *history) since(seconds int32) (n int32) {
	cutoff := time.Now().Add(-time.Duration(seconds) * time.Second)
	for _, e := range h.changes {
		if e.at.After(cutoff) {
			n += e.n
		}
	}
	return n
}

// limit turns what the metrics would like into what is allowed now.
func (a *autoscaler) limit(current, wanted int32) int32 {
	up, down := a.rules()
	stable := a.history.stabilize(current, wanted, window(up, 0), window(down, usualDownWindow), a.Spec.Behavior != nil)
	switch {
	case stable == wanted:
		a.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "ReadyForNewScale", "recommended size matches current size")
	case a.Spec.Behavior != nil && wanted >= current:
		a.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation")
	default:
		a.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation")
	}
	allowed, reason, message := a.withinRate(current, stable)
	value := corev1.ConditionTrue
	if allowed == stable {
		value = corev1.ConditionFalse
	}
	a.set(autoscalingv2.ScalingLimited, value, reason, "%s", message)
	return allowed
}

// rules returns those of the autoscaler, nil if it has none.
func (a *autoscaler) rules() (up, down *autoscalingv2.HPAScalingRules) {
	if a.Spec.Behavior == nil {
		return nil, nil
	}
	return a.Spec.Behavior.ScaleUp, a.Spec.Behavior.ScaleDown
}

func window(rules *autoscalingv2.HPAScalingRules, usual time.Duration) time.Duration {
	if rules == nil || rules.StabilizationWindowSeconds == nil {
		return usual
	}
	return time.Duration(*rules.StabilizationWindowSeconds) * time.Second
}

// stabilize notes what is wanted and returns the lowest (up) or highest (down) of what was wanted lately. With a
// behavior a target that is within what was wanted lately stays as it is.
func (h *history) stabilize(current, wanted int32, up, down time.Duration, behavior bool) int32 {
	now := time.Now()
	lowest, highest := wanted, wanted
	for _, r := range h.recommendations {
		if r.at.After(now.Add(-up)) {
			lowest = min(lowest, r.n)
		}
		if !r.at.Before(now.Add(-down)) && down > 0 {
			highest = max(highest, r.n)
		}
	}
	h.recommend(wanted)
	if !behavior {
		return highest
	}
	return min(max(current, lowest), highest)
}

const (
	withinRange    = "the desired count is within the acceptable range"
	tooManyMessage = "the desired replica count is more than the maximum replica count"
	tooFewMessage  = "the desired replica count is less than the minimum replica count"
	tooFastUp      = "the desired replica count is increasing faster than the maximum scale rate"
	tooFastDown    = "the desired replica count is decreasing faster than the maximum scale rate"
)

// withinRate applies the bounds, and how fast the size may change.
func (a *autoscaler) withinRate(current, wanted int32) (allowed int32, reason, message string) {
	least, most := a.minReplicas(), a.Spec.MaxReplicas
	up, down := a.rules()
	if a.Spec.Behavior == nil {
		fastest := max(usualGrowth*current, usualAtLeast)
		switch {
		case wanted < least:
			return least, "TooFewReplicas", tooFewMessage
		case wanted > fastest && fastest < most:
			return fastest, "ScaleUpLimit", tooFastUp
		case wanted > most:
			return most, "TooManyReplicas", tooManyMessage
		}
		return wanted, "DesiredWithinRange", withinRange
	}
	if wanted > current {
		fastest := max(a.history.fastestUp(current, up), current)
		if fastest < most && wanted > fastest {
			return fastest, "ScaleUpLimit", tooFastUp
		}
		if wanted > most {
			return most, "TooManyReplicas", tooManyMessage
		}
	}
	if wanted < current {
		fastest := min(a.history.fastestDown(current, down), current)
		if fastest > least && wanted < fastest {
			return fastest, "ScaleDownLimit", tooFastDown
		}
		if wanted < least {
			return least, "TooFewReplicas", tooFewMessage
		}
	}
	return wanted, "DesiredWithinRange", withinRange
}

// fastestUp is the size up to which the policies allow to grow. Each counts from the size at the start of its period.
func (h *history) fastestUp(current int32, rules *autoscalingv2.HPAScalingRules) int32 {
	return h.choose(current, rules, func(start int32, p autoscalingv2.HPAScalingPolicy) int32 {
		if p.Type == autoscalingv2.PercentScalingPolicy {
			return ceil(float64(start) * (1 + float64(p.Value)/100)) // rounded up, or one replica would stay one
		}
		return start + p.Value
	}, func(a, b int32) bool { return a > b })
}

// fastestDown is the size down to which they allow to shrink.
func (h *history) fastestDown(current int32, rules *autoscalingv2.HPAScalingRules) int32 {
	return h.choose(current, rules, func(start int32, p autoscalingv2.HPAScalingPolicy) int32 {
		if p.Type == autoscalingv2.PercentScalingPolicy {
			return int32(math.Trunc(float64(start) * (1 - float64(p.Value)/100)))
		}
		return start - p.Value
	}, func(a, b int32) bool { return a < b })
}

// choose applies all policies and takes the one with the largest change, or the smallest if the rules say so.
func (h *history) choose(current int32, rules *autoscalingv2.HPAScalingRules,
	apply func(start int32, p autoscalingv2.HPAScalingPolicy) int32, further func(a, b int32) bool,
) int32 {
	if rules == nil || len(rules.Policies) == 0 {
		return current
	}
	smallest := false
	if rules.SelectPolicy != nil {
		if *rules.SelectPolicy == autoscalingv2.DisabledPolicySelect {
			return current
		}
		smallest = *rules.SelectPolicy == autoscalingv2.MinChangePolicySelect
	}
	var chosen int32
	for i, p := range rules.Policies {
		size := apply(current-h.since(p.PeriodSeconds), p)
		if i == 0 || further(size, chosen) != smallest && size != chosen {
			chosen = size
		}
	}
	return chosen
}
