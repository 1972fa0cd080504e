// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// isPreflight says whether a browser asks if a script may send a request.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// preflight answers that question.
func preflight(c *table.CORS, w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if allow(c, h, r) {
		list(h, "Access-Control-Allow-Methods", c.AllowMethods, r.Header.Get("Access-Control-Request-Method"), c.AllowCredentials)
		list(h, "Access-Control-Allow-Headers", c.AllowHeaders, strings.Join(r.Header["Access-Control-Request-Headers"], ", "), c.AllowCredentials)
		h.Set("Access-Control-Max-Age", strconv.Itoa(int(cmp.Or(c.MaxAge, 5*time.Second)/time.Second)))
	}
	w.WriteHeader(http.StatusNoContent)
}

// list sets a header to what is allowed. With credentials "*" would mean nothing to a browser, so it is what was asked for.
func list(h http.Header, name string, allowed []string, asked string, credentials bool) {
	if credentials && slices.Contains(allowed, "*") {
		if asked == "" {
			return
		}
		h.Set(name, asked)
	} else if len(allowed) > 0 {
		h.Set(name, strings.Join(allowed, ", "))
	}
}

// allow sets the headers by which a browser lets a script read an answer, and says whether it may. What the backend says on
// that does not count.
func allow(c *table.CORS, h http.Header, r *http.Request) bool {
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			delete(h, name)
		}
	}
	origin := r.Header.Get("Origin")
	h.Add("Vary", "Origin")
	if origin == "" || !slices.ContainsFunc(c.AllowOrigins, func(allowed string) bool { return originMatches(allowed, origin) }) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	if c.AllowCredentials {
		h.Set("Access-Control-Allow-Credentials", "true")
	}
	if exposed := c.ExposeHeaders; len(exposed) > 0 && !(c.AllowCredentials && slices.Contains(exposed, "*")) {
		h.Set("Access-Control-Expose-Headers", strings.Join(exposed, ", "))
	}
	return true
}

// originMatches says whether origin is one of those that allowed stands for.
func originMatches(allowed, origin string) bool {
	if allowed == "*" || strings.EqualFold(allowed, origin) {
		return true
	}
	a, okA := splitOrigin(allowed)
	o, okO := splitOrigin(origin)
	if !okA || !okO || a.scheme != o.scheme || a.port != o.port {
		return false
	}
	suffix, wild := strings.CutPrefix(a.host, "*")
	return a.host == o.host || wild && len(o.host) > len(suffix) && strings.HasSuffix(o.host, suffix)
}

type origin struct{ scheme, host, port string }

func splitOrigin(s string) (origin, bool) {
	scheme, rest, ok := strings.Cut(strings.ToLower(s), "://")
	u := url.URL{Host: rest}
	o := origin{scheme: scheme, host: u.Hostname(), port: u.Port()}
	if o.port == "" {
		o.port = strconv.Itoa(int(wellKnown[scheme]))
	}
	return o, ok && o.host != ""
}
