// SPDX-License-Identifier: Apache-2.0

// Package shape turns how much of something is used into a score, by a line through points that an administrator gives.
package shape

import (
	"errors"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// Point says that a utilization (0 to 100) is worth a score (0 to MaxPoint).
type Point struct{ Utilization, Score int64 }

// MaxPoint is the best score of a point.
const MaxPoint = 10

// Full is the utilization where nothing is left.
const Full = 100

// Shape is points, ascending by their utilization.
type Shape []Point

// Validate says what is wrong with a shape.
func (s Shape) Validate() error {
	if len(s) == 0 {
		return errors.New("shape must have at least one point")
	}
	for i, p := range s {
		switch {
		case p.Utilization < 0 || p.Utilization > Full:
			return errors.New("shape: utilization must be from 0 to 100")
		case i > 0 && p.Utilization <= s[i-1].Utilization:
			return errors.New("shape must be sorted by utilization")
		case p.Score < 0 || p.Score > MaxPoint:
			return errors.New("shape: score must be from 0 to 10")
		}
	}
	return nil
}

// Of returns the score, up to framework.MaxScore, of so much used of what there is.
func (s Shape) Of(used, all int64) int64 {
	if all == 0 || used > all {
		return s.at(Full)
	}
	return s.at(used * Full / all)
}

func (s Shape) at(x int64) int64 {
	const scale = framework.MaxScore / MaxPoint
	for i, p := range s {
		if x > p.Utilization {
			continue
		}
		if i == 0 {
			return p.Score * scale
		}
		q := s[i-1]
		return q.Score*scale + (p.Score-q.Score)*scale*(x-q.Utilization)/(p.Utilization-q.Utilization)
	}
	return s[len(s)-1].Score * scale
}
