// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	journalPatience   = 30 * time.Second
	journalTime       = "2006-01-02 15:04:05 UTC" // as journalctl reads it; without the zone it would be the machine's
	maxLogServices    = 4
	maxServiceName    = 256
	maxServiceLogTail = 100000
)

// nodeLogs are the files of the node's log directory and, where that is allowed, the logs of its services: ?query=NAME.
// Reference: https://kubernetes.io/docs/concepts/cluster-administration/system-logs/#log-query
func (s *Server) nodeLogs() http.Handler {
	if s.config.NoLogs {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			writeError(w, "logs endpoint is disabled.", http.StatusMethodNotAllowed)
		})
	}
	files := http.FileServerFS(rootFS(s.config.LogDir))
	if !s.config.LogQuery {
		return files
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, errs := parseLogQuery(r.URL.Query())
		if len(errs) > 0 {
			writeError(w, errs.ToAggregate().Error(), http.StatusBadRequest)
			return
		}
		if q.asksNothing() {
			files.ServeHTTP(w, r)
			return
		}
		if r.URL.Path != "" {
			writeError(w, "path not allowed in query mode", http.StatusNotAcceptable)
			return
		}
		if errs := q.validate(rootFS(s.config.LogDir)); len(errs) > 0 {
			writeError(w, errs.ToAggregate().Error(), http.StatusNotAcceptable)
			return
		}
		if len(q.files) == 1 {
			r.URL.Path = q.files[0]
			files.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain;charset=UTF-8")
		ctx, cancel := context.WithTimeout(r.Context(), journalPatience)
		defer cancel()
		q.writeServices(ctx, rootFS(s.config.LogDir), w)
	})
}

// logQuery is what a query asks for: one file, or services and which of their lines.
type logQuery struct {
	queries         []string // as they came
	files, services []string
	lines           logLines
}

type logLines struct {
	since, until time.Time
	tail, boot   *int
	pattern      string
}

func (q *logQuery) asksNothing() bool {
	return len(q.files) == 0 && len(q.services) == 0 && q.lines == logLines{}
}

func parseLogQuery(query url.Values) (q logQuery, errs field.ErrorList) {
	q.queries = query["query"]
	for _, asked := range q.queries {
		switch {
		case strings.ContainsAny(asked, `/\`): // no service is called so
			q.files = append(q.files, strings.TrimLeft(asked, `/\`))
		case strings.TrimSpace(asked) != "":
			q.services = append(q.services, asked)
		}
	}
	if query.Has("query") && len(q.files) == 0 && len(q.services) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("query"), q.queries, "may not be empty"))
	}
	for name, to := range map[string]*time.Time{"sinceTime": &q.lines.since, "untilTime": &q.lines.until} {
		text := query.Get(name)
		if text == "" {
			continue
		}
		var err error
		if *to, err = time.Parse(time.RFC3339, text); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(name), text, "invalid time format"))
		}
	}
	for name, to := range map[string]**int{"boot": &q.lines.boot, "tailLines": &q.lines.tail} {
		text := query.Get(name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			errs = append(errs, field.Invalid(field.NewPath(name), text, err.Error()))
		}
		*to = &n
	}
	q.lines.pattern = query.Get("pattern")
	return q, errs
}

// What else would be in a service's name is not for the command line of a program.
var unsafeInServiceName = regexp.MustCompile(`[^a-zA-Z\-_.:0-9@]`)

func (q *logQuery) validate(dir fs.FS) (errs field.ErrorList) {
	path := field.NewPath("query")
	for _, service := range q.services {
		if len(service) > maxServiceName {
			errs = append(errs, field.Invalid(path, service, fmt.Sprintf("length must be less than %d", maxServiceName)))
		}
		if unsafeInServiceName.MatchString(service) {
			errs = append(errs, field.Invalid(path, service, "input contains unsupported characters"))
		}
	}
	if len(q.services) > maxLogServices {
		errs = append(errs, field.TooMany(path, len(q.services), maxLogServices))
	}
	switch {
	case len(q.files) == 0 && len(q.services) == 0:
		errs = append(errs, field.Required(path, "cannot be empty with options"))
	case len(q.files) > 0 && len(q.services) > 0:
		errs = append(errs, field.Invalid(path, q.queries, "cannot specify a file and service"))
	case len(q.files) > 1:
		errs = append(errs, field.Invalid(path, q.queries, "cannot specify more than one file"))
	case len(q.files) == 1 && q.lines != logLines{}:
		errs = append(errs, field.Invalid(path, q.queries, "cannot specify file with options"))
	case len(q.files) == 1:
		if _, err := fs.Stat(dir, q.files[0]); err != nil {
			errs = append(errs, field.Invalid(path, q.queries, err.Error()))
		}
	}
	return append(errs, q.lines.validate()...)
}

func (l *logLines) validate() (errs field.ErrorList) {
	if !l.since.IsZero() && !l.until.IsZero() && l.since.After(l.until) {
		errs = append(errs, field.Invalid(field.NewPath("untilTime"), l.until, "must be after `sinceTime`"))
	}
	if l.boot != nil && *l.boot > 0 {
		errs = append(errs, field.Invalid(field.NewPath("boot"), *l.boot, "must be less than 1"))
	}
	if l.tail != nil && (*l.tail < 0 || *l.tail > maxServiceLogTail) {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *l.tail, fmt.Sprintf("must be between 0 and %d, inclusive", maxServiceLogTail)))
	}
	if _, err := syntax.Parse(l.pattern, syntax.Perl); err != nil {
		errs = append(errs, field.Invalid(field.NewPath("pattern"), l.pattern, err.Error()))
	}
	return errs
}

// writeServices writes what systemd's journal has of the services, and then the files of those that it does not know.
func (q *logQuery) writeServices(ctx context.Context, dir fs.FS, w io.Writer) {
	units, _ := exec.CommandContext(ctx, "journalctl", "--field", "_SYSTEMD_UNIT").Output() // a host without systemd has none
	var inJournal, inFiles []string
	for _, service := range q.services {
		if slices.Contains(strings.Fields(string(units)), service+".service") {
			inJournal = append(inJournal, service)
		} else {
			inFiles = append(inFiles, service)
		}
	}
	if len(inJournal) > 0 {
		journal := exec.CommandContext(ctx, "journalctl", q.lines.arguments(inJournal)...)
		journal.Stdout, journal.Stderr = w, w
		var exited *exec.ExitError // then it has said why
		if err := journal.Run(); err != nil && !errors.As(err, &exited) {
			fmt.Fprint(w, "\nerror: journal output not available\n")
		}
	}
	if len(inFiles) > 0 && q.lines != (logLines{}) {
		fmt.Fprintf(w, "\noptions present and query resolved to log files for %v\ntry without specifying options\n", inFiles)
		return
	}
	for _, service := range inFiles {
		writeServiceFile(dir, service, w)
	}
}

// arguments are journalctl's.
func (l *logLines) arguments(services []string) []string {
	args := []string{"--utc", "--no-pager", "--output=short-precise"}
	if !l.since.IsZero() {
		args = append(args, "--since="+l.since.UTC().Format(journalTime))
	}
	if !l.until.IsZero() {
		args = append(args, "--until="+l.until.UTC().Format(journalTime))
	}
	if l.tail != nil {
		args = append(args, "--pager-end", fmt.Sprintf("--lines=%d", *l.tail))
	}
	for _, service := range services {
		args = append(args, "--unit="+service)
	}
	if l.pattern != "" {
		args = append(args, "--grep="+l.pattern)
	}
	if l.boot != nil {
		args = append(args, "--boot", strconv.Itoa(*l.boot))
	}
	return args
}

// writeServiceFile writes the first of the files in which a service may keep its log.
func writeServiceFile(dir fs.FS, service string, w io.Writer) {
	for _, name := range []string{service, service + ".log", service + "/" + service + ".log"} {
		err := writeFile(dir, name, w)
		if err == nil {
			return
		}
		if !errors.Is(err, os.ErrNotExist) {
			fmt.Fprintf(w, "\nerror getting log for %s: %v\n", service, err)
			return
		}
	}
	fmt.Fprintf(w, "\nlog not found for %s\n", service)
}

func writeFile(dir fs.FS, name string, w io.Writer) error {
	f, err := dir.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.IsDir() {
		return errors.Join(err, os.ErrNotExist)
	}
	_, err = io.Copy(w, f)
	return err
}
