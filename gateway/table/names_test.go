// SPDX-License-Identifier: Apache-2.0

package table

import "testing"

func TestIntersect(t *testing.T) {
	for _, test := range []struct {
		a, b, want string
		ok         bool
	}{
		{"", "", "", true},
		{"", "example.com", "example.com", true},
		{"*.example.com", "", "*.example.com", true},
		{"*.example.com", "a.example.com", "a.example.com", true},
		{"a.b.example.com", "*.example.com", "a.b.example.com", true},
		{"*.example.com", "*.b.example.com", "*.b.example.com", true},
		{"*.example.com", "example.com", "", false},
		{"*.example.com", "badexample.com", "", false},
		{"*.example.com", "*.com", "*.example.com", true},
		{"a.example.com", "b.example.com", "", false},
		{"*.a.com", "*.b.com", "", false},
	} {
		if got, ok := Intersect(test.a, test.b); got != test.want || ok != test.ok {
			t.Errorf("Intersect(%q, %q) = %q, %v; want %q, %v", test.a, test.b, got, ok, test.want, test.ok)
		}
	}
}

func TestRegexpMatchesTheWholeValue(t *testing.T) {
	re, err := Regexp("/v1|/v2")
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]bool{"/v1": true, "/v2": true, "/v1/a": false, "/a/v2": false} {
		if got := re.MatchString(value); got != want {
			t.Errorf("%q matches: %v, want %v", value, got, want)
		}
	}
	if _, err := Regexp("a)|(b"); err == nil {
		t.Error("an expression that closes the group around it was taken")
	}
}

func TestGRPCMethod(t *testing.T) {
	exact := GRPCMethod("pkg.Echo", "Say")
	if exact.Type != PathExact || exact.Value != "/pkg.Echo/Say" {
		t.Errorf("service and method: %+v", exact)
	}
	method := GRPCMethod("", "Say")
	for path, want := range map[string]bool{"/pkg.Echo/Say": true, "/pkg.Echo/Says": false, "/a/pkg.Echo/Say": false} {
		if got := method.Regexp.MatchString(path); got != want {
			t.Errorf("method Say matches %s: %v, want %v", path, got, want)
		}
	}
	if _, err := GRPCMethodRegexp("a)(b", "c"); err == nil {
		t.Error("an expression that closes the group around it was taken")
	}
}
