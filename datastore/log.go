// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"slices"

	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"
)

// klogCore hands etcd's messages to klog. Warnings are for those who look for them: etcd warns of what is
// meant for a cluster of machines, and of what is so at every first start.
type klogCore struct{ fields []zapcore.Field }

var _ zapcore.Core = klogCore{}

func (klogCore) Enabled(level zapcore.Level) bool {
	return level >= zapcore.ErrorLevel || (level == zapcore.WarnLevel && klog.V(2).Enabled())
}

func (c klogCore) With(fields []zapcore.Field) zapcore.Core {
	return klogCore{append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c klogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c klogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		f.AddTo(values)
	}
	delete(values.Fields, "stacktrace")
	keysAndValues := []any{"component", "etcd"}
	for k, v := range values.Fields {
		keysAndValues = append(keysAndValues, k, v)
	}
	if e.Level >= zapcore.ErrorLevel && !slices.Contains(noErrors, e.Message) {
		klog.ErrorS(nil, e.Message, keysAndValues...)
		return nil
	}
	klog.V(2).InfoS(e.Message, keysAndValues...)
	return nil
}

// noErrors are what etcd takes for errors, and what is no more than the course of things.
var noErrors = []string{
	"failed to update storage version",                // of a new database, until its first snapshot
	"rejecting promote learner: learner is not ready", // a server that joins, and asks until it is
}

func (klogCore) Sync() error { return nil }
