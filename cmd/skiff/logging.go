// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
)

// logs is how much to log. Messages go to standard error in klog's structured form; what a person wants to
// know in any case is printed on standard output instead.
type logs struct {
	verbosity int
	modules   string
}

func (l *logs) addFlags(fs *pflag.FlagSet) {
	fs.IntVarP(&l.verbosity, "v", "v", 0, "how much to log: 0 only what is wrong, 1 what happens, 2 and more details of it")
	fs.StringVar(&l.modules, "vmodule", "", "other values of -v for single source files, as pattern=N,...")
}

// noise are messages of libraries, at the level of errors or warnings, about what happens in a healthy
// cluster. They are for those who want to know what happens.
var noise = []struct{ message, err string }{
	// Versions of k8s.io/apiserver's own APIs that it knows and nobody has served for years.
	{message: "because it has no resources"},
	// A stop while an informer of the machinery's own still watches.
	{message: "Terminating all watchers from cacher"},
	// Who still reads when the database ends. Why it ends, main says.
	{message: "etcdserver: server stopped"},
	{err: "etcdserver: server stopped"},
	// The end of each exec over WebSocket, and clients that leave without a word.
	{message: "Error on socket receive", err: "use of closed network connection"},
	{message: "Error proxying data from client to backend", err: "close 1006 (abnormal closure)"},
	{message: "Error proxying data from client to backend", err: "broken pipe"},
	{message: "failed sending message on channel", err: "broken pipe"},
	// Two writers of one object met: the one that lost looks again. k8s.io/endpointslice hides that it is a conflict.
	{message: "Reconciling", err: "the object has been modified; please apply your changes to the latest version"},
}

func isNoise(message string, err error) bool {
	for _, n := range noise {
		if strings.Contains(message, n.message) && (n.err == "" || err != nil && strings.Contains(err.Error(), n.err)) {
			return true
		}
	}
	return false
}

// quiet is a log without the noise, for who did not ask to know more.
type quiet struct {
	klog.LogSink
	ctx context.Context // of all that logs
}

func (q quiet) Error(err error, message string, keysAndValues ...any) {
	if !isNoise(message, err) && !q.cutShort(message, err) {
		q.LogSink.Error(err, message, keysAndValues...)
	}
}

// lastWords are of requests and retries that end because everything ends.
var lastWords = []string{
	"Will retry", "Timeout or abort while handling", "Post-timeout activity",
	http.ErrAbortHandler.Error(), http.ErrHandlerTimeout.Error(), context.Canceled.Error(),
}

// cutShort says that an error only means that everything ends.
func (q quiet) cutShort(message string, err error) bool {
	if q.ctx.Err() == nil {
		return false
	}
	text := message
	if err != nil {
		text += ": " + err.Error()
	}
	return slices.ContainsFunc(append(lastWords, context.Cause(q.ctx).Error()), func(words string) bool { return strings.Contains(text, words) })
}

func (q quiet) WithName(name string) klog.LogSink { return quiet{q.LogSink.WithName(name), q.ctx} }

func (q quiet) WithValues(keysAndValues ...any) klog.LogSink {
	return quiet{q.LogSink.WithValues(keysAndValues...), q.ctx}
}

func (q quiet) WithCallDepth(depth int) klog.LogSink {
	if sink, ok := q.LogSink.(interface{ WithCallDepth(int) klog.LogSink }); ok {
		return quiet{sink.WithCallDepth(depth), q.ctx}
	}
	return q
}

// start directs the messages of the libraries and of our parts to out. It must be called once.
func (l *logs) start(ctx context.Context, out io.Writer) (context.Context, error) {
	level := l.verbosity
	if level == 0 {
		level = -1 // klog's 0 is what we call 1 and less: what happens
	}
	config := textlogger.NewConfig(textlogger.Output(out), textlogger.Verbosity(level))
	if err := config.VModule().Set(l.modules); err != nil {
		return nil, fmt.Errorf("--vmodule: %w", err)
	}
	var flags flag.FlagSet
	klog.InitFlags(&flags)
	if err := flags.Set("v", strconv.Itoa(l.verbosity)); err != nil {
		return nil, fmt.Errorf("-v: %w", err)
	}
	if err := flags.Set("vmodule", l.modules); err != nil {
		return nil, fmt.Errorf("--vmodule: %w", err)
	}
	logger := textlogger.NewLogger(config)
	if level < 0 {
		// One deeper than the text logger, for the place in the source that a message names.
		logger = logger.WithSink(quiet{logger.WithCallDepth(1).GetSink(), ctx})
	}
	// Through a logger and not by klog's flags, because containerd sets those.
	klog.SetLoggerWithOptions(logger, klog.ContextualLogger(true), klog.WriteKlogBuffer(func(line []byte) {
		if level < 0 && (bytes.HasPrefix(line, []byte("I")) || isNoise(string(line), errors.New(string(line)))) {
			return
		}
		_, _ = out.Write(line)
	}))
	log.SetFlags(0)
	log.SetOutput(standardLog{})
	return klog.NewContext(ctx, logger), nil
}

// standardLog takes what libraries write to Go's standard log: CoreDNS all it has to say, with a level in
// front, net/http how single clients went away.
type standardLog struct{}

func (standardLog) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	if bytes.HasPrefix(line, []byte("[ERROR] ")) || bytes.HasPrefix(line, []byte("[FATAL] ")) {
		klog.ErrorS(nil, text)
	} else {
		klog.V(1).InfoS(text)
	}
	return len(line), nil
}
