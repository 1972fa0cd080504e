// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/metrics"

	"github.com/skiff-k8s/skiff/apiserver/authn/satoken"
	controllers "github.com/skiff-k8s/skiff/controllers/metrics"
	kubelet "github.com/skiff-k8s/skiff/kubelet/metrics"
	proxy "github.com/skiff-k8s/skiff/proxy/metrics"
	scheduler "github.com/skiff-k8s/skiff/scheduler/metrics"
)

// metric is what a dashboard relies on. What is not known of it is empty, and not compared.
type metric struct {
	kind    string // Counter, Gauge or Histogram
	level   string
	labels  []string // sorted
	buckets []float64
}

// The metrics of Kubernetes that are not of its libraries are found in its source, ours in what is registered. Those of one
// name are the same in all, and whatever is missing is in absentMetrics with a reason.
func TestMetrics(t *testing.T) {
	theirs, ours := kubernetesMetrics(t), skiffMetrics(t)
	for _, name := range texts(t, "../../kubelet/server") {
		if _, known := ours[name]; !known && theirs[name].level != "" {
			ours[name] = metric{} // made by a function from a list
		}
	}
	absent := readAbsent(t)
	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		want, skip := theirs[name], absent(name)
		got, there := ours[name]
		switch {
		case !there && skip == "":
			t.Errorf("%s %s %v is missing", want.level, name, want.labels)
		case there && skip != "":
			t.Errorf("%s is there, and listed as absent: %s", name, skip)
		case there && got.level != "":
			compareMetrics(t, name, want, got)
		}
	}
	for name := range ours {
		if _, there := theirs[name]; !there && !strings.HasPrefix(name, "skiff_") {
			t.Errorf("Kubernetes has no metric %s", name)
		}
	}
}

func compareMetrics(t *testing.T, name string, want, got metric) {
	t.Helper()
	if want.kind != "" && got.kind != "" && want.kind != got.kind {
		t.Errorf("%s is a %s, want a %s", name, got.kind, want.kind)
	}
	if want.level != got.level {
		t.Errorf("%s is %s, want %s", name, got.level, want.level)
	}
	if !slices.Equal(want.labels, got.labels) {
		t.Errorf("%s has labels %v, want %v", name, got.labels, want.labels)
	}
	if !slices.EqualFunc(want.buckets, got.buckets, func(a, b float64) bool { return math.Abs(a-b) <= a*1e-9 }) {
		t.Errorf("%s has buckets %v, want %v", name, got.buckets, want.buckets)
	}
}

const absentMetrics = "testdata/metrics-absent.txt"

// readAbsent returns why a metric is not there; empty if it should be. The file has a reason after "#", and below it
// names, of which one may end with an asterisk. Each line has to be for something.
func readAbsent(t *testing.T) func(name string) (why string) {
	t.Helper()
	content, err := os.ReadFile(absentMetrics)
	if err != nil {
		t.Fatal(err)
	}
	type entry struct {
		pattern, why string
		used         bool
	}
	var entries []*entry
	why := ""
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		if reason, ok := strings.CutPrefix(line, "# "); ok {
			why = reason
		} else if line != "" {
			entries = append(entries, &entry{pattern: line, why: why})
		}
	}
	t.Cleanup(func() {
		for _, e := range entries {
			if !e.used {
				t.Errorf("%s: nothing is absent by %s", absentMetrics, e.pattern)
			}
		}
	})
	return func(name string) string {
		for _, e := range entries {
			prefix, open := strings.CutSuffix(e.pattern, "*")
			if name == e.pattern || open && strings.HasPrefix(name, prefix) {
				e.used = true
				return e.why
			}
		}
		return ""
	}
}

// collected is what registers with it.
type collected struct {
	registry metrics.KubeRegistry
	found    map[string]metric
}

func (c *collected) Register(m metrics.Registerable) error {
	if err := c.registry.Register(m); err != nil {
		return err
	}
	c.note(m)
	return nil
}

// note takes down what is registered, here or elsewhere.
func (c *collected) note(m metrics.Registerable) {
	maps.Copy(c.found, describe(m))
	touch(m)
}

func (c *collected) CustomRegister(s metrics.StableCollector) error {
	if err := c.registry.CustomRegister(s); err != nil {
		return err
	}
	maps.Copy(c.found, describe(s.(prometheus.Collector)))
	return nil
}

var described = regexp.MustCompile(`fqName: "([^"]*)", help: "\[([A-Z]+)\].*variableLabels: \{([^}]*)\}`)

// describe reads what a metric says of itself, which has no better form.
func describe(m prometheus.Collector) map[string]metric {
	descs := make(chan *prometheus.Desc, 100)
	m.Describe(descs)
	close(descs)
	out := map[string]metric{}
	for d := range descs {
		part := described.FindStringSubmatch(d.String())
		if part == nil {
			continue
		}
		var labels []string
		if part[3] != "" {
			labels = slices.Sorted(strings.SplitSeq(part[3], ","))
		}
		out[part[1]] = metric{level: part[2], labels: labels}
	}
	return out
}

// touch makes a metric show itself.
func touch(m metrics.Registerable) {
	labels := func(c prometheus.Collector) []string {
		for _, d := range describe(c) {
			return make([]string, len(d.labels))
		}
		return nil
	}
	switch m := m.(type) {
	case *metrics.CounterVec:
		m.WithLabelValues(labels(m)...).Inc()
	case *metrics.GaugeVec:
		m.WithLabelValues(labels(m)...).Set(1)
	case *metrics.HistogramVec:
		m.WithLabelValues(labels(m)...).Observe(1)
	}
}

// skiffMetrics are those of this repository.
func skiffMetrics(t *testing.T) map[string]metric {
	t.Helper()
	c := &collected{registry: metrics.NewKubeRegistry(), found: map[string]metric{}}
	node := kubelet.New("node")
	all, probes := node.List()
	managed := controllers.New()
	errs := []error{
		managed.Register(c), c.CustomRegister(managed.Counts), scheduler.New(func() scheduler.State { return scheduler.State{} }).Register(c), satoken.NewMetrics().Register(c),
		c.CustomRegister(scheduler.NewResources(corelisters.NewPodLister(cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})))),
	}
	services := proxy.New()
	for _, m := range slices.Concat(all, probes, services.List()) { // which have been registered already
		c.note(m)
	}
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, registry := range []metrics.KubeRegistry{c.registry, node.All, node.Probes, services.Registry} {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			found := c.found[family.GetName()]
			kind := strings.ToLower(family.GetType().String())
			found.kind = strings.ToUpper(kind[:1]) + kind[1:]
			for _, bucket := range family.GetMetric()[0].GetHistogram().GetBucket() {
				if !math.IsInf(bucket.GetUpperBound(), 1) {
					found.buckets = append(found.buckets, bucket.GetUpperBound())
				}
			}
			c.found[family.GetName()] = found
		}
	}
	// What a kubelet computes when it is asked is in its source.
	maps.Copy(c.found, readSource(t, "../../kubelet/server"))
	return c.found
}

func kubernetesMetrics(t *testing.T) map[string]metric {
	t.Helper()
	dir := kubernetesDir(t)
	var dirs []string
	for _, part := range []string{"pkg", "plugin", "cmd/kubelet", "cmd/kube-proxy"} {
		dirs = append(dirs, filepath.Join(dir, part))
	}
	for module, part := range map[string]string{ // libraries whose metrics are those of controllers
		"k8s.io/endpointslice": "metrics", "k8s.io/dynamic-resource-allocation": "resourceclaim/metrics", "k8s.io/component-base": "metrics/prometheus/controllers",
	} {
		dirs = append(dirs, filepath.Join(moduleDir(t, module), part))
	}
	return readSource(t, dirs...)
}

// source is the Go source that metrics are found in.
type source struct {
	values map[string]map[string]ast.Expr // of a folder or a package's name: constants and variables
	files  map[string][]*ast.File         // by folder
}

// readSource finds the metrics that are made in folders and below.
func readSource(t *testing.T, dirs ...string) map[string]metric {
	t.Helper()
	s := &source{values: map[string]map[string]ast.Expr{}, files: map[string][]*ast.File{}}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			s.add(filepath.Dir(path), file)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	out := map[string]metric{}
	for dir, files := range s.files {
		for _, file := range files {
			ast.Inspect(file, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					if name, m, ok := s.metric(dir, call); ok {
						out[name] = m
					}
				}
				return true
			})
		}
	}
	if len(out) == 0 {
		t.Fatalf("no metrics in %v", dirs)
	}
	return out
}

// texts are all strings in the source of a folder.
func texts(t *testing.T, dir string) (out []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				text, _ := strconv.Unquote(literal.Value)
				out = append(out, text)
			}
			return true
		})
	}
	return out
}

func (s *source) add(dir string, file *ast.File) {
	s.files[dir] = append(s.files[dir], file)
	for _, at := range []string{dir, file.Name.Name} {
		if s.values[at] == nil {
			s.values[at] = map[string]ast.Expr{}
		}
	}
	for _, decl := range file.Decls {
		general, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range general.Specs {
			if value, ok := spec.(*ast.ValueSpec); ok && len(value.Names) == len(value.Values) {
				for i, name := range value.Names {
					s.values[dir][name.Name], s.values[file.Name.Name][name.Name] = value.Values[i], value.Values[i]
				}
			}
		}
	}
}

// metric reads a call that makes one: NewCounterVec(&metrics.CounterOpts{...}, []string{...}), NewDesc(...), or one of the
// short forms of kubelet/server, stable(name, help, labels...) and alpha.
func (s *source) metric(dir string, call *ast.CallExpr) (name string, m metric, ok bool) {
	if short, is := call.Fun.(*ast.Ident); is && (short.Name == "stable" || short.Name == "alpha") && len(call.Args) >= 2 {
		m.level = strings.ToUpper(short.Name)
		for _, label := range call.Args[2:] {
			m.labels = append(m.labels, s.text(dir, label))
		}
		slices.Sort(m.labels)
		name = s.text(dir, call.Args[0])
		return name, m, name != ""
	}
	fun, is := call.Fun.(*ast.SelectorExpr)
	if !is || !strings.HasPrefix(fun.Sel.Name, "New") || len(call.Args) == 0 {
		return "", m, false
	}
	if fun.Sel.Name == "NewDesc" && len(call.Args) == 6 {
		m.level, m.labels = s.level(call.Args[4]), s.texts(dir, call.Args[2])
		name = s.text(dir, call.Args[0])
		return name, m, name != ""
	}
	pointer, is := call.Args[0].(*ast.UnaryExpr)
	if !is {
		return "", m, false
	}
	options, is := pointer.X.(*ast.CompositeLit)
	if !is {
		return "", m, false
	}
	kind, is := options.Type.(*ast.SelectorExpr)
	if !is || !strings.HasSuffix(kind.Sel.Name, "Opts") {
		return "", m, false
	}
	fields := map[string]ast.Expr{}
	for _, element := range options.Elts {
		field := element.(*ast.KeyValueExpr)
		fields[field.Key.(*ast.Ident).Name] = field.Value
	}
	m = metric{kind: strings.TrimPrefix(strings.TrimSuffix(kind.Sel.Name, "Opts"), "Timing"), level: s.level(fields["StabilityLevel"])}
	if len(call.Args) > 1 {
		m.labels = s.texts(dir, call.Args[1])
	}
	if m.kind == "Histogram" {
		if m.buckets = s.numbers(dir, fields["Buckets"]); len(m.buckets) == 0 {
			m.buckets = metrics.DefBuckets
		}
	}
	return metrics.BuildFQName(s.text(dir, fields["Namespace"]), s.text(dir, fields["Subsystem"]), s.text(dir, fields["Name"])), m, true
}

func (s *source) level(e ast.Expr) string {
	if level, ok := e.(*ast.SelectorExpr); ok {
		return level.Sel.Name
	}
	return string(metrics.ALPHA) // which those are that do not say
}

// value follows names to what they stand for.
func (s *source) value(dir string, e ast.Expr) ast.Expr {
	switch name := e.(type) {
	case *ast.Ident:
		if v := s.values[dir][name.Name]; v != nil {
			return s.value(dir, v)
		}
	case *ast.SelectorExpr:
		if pkg, ok := name.X.(*ast.Ident); ok {
			if v := s.values[pkg.Name][name.Sel.Name]; v != nil {
				return s.value(pkg.Name, v)
			}
		}
		for _, values := range s.values { // imported by another name
			if v := values[name.Sel.Name]; v != nil {
				return v
			}
		}
	}
	return e
}

func (s *source) text(dir string, e ast.Expr) string {
	switch e := s.value(dir, e).(type) {
	case *ast.BasicLit:
		text, _ := strconv.Unquote(e.Value)
		return text
	case *ast.BinaryExpr:
		return s.text(dir, e.X) + s.text(dir, e.Y)
	case *ast.CallExpr: // BuildFQName(namespace, subsystem, name)
		if len(e.Args) == 3 {
			return metrics.BuildFQName(s.text(dir, e.Args[0]), s.text(dir, e.Args[1]), s.text(dir, e.Args[2]))
		}
	}
	return ""
}

func (s *source) texts(dir string, e ast.Expr) (out []string) {
	if list, ok := s.value(dir, e).(*ast.CompositeLit); ok {
		for _, element := range list.Elts {
			out = append(out, s.text(dir, element))
		}
	}
	slices.Sort(out)
	return out
}

// numbers are buckets: a list, or a call of one of the functions that make such.
func (s *source) numbers(dir string, e ast.Expr) (out []float64) {
	switch e := s.value(dir, e).(type) {
	case *ast.CompositeLit:
		for _, element := range e.Elts {
			out = append(out, s.number(dir, element))
		}
	case *ast.CallExpr:
		name := fmt.Sprint(e.Fun)
		if fun, ok := e.Fun.(*ast.SelectorExpr); ok {
			name = fun.Sel.Name
		}
		switch name {
		case "ExponentialBuckets":
			return metrics.ExponentialBuckets(s.number(dir, e.Args[0]), s.number(dir, e.Args[1]), int(s.number(dir, e.Args[2])))
		case "LinearBuckets":
			return metrics.LinearBuckets(s.number(dir, e.Args[0]), s.number(dir, e.Args[1]), int(s.number(dir, e.Args[2])))
		case "ExponentialBucketsRange":
			return metrics.ExponentialBucketsRange(s.number(dir, e.Args[0]), s.number(dir, e.Args[1]), int(s.number(dir, e.Args[2])))
		case "MergeBuckets":
			for _, part := range e.Args {
				out = append(out, s.numbers(dir, part)...)
			}
			out = metrics.MergeBuckets(out) // which adds one
		}
	}
	return out
}

func (s *source) number(dir string, e ast.Expr) float64 {
	switch e := s.value(dir, e).(type) {
	case *ast.BasicLit:
		n, _ := strconv.ParseFloat(e.Value, 64)
		return n
	case *ast.BinaryExpr:
		x, y := s.number(dir, e.X), s.number(dir, e.Y)
		switch e.Op {
		case token.MUL:
			return x * y
		case token.QUO:
			return x / y
		case token.ADD:
			return x + y
		}
	}
	return math.NaN()
}
