// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// containerd logs through logrus's one global logger. Most of what it calls informational is about each
// single call, and most of its warnings about features that a machine lacks: for us, details.
const (
	warnVerbosity  = 1
	infoVerbosity  = 4
	debugVerbosity = 6
)

// redirectLogs sends containerd's log to ours. A fatal error is given to fatal instead of ending the process.
func redirectLogs(logger klog.Logger, fatal func(code int)) {
	level := logrus.ErrorLevel
	if logger.V(warnVerbosity).Enabled() {
		level = logrus.WarnLevel
	}
	if logger.V(infoVerbosity).Enabled() {
		level = logrus.InfoLevel
	}
	if logger.V(debugVerbosity).Enabled() {
		level = logrus.DebugLevel
	}
	std := logrus.StandardLogger()
	std.SetLevel(level) // what nobody reads is not even formatted
	std.SetOutput(io.Discard)
	std.SetFormatter(noFormatter{})
	std.ReplaceHooks(logrus.LevelHooks{})
	std.AddHook(logHook{logger: logger})
	std.ExitFunc = fatal
}

type logHook struct{ logger klog.Logger }

func (logHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h logHook) Fire(e *logrus.Entry) error {
	var err error
	var keysAndValues []any
	for _, key := range slices.Sorted(maps.Keys(e.Data)) {
		if value, ok := e.Data[key].(error); ok && key == logrus.ErrorKey {
			err = value
			continue
		}
		keysAndValues = append(keysAndValues, key, e.Data[key])
	}
	level := e.Level
	if level == logrus.ErrorLevel && abandoned(e.Message, err) {
		level = logrus.WarnLevel
	}
	switch level {
	case logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel:
		h.logger.Error(err, e.Message, keysAndValues...)
		return nil
	case logrus.WarnLevel:
		h.logger = h.logger.V(warnVerbosity)
	case logrus.InfoLevel:
		h.logger = h.logger.V(infoVerbosity)
	default:
		h.logger = h.logger.V(debugVerbosity)
	}
	if err != nil {
		keysAndValues = append(keysAndValues, "err", err)
	}
	h.logger.Info(e.Message, keysAndValues...)
	return nil
}

// abandoned says that nothing went wrong but that the caller has left, as at the end of a node: it knows, and
// an answer that comes later is for nobody.
func abandoned(message string, err error) bool {
	return err != nil && strings.Contains(err.Error(), context.Canceled.Error()) || strings.HasPrefix(message, "ttrpc: received message on inactive stream")
}

// noFormatter spares the work of formatting what goes to io.Discard.
type noFormatter struct{}

func (noFormatter) Format(*logrus.Entry) ([]byte, error) { return nil, nil }
