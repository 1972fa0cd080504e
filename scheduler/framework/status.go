// SPDX-License-Identifier: Apache-2.0

package framework

import "strings"

// Code says what a plugin thinks of a pod, or of a pod on a node.
type Code int

const (
	// Success lets the pod pass. A nil *Status is a success.
	Success Code = iota
	// Error is a failure inside the scheduler; the pod is tried again after a back-off.
	Error
	// Unschedulable rejects the pod; evicting other pods may help.
	Unschedulable
	// UnschedulableAndUnresolvable rejects the pod; evicting other pods does not help.
	UnschedulableAndUnresolvable
	// Wait, from Permit, keeps the pod from being bound until it is allowed.
	Wait
	// Skip says that the plugin has nothing to do for this pod in this cycle.
	Skip
	// Pending rejects the pod until something it waits for has happened; that event
	// schedules it at once, without a back-off.
	Pending
)

// String is the code as metrics name it.
func (c Code) String() string {
	return [...]string{"Success", "Error", "Unschedulable", "UnschedulableAndUnresolvable", "Wait", "Skip", "Pending"}[c]
}

// Status is a plugin's verdict. It is immutable, so plugins may hand out the same one for ever.
type Status struct {
	code    Code
	reasons []string
	err     error
}

// SkipStatus is the Skip that all plugins share.
var SkipStatus = &Status{code: Skip}

// NewStatus returns a verdict with its reasons.
func NewStatus(code Code, reasons ...string) *Status {
	return &Status{code: code, reasons: reasons}
}

// Reject returns an Unschedulable status.
func Reject(reasons ...string) *Status { return NewStatus(Unschedulable, reasons...) }

// RejectForGood returns an UnschedulableAndUnresolvable status.
func RejectForGood(reasons ...string) *Status {
	return NewStatus(UnschedulableAndUnresolvable, reasons...)
}

// AsStatus wraps an error; nil stays nil.
func AsStatus(err error) *Status {
	if err == nil {
		return nil
	}
	return &Status{code: Error, reasons: []string{err.Error()}, err: err}
}

// Code of a nil status is Success.
func (s *Status) Code() Code {
	if s == nil {
		return Success
	}
	return s.code
}

// Reasons are the texts that end up in the pod's events, one each.
func (s *Status) Reasons() []string {
	if s == nil {
		return nil
	}
	return s.reasons
}

// Message joins the reasons.
func (s *Status) Message() string { return strings.Join(s.Reasons(), ", ") }

// Err is the error behind an Error status.
func (s *Status) Err() error {
	if s == nil {
		return nil
	}
	return s.err
}

// IsSuccess says whether the pod passes.
func (s *Status) IsSuccess() bool { return s.Code() == Success }

// IsSkip says whether the plugin stands aside.
func (s *Status) IsSkip() bool { return s.Code() == Skip }

// IsRejected says whether the pod was refused, as opposed to an error.
func (s *Status) IsRejected() bool {
	c := s.Code()
	return c == Unschedulable || c == UnschedulableAndUnresolvable || c == Pending
}
