// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// What kubectl prints, in the order and the words of upstream.

func flowSchemaColumns() []rest.Column[*flowcontrolv1.FlowSchema] {
	type F = *flowcontrolv1.FlowSchema
	spec := flowcontrolv1.FlowSchemaSpec{}
	precedence := rest.Number("MatchingPrecedence", rest.Doc(spec, "matchingPrecedence"), func(o F) int32 { return o.Spec.MatchingPrecedence })
	precedence.Type = "string"
	return []rest.Column[F]{
		rest.Name[F](),
		rest.Text("PriorityLevel", rest.Doc(flowcontrolv1.PriorityLevelConfigurationReference{}, "name"), func(o F) string { return o.Spec.PriorityLevelConfiguration.Name }),
		precedence,
		rest.Text("DistinguisherMethod", rest.Doc(spec, "distinguisherMethod"), func(o F) string {
			if o.Spec.DistinguisherMethod == nil {
				return "<none>"
			}
			return string(o.Spec.DistinguisherMethod.Type)
		}),
		rest.Age[F](),
		rest.Text("MissingPL", "references a broken or non-existent PriorityLevelConfiguration", func(o F) string {
			for _, c := range o.Status.Conditions {
				if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
					return string(c.Status)
				}
			}
			return "?"
		}),
	}
}

func priorityLevelColumns() []rest.Column[*flowcontrolv1.PriorityLevelConfiguration] {
	type P = *flowcontrolv1.PriorityLevelConfiguration
	queuing := func(name string, value func(*flowcontrolv1.QueuingConfiguration) int32) rest.Column[P] {
		description := map[string]string{"Queues": "queues", "HandSize": "handSize", "QueueLengthLimit": "queueLengthLimit"}[name]
		return rest.Column[P]{Name: name, Description: rest.Doc(flowcontrolv1.QueuingConfiguration{}, description), Value: func(o P) any {
			if o.Spec.Limited == nil || o.Spec.Limited.LimitResponse.Queuing == nil {
				return "<none>"
			}
			return int64(value(o.Spec.Limited.LimitResponse.Queuing))
		}}
	}
	return []rest.Column[P]{
		rest.Name[P](),
		rest.Text("Type", rest.Doc(flowcontrolv1.PriorityLevelConfigurationSpec{}, "type"), func(o P) string { return string(o.Spec.Type) }),
		{Name: "NominalConcurrencyShares", Description: rest.Doc(flowcontrolv1.LimitedPriorityLevelConfiguration{}, "nominalConcurrencyShares"), Value: func(o P) any {
			if o.Spec.Limited == nil {
				return "<none>"
			}
			return int64(ptr.Deref(o.Spec.Limited.NominalConcurrencyShares, 0))
		}},
		queuing("Queues", func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.Queues }),
		queuing("HandSize", func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.HandSize }),
		queuing("QueueLengthLimit", func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.QueueLengthLimit }),
		rest.Age[P](),
	}
}
