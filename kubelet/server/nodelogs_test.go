// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// journal is a journalctl that knows one service, and says which arguments it was called with.
const journal = `#!/bin/sh
case "$*" in
"--field _SYSTEMD_UNIT") printf 'skiff.service\nsession-1.scope\n';;
*) printf '<%s>' "$@";;
esac
`

func logServer(t *testing.T, change func(*Config)) *Server {
	s, _, _ := newServer(t, "get nodes/n1/log")
	bin := t.TempDir()
	for path, content := range map[string]string{
		filepath.Join(bin, "journalctl"):              journal,
		filepath.Join(s.config.LogDir, "syslog"):      "a line",
		filepath.Join(s.config.LogDir, "ntpd.log"):    "the time",
		filepath.Join(s.config.LogDir, "db/db.log"):   "the data",
		filepath.Join(s.config.LogDir, "db/query.no"): "x",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	config := s.config
	change(&config)
	return New(config)
}

// https://kubernetes.io/docs/concepts/cluster-administration/system-logs/#log-query
func TestLogQuery(t *testing.T) {
	s := logServer(t, func(c *Config) { c.LogQuery = true })
	many := strings.Repeat("&query=a", maxLogServices+1)
	for _, c := range []struct {
		path string
		code int
		want string
	}{
		{"/logs/", 200, "syslog"},
		{"/logs/syslog", 200, "a line"},
		{"/logs/?query=/syslog", 200, "a line"},
		{"/logs/?query=db/db.log", 200, "the data"},
		{"/logs/?query=ntpd", 200, "the time"},
		{"/logs/?query=db", 200, "the data"},
		{"/logs/?query=none", 200, "log not found for none"},
		{"/logs/?query=ntpd&tailLines=3", 200, "options present and query resolved to log files for [ntpd]"},
		{"/logs/?query=skiff", 200, "<--utc><--no-pager><--output=short-precise><--unit=skiff>"},
		{"/logs/?query=skiff&query=ntpd", 200, "<--unit=skiff>the time"},
		{"/logs/?query=skiff&boot=-1&tailLines=3&pattern=a|b", 200, "<--pager-end><--lines=3><--unit=skiff><--grep=a|b><--boot><-1>"},
		{"/logs/?query=skiff&sinceTime=2026-11-28T10:00:00%2B02:00&untilTime=2026-11-28T09:00:00Z", 200, "<--since=2026-11-28 08:00:00 UTC><--until=2026-11-28 09:00:00 UTC>"},
		{"/logs/?query", 400, "may not be empty"},
		{"/logs/?query=%20", 400, "may not be empty"},
		{"/logs/?query=skiff&tailLines=x", 400, "tailLines"},
		{"/logs/?query=skiff&boot=x", 400, "boot"},
		{"/logs/?query=skiff&sinceTime=yesterday", 400, "sinceTime: Invalid value: \"yesterday\": invalid time format"},
		{"/logs/syslog?query=skiff", 406, "path not allowed in query mode"},
		{"/logs/?tailLines=3", 406, "query: Required value: cannot be empty with options"},
		{"/logs/?query=skiff&query=/syslog", 406, "cannot specify a file and service"},
		{"/logs/?query=/syslog&query=/db/db.log", 406, "cannot specify more than one file"},
		{"/logs/?query=/syslog&tailLines=3", 406, "cannot specify file with options"},
		{"/logs/?query=/none", 406, "no such file"},
		{"/logs/?query=/../secret", 406, "query: Invalid value"},
		{"/logs/?query=" + url.QueryEscape("a;b"), 406, "input contains unsupported characters"},
		{"/logs/?query=" + strings.Repeat("a", maxServiceName+1), 406, "length must be less than 256"},
		{"/logs/?x=1" + many, 406, "must have at most 4 items"},
		{"/logs/?query=skiff&boot=1", 406, "must be less than 1"},
		{"/logs/?query=skiff&tailLines=100001", 406, "must be between 0 and 100000, inclusive"},
		{"/logs/?query=skiff&pattern=(", 406, "pattern"},
		{"/logs/?query=skiff&sinceTime=2026-11-28T10:00:00Z&untilTime=2026-11-28T09:00:00Z", 406, "must be after `sinceTime`"},
	} {
		if w := get(s, c.path); w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s = %d %q, want %d with %q", c.path, w.Code, w.Body, c.code, c.want)
		}
	}
}

// Unless the node's configuration allows them there are no queries, and without logs at all nothing is told.
func TestLogsNotAllowed(t *testing.T) {
	plain := logServer(t, func(*Config) {})
	if w := get(plain, "/logs/?query=skiff"); w.Code != 200 || strings.Contains(w.Body.String(), "--unit") {
		t.Errorf("a query that is not allowed = %d %q", w.Code, w.Body)
	}
	none := logServer(t, func(c *Config) { c.NoLogs = true })
	for _, path := range []string{"/logs/", "/logs/syslog"} {
		if w := get(none, path); w.Code != 405 || w.Body.String() != "logs endpoint is disabled." {
			t.Errorf("%s = %d %q, want 405", path, w.Code, w.Body)
		}
	}
}
