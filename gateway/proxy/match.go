// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// question is a request as rules look at it.
type question struct {
	request *http.Request
	host    string // lower case, without port
	path    string
	params  url.Values // parsed when first asked for
}

// find returns the entry with precedence among those that match, or nil.
func (ix *index) find(q *question) *entry {
	if ix == nil {
		return nil
	}
	var found *entry
	ix.hosts.each(q.host, func(n *hostNode) bool {
		found = n.find(q)
		return found != nil
	})
	return found
}

func (n *hostNode) find(q *question) *entry {
	if e := q.first(n.exact[q.path]); e != nil {
		return e
	}
	for _, e := range n.regexps {
		if e.match.Path.Regexp.MatchString(q.path) && q.satisfies(e) {
			return e
		}
	}
	if len(n.prefixes) == 0 {
		return nil
	}
	for p := q.path; ; {
		if e := q.first(n.prefixes[p]); e != nil {
			return e
		}
		slash := strings.LastIndexByte(p, '/')
		if slash < 0 {
			return nil
		}
		p = p[:slash]
	}
}

func (q *question) first(list []*entry) *entry {
	for _, e := range list {
		if q.satisfies(e) {
			return e
		}
	}
	return nil
}

// satisfies says whether q is what e wants besides a path.
func (q *question) satisfies(e *entry) bool {
	m := e.match
	if m.Method != "" && m.Method != q.request.Method {
		return false
	}
	for i := range m.Headers {
		value, ok := q.header(m.Headers[i].Name)
		if !ok || !equals(&m.Headers[i], value) {
			return false
		}
	}
	for i := range m.Query {
		value, ok := q.param(m.Query[i].Name)
		if !ok || !equals(&m.Query[i], value) {
			return false
		}
	}
	if e.route.SingleLabel && !q.singleLabel(e.route.Hostnames) {
		return false
	}
	return e.listener.owns(q.host)
}

// singleLabel says whether one of hostnames matches with "*" for just one label.
func (q *question) singleLabel(hostnames []string) bool {
	_, parent, _ := strings.Cut(q.host, ".")
	for _, h := range hostnames {
		if suffix, wild := strings.CutPrefix(h, "*."); h == "" || h == q.host || wild && suffix == parent {
			return true
		}
	}
	return false
}

func (q *question) header(name string) (string, bool) {
	values := q.request.Header[name]
	switch {
	case len(values) == 1:
		return values[0], true
	case len(values) > 1:
		return strings.Join(values, ","), true
	case name == "Host":
		return q.request.Host, true
	}
	return "", false
}

func (q *question) param(name string) (string, bool) {
	if q.params == nil {
		q.params = q.request.URL.Query()
	}
	values := q.params[name]
	if len(values) == 0 {
		return "", false
	}
	return values[0], true
}

func equals(m *table.ValueMatch, value string) bool {
	if m.Regexp != nil {
		return m.Regexp.MatchString(value)
	}
	return m.Value == value
}

// hostOf returns the host that a request is for: in lower case, without a port.
func hostOf(r *http.Request) string {
	host := r.Host
	if colon := strings.LastIndexByte(host, ':'); colon >= 0 && !strings.HasSuffix(host, "]") {
		host = host[:colon]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// normalize resolves "." and ".." in the path of a URL, however they are written. Rules would otherwise see another path than a
// backend that resolves them. It returns false for a path that cannot be made unambiguous.
func normalize(u *url.URL) bool {
	if u.Path == "" || u.Path[0] != '/' || strings.IndexByte(u.Path, 0) >= 0 {
		return false
	}
	if !hasDots(u.Path) {
		return true
	}
	raw := strings.NewReplacer("%2e", ".", "%2E", ".").Replace(u.EscapedPath())
	var kept []string
	elements := strings.Split(raw[1:], "/")
	for i, e := range elements {
		last := i == len(elements)-1
		switch e {
		case ".", "..":
			if e == ".." && len(kept) > 0 {
				kept = kept[:len(kept)-1]
			}
			if last {
				kept = append(kept, "") // what is left is a directory
			}
		default:
			kept = append(kept, e)
		}
	}
	raw = "/" + strings.Join(kept, "/")
	path, err := url.PathUnescape(raw)
	if err != nil || hasDots(path) { // they hide behind an escaped slash
		return false
	}
	u.Path, u.RawPath = path, raw
	return true
}

// hasDots says whether a path has an element "." or "..".
func hasDots(path string) bool {
	for {
		i := strings.Index(path, "/.")
		if i < 0 {
			return false
		}
		path = path[i+2:]
		rest := strings.TrimPrefix(path, ".")
		if path == "" || path[0] == '/' || rest == "" || rest[0] == '/' {
			return true
		}
	}
}
