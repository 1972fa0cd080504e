// SPDX-License-Identifier: Apache-2.0

package images

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	api "k8s.io/kubelet/config/v1beta1"
)

func TestAllowlist(t *testing.T) {
	list, err := ParseAllowlist([]string{"busybox", "registry.example.org:5000/team/*"})
	if err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string]bool{
		"busybox": true, "busybox:stable": true, "busybox@sha256:" + strings.Repeat("a", 64): true, "busybox:1@sha256:" + strings.Repeat("a", 64): true,
		"registry.example.org:5000/team/web:1": true, "registry.example.org:5000/team/deep/web": true, "registry.example.org:5000/teams/web": false,
		"busyboxes": false, "example.org/busybox": false, "": false,
	} {
		if got := list.has(image); got != want {
			t.Errorf("%q is on the list: %v, want %v", image, got, want)
		}
	}
	for pattern, want := range map[string]string{
		" busybox": "spaces are not allowed", "": "too short", "a*/b": "not a valid wildcard pattern", "a/b*": "not a valid wildcard pattern", "/*": "at least registry hostname",
		"busybox:1": "neither tag nor digest", "Busy Box": "failed to parse",
	} {
		if _, err := ParseAllowlist([]string{pattern}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", pattern, err, want)
		}
	}
}

// https://kubernetes.io/docs/concepts/containers/images/#ensureimagepullcredentialverification
func TestVerificationPolicies(t *testing.T) {
	for _, c := range []struct {
		policy api.ImagePullCredentialsVerificationPolicy
		want   [3]verdict // of an image that was preloaded, one that is on the list, and one that was pulled by a secret
	}{
		{"", [3]verdict{allowed, allowed, mustProve}},
		{api.NeverVerifyPreloadedImages, [3]verdict{allowed, allowed, mustProve}},
		{api.NeverVerify, [3]verdict{allowed, allowed, allowed}},
		{api.NeverVerifyAllowlistedImages, [3]verdict{mustProve, allowed, mustProve}},
		{api.AlwaysVerify, [3]verdict{mustProve, mustProve, mustProve}},
	} {
		p := &pulled{dir: t.TempDir(), policy: c.policy, allowlist: Allowlist{"listed"}}
		if err := p.done("private:1", "sha256:p", &credential{auth: &runtimeapi.AuthConfig{}, secret: &v1.Secret{ObjectMeta: metav1.ObjectMeta{UID: "u", Namespace: "n", Name: "s"}}}); err != nil {
			t.Fatal(err)
		}
		for i, image := range []string{"old:1", "listed:1", "private:1"} {
			if got, err := p.check(image, "sha256:"+image[:1], nil); err != nil || got != c.want[i] {
				t.Errorf("%q, %s: %v, %v; want %v", c.policy, image, got, err, c.want[i])
			}
		}
	}
}
