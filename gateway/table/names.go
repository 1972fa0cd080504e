// SPDX-License-Identifier: Apache-2.0

package table

import (
	"regexp"
	"strings"
)

// Regexp compiles an expression that has to match the whole of a value.
func Regexp(expression string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(expression); err != nil { // what is closed in it must have been opened in it
		return nil, err
	}
	return regexp.Compile("^(?:" + expression + ")$")
}

// GRPCMethod is the match of paths for a gRPC method. Service or method may be "": any.
func GRPCMethod(service, method string) PathMatch {
	switch {
	case service != "" && method != "":
		return PathMatch{Type: PathExact, Value: "/" + service + "/" + method}
	case service != "":
		return PathMatch{Type: PathPrefix, Value: "/" + service}
	case method != "":
		m, _ := GRPCMethodRegexp("", regexp.QuoteMeta(method)) // quoted, it is valid
		return m
	}
	return PathMatch{}
}

// GRPCMethodRegexp is GRPCMethod by regular expressions; "" is any.
func GRPCMethodRegexp(service, method string) (PathMatch, error) {
	for _, part := range []*string{&service, &method} {
		if *part == "" {
			*part = "[^/]+"
		} else if _, err := regexp.Compile(*part); err != nil {
			return PathMatch{}, err
		}
	}
	source := "/(?:" + service + ")/(?:" + method + ")"
	compiled, err := Regexp(source)
	return PathMatch{Type: PathRegexp, Value: source, Regexp: compiled}, err
}

// Intersect returns the hostname that matches what both do, and whether there is one. "" is all names.
func Intersect(a, b string) (string, bool) {
	switch {
	case a == b || b == "":
		return a, true
	case a == "":
		return b, true
	case Covers(a, b):
		return b, true
	case Covers(b, a):
		return a, true
	}
	return "", false
}

// Covers says whether every name that hostname matches is matched by pattern as well. A hostname without a wildcard is such a name itself.
func Covers(pattern, hostname string) bool {
	if pattern == "" || pattern == hostname {
		return true
	}
	suffix, wild := strings.CutPrefix(pattern, "*")
	return wild && len(hostname) > len(suffix) && strings.HasSuffix(strings.TrimPrefix(hostname, "*"), suffix)
}
