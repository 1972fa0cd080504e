// SPDX-License-Identifier: Apache-2.0

// Package nodelogs answers queries for the logs of a node's services, as `/logs/?query=…` of the kubelet's API has them: what
// journald has of a service, else its file below /var/log. It is off unless the operator turns it on (enableSystemLogQuery).
// Reference: https://kubernetes.io/docs/concepts/cluster-administration/system-logs/#log-query
package nodelogs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	mostLines    = 100000
	mostServices = 4
	longestName  = 256
	patience     = 30 * time.Second // with journald
)

// unsafe are characters that no service has in its name.
var unsafe = regexp.MustCompile(`[^a-zA-Z\-_.:0-9@]`)

// query is what is asked for: of services, or one file.
type query struct {
	services, files []string
	options
}

// options choose among the lines of services.
type options struct {
	since, until, lines, boot, pattern string // as they were given
}

// Handler serves queries from journald and the files of a folder, and passes on to files what is no query.
func Handler(dir string, files http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, errs := parse(r.URL.Query())
		if len(errs) > 0 {
			http.Error(w, errs.ToAggregate().Error(), http.StatusBadRequest)
			return
		}
		if q == nil {
			files.ServeHTTP(w, r)
			return
		}
		if r.URL.Path != "/" && r.URL.Path != "" {
			http.Error(w, "path not allowed in query mode", http.StatusNotAcceptable)
			return
		}
		if errs := q.validate(dir); len(errs) > 0 {
			http.Error(w, errs.ToAggregate().Error(), http.StatusNotAcceptable)
			return
		}
		if len(q.files) > 0 {
			file := r.Clone(r.Context())
			file.URL.Path = q.files[0]
			files.ServeHTTP(w, file)
			return
		}
		w.Header().Set("Content-Type", "text/plain;charset=UTF-8")
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		q.write(ctx, w, dir)
	})
}

// parse returns nil for no query.
func parse(values url.Values) (*query, field.ErrorList) {
	var q query
	var errs field.ErrorList
	asked, given := values["query"]
	for _, one := range asked {
		if strings.ContainsAny(one, `/\`) {
			q.files = append(q.files, strings.TrimPrefix(one, "/"))
		} else if strings.TrimSpace(one) != "" {
			q.services = append(q.services, one)
		}
	}
	if given && len(q.files) == 0 && len(q.services) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("query"), asked, "may not be empty"))
	}
	q.options = options{since: values.Get("sinceTime"), until: values.Get("untilTime"), lines: values.Get("tailLines"), boot: values.Get("boot"), pattern: values.Get("pattern")}
	for name, text := range map[string]string{"sinceTime": q.since, "untilTime": q.until} {
		if _, err := time.Parse(time.RFC3339, text); text != "" && err != nil {
			errs = append(errs, field.Invalid(field.NewPath(name), text, "invalid time format"))
		}
	}
	for name, text := range map[string]string{"boot": q.boot, "tailLines": q.lines} {
		if _, err := strconv.Atoi(text); text != "" && err != nil {
			errs = append(errs, field.Invalid(field.NewPath(name), text, err.Error()))
		}
	}
	if !given && q.options == (options{}) {
		return nil, errs
	}
	return &q, errs
}

// validate checks a query whose numbers and times can be read.
func (q *query) validate(dir string) (errs field.ErrorList) {
	path := field.NewPath("query")
	for _, name := range q.services {
		if len(name) > longestName {
			errs = append(errs, field.Invalid(path, name, fmt.Sprintf("length must be less than %d", longestName)))
		} else if unsafe.MatchString(name) {
			errs = append(errs, field.Invalid(path, name, "input contains unsupported characters"))
		}
	}
	if n := len(q.services); n > mostServices {
		errs = append(errs, field.TooMany(path, n, mostServices))
	}
	switch {
	case len(q.files) == 0 && len(q.services) == 0:
		errs = append(errs, field.Required(path, "cannot be empty with options"))
	case len(q.files) > 0 && len(q.services) > 0:
		errs = append(errs, field.Invalid(path, fmt.Sprintf("%v, %v", q.files, q.services), "cannot specify a file and service"))
	case len(q.files) > 1:
		errs = append(errs, field.Invalid(path, q.files, "cannot specify more than one file"))
	case len(q.files) == 1 && q.options != (options{}):
		errs = append(errs, field.Invalid(path, q.files, "cannot specify file with options"))
	case len(q.files) == 1:
		if err := exists(dir, q.files[0]); err != nil {
			errs = append(errs, field.Invalid(path, q.files, err.Error()))
		}
	}
	if q.since != "" && q.until != "" && q.time(q.since).After(q.time(q.until)) {
		errs = append(errs, field.Invalid(field.NewPath("untilTime"), q.until, "must be after `sinceTime`"))
	}
	if boot, _ := strconv.Atoi(q.boot); boot > 0 {
		errs = append(errs, field.Invalid(field.NewPath("boot"), boot, "must be less than 1"))
	}
	if lines, _ := strconv.Atoi(q.lines); q.lines != "" {
		for _, message := range validation.IsInRange(lines, 0, mostLines) {
			errs = append(errs, field.Invalid(field.NewPath("tailLines"), lines, message))
		}
	}
	if _, err := syntax.Parse(q.pattern, syntax.Perl); err != nil {
		errs = append(errs, field.Invalid(field.NewPath("pattern"), q.pattern, err.Error()))
	}
	return errs
}

func exists(dir, file string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	_, err = root.Stat(file)
	return err
}

func (q *query) time(text string) time.Time {
	t, _ := time.Parse(time.RFC3339, text) // parse has tried it
	return t
}

// write writes the logs of services. What goes wrong on the way is told as a line among them.
func (q *query) write(ctx context.Context, w io.Writer, dir string) {
	units, _ := exec.CommandContext(ctx, "journalctl", "--field", "_SYSTEMD_UNIT").Output() // without journald there are none
	var inJournal, inFiles []string
	for _, service := range q.services {
		if slices.Contains(strings.Split(string(units), "\n"), service+".service") {
			inJournal = append(inJournal, service)
		} else {
			inFiles = append(inFiles, service)
		}
	}
	if len(inJournal) > 0 {
		cmd := exec.CommandContext(ctx, "journalctl", q.arguments(inJournal)...)
		cmd.Stdout, cmd.Stderr = w, w
		var exit *exec.ExitError
		if err := cmd.Run(); err != nil && !errors.As(err, &exit) { // else it has said why
			fmt.Fprint(w, "\nerror: journal output not available\n")
		}
	}
	if len(inFiles) > 0 && q.options != (options{}) {
		fmt.Fprintf(w, "\noptions present and query resolved to log files for %v\ntry without specifying options\n", inFiles)
		return
	}
	for _, service := range inFiles {
		copyFile(ctx, w, dir, service)
	}
}

// arguments are those of journalctl.
func (q *query) arguments(services []string) []string {
	const layout = "2006-1-2 15:4:5"
	args := []string{"--utc", "--no-pager", "--output=short-precise"}
	if q.since != "" {
		args = append(args, "--since="+q.time(q.since).Format(layout))
	}
	if q.until != "" {
		args = append(args, "--until="+q.time(q.until).Format(layout))
	}
	if q.lines != "" {
		args = append(args, "--pager-end", "--lines="+q.lines)
	}
	for _, service := range services {
		args = append(args, "--unit="+service)
	}
	if q.pattern != "" {
		args = append(args, "--grep="+q.pattern)
	}
	if q.boot != "" {
		args = append(args, "--boot", q.boot)
	}
	return args
}

// copyFile writes the first file there is that a service may log to.
func copyFile(ctx context.Context, w io.Writer, dir, service string) {
	for _, name := range []string{service, service + ".log", filepath.Join(service, service+".log")} {
		f, err := os.OpenInRoot(dir, name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			info, statErr := f.Stat()
			if statErr == nil && info.IsDir() {
				f.Close()
				continue
			}
			stop := context.AfterFunc(ctx, func() { f.Close() })
			_, err = io.Copy(w, f)
			stop()
			f.Close()
		}
		if err != nil {
			fmt.Fprintf(w, "\nerror getting log for %s: %v\n", service, err)
		}
		return
	}
	fmt.Fprintf(w, "\nlog not found for %s\n", service)
}
