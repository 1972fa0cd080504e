// SPDX-License-Identifier: Apache-2.0

package storageversionmigration

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestIsTransient(t *testing.T) {
	resource := schema.GroupResource{Resource: "podtemplates"}
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"nobody answers":           {&url.Error{Op: "Patch", URL: "https://server", Err: errors.New("connection refused")}, true},
		"the controller is to end": {context.Canceled, true},
		"too much at once":         {apierrors.NewTooManyRequests("later", 1), true},
		"a request timed out":      {apierrors.NewTimeoutError("slow", 1), true},
		"a server's fault":         {fmt.Errorf("patch: %w", apierrors.NewInternalError(errors.New("disk full"))), true},
		"an invalid object":        {apierrors.NewInvalid(schema.GroupKind{Kind: "PodTemplate"}, "a", nil), false},
		"a forbidden write":        {fmt.Errorf("patch: %w", apierrors.NewForbidden(resource, "a", errors.New("no"))), false},
		"an unknown answer":        {&apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: 418}}, false},
	} {
		if got := isTransient(c.err); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
