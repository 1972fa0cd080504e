// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// filter changes headers. host, if not nil, is where a request has its Host instead.
func filter(f *table.HeaderFilter, h http.Header, host *string) {
	if f == nil {
		return
	}
	for _, set := range f.Set {
		if host != nil && strings.EqualFold(set.Name, "Host") {
			*host = set.Value
		} else {
			h.Set(set.Name, set.Value)
		}
	}
	for _, add := range f.Add {
		// One line, as for clients that look at the first one only.
		name := textproto.CanonicalMIMEHeaderKey(add.Name)
		if old := h[name]; len(old) > 0 && name != "Set-Cookie" {
			h[name] = []string{strings.Join(old, ",") + "," + add.Value}
		} else {
			h[name] = append(old, add.Value)
		}
	}
	for _, name := range f.Remove {
		h.Del(name)
	}
}

// redirect answers with where to go instead.
func (x *exchange) redirect(to *table.Redirect) {
	location := *x.in.URL // the path and query
	location.Scheme = to.Scheme
	if to.Scheme == "" {
		location.Scheme = "http"
		if x.in.TLS != nil {
			location.Scheme = "https"
		}
	}
	host := to.Hostname
	if host == "" {
		host = hostOf(x.in)
	}
	location.Host = withPort(host, x.redirectPort(to), location.Scheme)
	if to.Path != nil {
		modify(to.Path, &location, x.prefix)
	}
	h := x.Header()
	h.Set("Location", location.String())
	if x.Filters.CORS != nil {
		allow(x.Filters.CORS, h, x.in)
	}
	filter(x.Filters.ResponseHeaders, h, nil)
	x.WriteHeader(to.Status)
}

// wellKnown are ports that need not be said.
var wellKnown = map[string]uint16{"http": 80, "https": 443}

func (x *exchange) redirectPort(to *table.Redirect) uint16 {
	switch {
	case to.Port != 0:
		return to.Port
	case wellKnown[to.Scheme] != 0:
		return wellKnown[to.Scheme]
	}
	return x.listener.port
}

func withPort(host string, port uint16, scheme string) string {
	if port == wellKnown[scheme] {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(int(port)))
}

// modify changes the path of u. prefix is what matched of it, without a slash at the end.
func modify(m *table.PathModifier, u *url.URL, prefix string) {
	if !m.Prefix {
		u.Path, u.RawPath = m.Replacement, ""
		return
	}
	raw := u.EscapedPath()
	replacement := strings.TrimSuffix(m.Replacement, "/")
	path := replacement + u.Path[len(prefix):]
	rawPath := (&url.URL{Path: replacement}).EscapedPath() + raw[escapedLength(raw, len(prefix)):]
	if path == "" {
		path, rawPath = "/", "/"
	}
	u.Path, u.RawPath = path, rawPath
}

// escapedLength returns how long the part of an escaped path is that stands for its first n bytes.
func escapedLength(raw string, n int) int {
	i := 0
	for ; n > 0; n-- {
		if raw[i] == '%' {
			i += 2
		}
		i++
	}
	return i
}
