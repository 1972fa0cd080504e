// SPDX-License-Identifier: Apache-2.0

package nodelogs

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// https://kubernetes.io/docs/concepts/cluster-administration/system-logs/#log-query
func TestQueries(t *testing.T) {
	dir := t.TempDir()
	for path, text := range map[string]string{"syslog": "a line\n", "web.log": "of web\n", "db/db.log": "of db\n"} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", t.TempDir()) // no journald here
	h := http.StripPrefix("/logs/", Handler(dir, http.FileServer(http.Dir(dir))))
	for _, c := range []struct {
		path string
		code int
		want string
	}{
		{"/logs/syslog", 200, "a line\n"},
		{"/logs/?query=syslog", 200, "a line\n"},
		{"/logs/?query=web&query=db", 200, "of web\nof db\n"},
		{"/logs/?query=none", 200, "\nlog not found for none\n"},
		{"/logs/?query=web&tailLines=1", 200, "\noptions present and query resolved to log files for [web]\ntry without specifying options\n"},
		{"/logs/?query=/syslog", 200, "a line\n"},
		{"/logs/?query=db/db.log", 200, "of db\n"},
		{"/logs/?query=db/none", 406, "no such file"},
		{"/logs/?query=../x", 406, "path escapes"},
		{"/logs/?query=db/db.log&tailLines=1", 406, "cannot specify file with options"},
		{"/logs/?query=db/db.log&query=db/db.log", 406, "cannot specify more than one file"},
		{"/logs/?query=db/db.log&query=db", 406, "cannot specify a file and service"},
		{"/logs/syslog?query=web", 406, "path not allowed in query mode"},
		{"/logs/?query=", 400, "may not be empty"},
		{"/logs/?tailLines=1", 406, "cannot be empty with options"},
		{"/logs/?query=web&tailLines=x", 400, "tailLines"},
		{"/logs/?query=web&tailLines=100001", 406, "must be between 0 and 100000"},
		{"/logs/?query=web&boot=1", 406, "must be less than 1"},
		{"/logs/?query=web&sinceTime=today", 400, "invalid time format"},
		{"/logs/?query=web&sinceTime=2026-01-02T00:00:00Z&untilTime=2026-01-01T00:00:00Z", 406, "must be after `sinceTime`"},
		{"/logs/?query=web&pattern=(", 406, "missing closing"},
		{"/logs/?query=" + url.QueryEscape("web;id"), 406, "input contains unsupported characters"},
		{"/logs/?query=a&query=b&query=c&query=d&query=e", 406, "must have at most 4 items"},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", c.path, nil))
		if w.Code != c.code || c.code == 200 && w.Body.String() != c.want || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("GET %s = %d %q, want %d with %q", c.path, w.Code, w.Body, c.code, c.want)
		}
	}
}

// What journald has of a service is asked of journalctl.
func TestJournal(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\nif [ \"$1\" = --field ]; then echo other.service; echo web.service; exit; fi\nfor a; do echo \"$a\"; done\n"
	if err := os.WriteFile(filepath.Join(bin, "journalctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	w := httptest.NewRecorder()
	Handler(t.TempDir(), nil).ServeHTTP(w, httptest.NewRequest("GET", "/?query=web&tailLines=5&boot=-1&pattern=err.*&sinceTime=2026-01-02T03:04:05Z&untilTime=2026-01-03T00:00:00Z", nil))
	want := "--utc\n--no-pager\n--output=short-precise\n--since=2026-1-2 03:4:5\n--until=2026-1-3 00:0:0\n--pager-end\n--lines=5\n--unit=web\n--grep=err.*\n--boot\n-1\n"
	if got := w.Body.String(); got != want {
		t.Errorf("journalctl was called with %q, want %q", got, want)
	}
}
