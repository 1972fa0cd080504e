// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
)

// What is wrong is always logged; what happens only when it was asked for.
func TestLogs(t *testing.T) {
	for _, test := range []struct {
		args []string
		want []string
		not  []string
	}{
		{nil, []string{"broken", "library warns", "library fails"}, []string{"happens", "library tells", "details", "closed network", "no resources", "has been modified", "stopping", "server stopped"}},
		{[]string{"-v=1"}, []string{"broken", "library warns", "library fails", "happens", "library tells", "server stopped", "closed network", "no resources", "has been modified", "stopping"}, []string{"details"}},
		{[]string{"--v=3"}, []string{"broken", "happens", "details"}, nil},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			defer klog.CaptureState().Restore()
			var l logs
			flags := pflag.NewFlagSet("skiff", pflag.ContinueOnError)
			l.addFlags(flags)
			if err := flags.Parse(test.args); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			parent, stop := context.WithCancel(t.Context())
			ctx, err := l.start(parent, &out)
			if err != nil {
				t.Fatal(err)
			}
			logger := klog.FromContext(ctx).WithName("part").WithValues("key", "value")
			logger.Error(errors.New("cause"), "broken")
			logger.Info("happens")
			logger.V(3).Info("details")
			klog.Warning("library warns")
			klog.Errorf("library fails")
			klog.Info("library tells")
			klog.Warning("Skipping API because it has no resources.")
			klog.ErrorS(errors.New("use of closed network connection"), "Error on socket receive")
			klog.Errorf("cacher (leases): unexpected ListAndWatch error: etcdserver: server stopped; reinitializing...")
			klog.ErrorS(errors.New("etcdserver: server stopped"), "failed to sync with latest state")
			logger.Error(errors.New("slice: the object has been modified; please apply your changes to the latest version and try again"), "Reconciling")
			stop()
			logger.Error(fmt.Errorf("update: %w", context.Canceled), "stopping")
			klog.ErrorS(nil, "Timeout or abort while handling", "outcome", "stopping")
			klog.ErrorS(http.ErrAbortHandler, "Unhandled Error", "outcome", "stopping")
			logger.Error(errors.New("disk full"), "broken while it ends")
			for _, want := range append(test.want, "broken while it ends") {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%q is missing in\n%s", want, out.String())
				}
			}
			for _, not := range test.not {
				if strings.Contains(out.String(), not) {
					t.Errorf("%q is in\n%s", not, out.String())
				}
			}
			if !strings.Contains(out.String(), "logging_test.go:") {
				t.Errorf("the messages do not say where they are from:\n%s", out.String())
			}
		})
	}
}
