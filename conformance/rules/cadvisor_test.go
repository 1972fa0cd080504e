// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// cadvisorSeries is what a node of ours has; a test of kubelet/server looks that it has all of that.
const cadvisorSeries = "../../kubelet/server/testdata/cadvisor.txt"

// absentCadvisor are the series of upstream's kubelet that ours has not.
var absentCadvisor = map[string]string{
	"machine_cpu_books":                          "of s390x alone",
	"machine_cpu_drawers":                        "of s390x alone",
	"machine_dimm_count":                         "needs EDAC drivers, and nobody charts it",
	"machine_dimm_capacity_bytes":                "needs EDAC drivers, and nobody charts it",
	"machine_nvm_capacity":                       "upstream's is built without libipmctl and has 0",
	"machine_nvm_avg_power_budget_watts":         "upstream's is built without libipmctl and has 0",
	"container_fs_io_cost_usage_seconds_total":   "of kernels with the iocost controller turned on by hand",
	"container_fs_io_cost_wait_seconds_total":    "of kernels with the iocost controller turned on by hand",
	"container_fs_io_cost_indebt_seconds_total":  "of kernels with the iocost controller turned on by hand",
	"container_fs_io_cost_indelay_seconds_total": "of kernels with the iocost controller turned on by hand",
}

// includedSets are those of cAdvisor that upstream's kubelet serves (pkg/kubelet/server/server.go).
var includedSets = []string{"CpuUsageMetrics", "MemoryUsageMetrics", "DiskIOMetrics", "DiskUsageMetrics", "NetworkUsageMetrics", "AppMetrics", "ProcessMetrics", "OOMMetrics", "PressureMetrics"}

// The series of cAdvisor that upstream's kubelet serves are ours too, with their kinds and labels, but for those that are
// listed with a reason.
func TestSeriesOfCadvisor(t *testing.T) {
	theirs := cadvisorSource(t)
	raw, err := os.ReadFile(cadvisorSeries)
	if err != nil {
		t.Fatal(err)
	}
	ours := map[string]metric{}
	for line := range strings.Lines(string(raw)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		ours[parts[0]] = metric{kind: parts[1], labels: strings.Split(parts[2], ",")}
	}
	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		want, why := theirs[name], absentCadvisor[name]
		got, there := ours[name]
		switch {
		case !there && why == "":
			t.Errorf("%s is missing", name)
		case there && why != "":
			t.Errorf("%s is there, and listed as absent: %s", name, why)
		case there && want.kind != "" && want.kind != got.kind:
			t.Errorf("%s is a %s, want a %s", name, got.kind, want.kind)
		}
		for _, label := range want.labels {
			if there && !slices.Contains(got.labels, label) {
				t.Errorf("%s has no label %s", name, label)
			}
		}
	}
	for name := range ours {
		if _, there := theirs[name]; !there {
			t.Errorf("cAdvisor has no %s", name)
		}
	}
	for name := range absentCadvisor {
		if _, there := theirs[name]; !there {
			t.Errorf("cAdvisor has no %s to be absent", name)
		}
	}
}

// cadvisorSource finds the series in cAdvisor's source: literals of a table, and descriptions that are made on the way.
func cadvisorSource(t *testing.T) map[string]metric {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/cadvisor/lib").Output()
	if err != nil {
		t.Fatalf("find cAdvisor: %v", err)
	}
	found := map[string]metric{
		"container_scrape_error": {kind: "gauge"}, "machine_scrape_error": {kind: "gauge"}, // made with a namespace and a name
	}
	for _, file := range []string{"prometheus.go", "prometheus_machine.go"} {
		tree, err := parser.ParseFile(token.NewFileSet(), filepath.Join(strings.TrimSpace(string(out)), "metrics", file), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		constants := map[string]string{}
		ast.Inspect(tree, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Names) == 1 && len(spec.Values) == 1 {
				constants[spec.Names[0].Name] = unquote(spec.Values[0])
			}
			return true
		})
		ast.Inspect(tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.IfStmt:
				return !otherSet(n.Cond)
			case *ast.CompositeLit:
				if name, m := seriesOf(n, constants); name != "" {
					found[name] = m
				}
			case *ast.CallExpr:
				if name := nameInDesc(n); name != "" {
					found[name] = metric{}
				}
			}
			return true
		})
	}
	if len(found) < 50 {
		t.Fatalf("cAdvisor has only %d series", len(found))
	}
	return found
}

// otherSet says that a condition asks for a set that the kubelet does not serve.
func otherSet(cond ast.Expr) bool {
	call, ok := cond.(*ast.CallExpr)
	if !ok || len(call.Args) != 1 {
		return false
	}
	method, ok := call.Fun.(*ast.SelectorExpr)
	set, is := call.Args[0].(*ast.SelectorExpr)
	return ok && is && method.Sel.Name == "Has" && !slices.Contains(includedSets, set.Sel.Name)
}

// seriesOf reads an entry of a table.
func seriesOf(literal *ast.CompositeLit, constants map[string]string) (name string, m metric) {
	for _, element := range literal.Elts {
		pair, ok := element.(*ast.KeyValueExpr)
		key, named := pairKey(pair)
		if !ok || !named {
			return "", m
		}
		switch key {
		case "name":
			name = unquote(pair.Value)
		case "valueType":
			if kind, ok := pair.Value.(*ast.SelectorExpr); ok {
				m.kind = strings.ToLower(strings.TrimSuffix(kind.Sel.Name, "Value"))
			}
		case "extraLabels":
			for _, label := range pair.Value.(*ast.CompositeLit).Elts {
				text := unquote(label)
				if constant, ok := label.(*ast.Ident); ok {
					text = constants[constant.Name]
				}
				m.labels = append(m.labels, text)
			}
		}
	}
	return name, m
}

func pairKey(pair *ast.KeyValueExpr) (string, bool) {
	if pair == nil {
		return "", false
	}
	key, ok := pair.Key.(*ast.Ident)
	if !ok {
		return "", false
	}
	return key.Name, true
}

// nameInDesc is the name in a call of prometheus.NewDesc.
func nameInDesc(call *ast.CallExpr) string {
	if f, ok := call.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "NewDesc" && len(call.Args) == 4 {
		return unquote(call.Args[0])
	}
	return ""
}

func unquote(e ast.Expr) string {
	if literal, ok := e.(*ast.BasicLit); ok && literal.Kind == token.STRING {
		if text, err := strconv.Unquote(literal.Value); err == nil {
			return text
		}
	}
	return ""
}
