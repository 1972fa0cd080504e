// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"strconv"

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

// unservedVersion is in a warning of k8s.io/apiserver about versions of its own APIs that it knows and that
// nobody has served for years. They cannot be taken from it.
const unservedVersion = "because it has no resources"

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
	// Through a logger and not by klog's flags, because containerd sets those.
	klog.SetLoggerWithOptions(logger, klog.ContextualLogger(true), klog.WriteKlogBuffer(func(line []byte) {
		if level < 0 && (bytes.HasPrefix(line, []byte("I")) || bytes.Contains(line, []byte(unservedVersion))) {
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
