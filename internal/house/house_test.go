// SPDX-License-Identifier: Apache-2.0

// Package house holds the rules of the house as tests.
package house

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// Skiff is a second implementation: nothing in the product may come from k8s.io/kubernetes.
func TestProductDoesNotImportKubernetes(t *testing.T) {
	for _, pkg := range strings.Fields(run(t, "go", "list", "-deps", "./cmd/skiff")) {
		if strings.HasPrefix(pkg, "k8s.io/kubernetes") {
			t.Errorf("cmd/skiff imports %s", pkg)
		}
	}
}

func TestEveryFileNamesItsLicence(t *testing.T) {
	for _, file := range tracked(t) {
		switch filepath.Ext(file) {
		case ".go", ".sh", ".yaml", ".yml", ".c":
		default:
			continue
		}
		content, err := os.ReadFile(filepath.Join(root, file))
		if os.IsNotExist(err) {
			continue // removed and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(content[:min(len(content), 400)], []byte("SPDX-License-Identifier: Apache-2.0")) {
			t.Errorf("%s has no SPDX line on top", file)
		}
	}
}

func TestEveryPackageIsDocumented(t *testing.T) {
	documented := map[string]bool{}
	for _, file := range tracked(t) {
		if filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") || strings.Contains(file, "testdata/") {
			continue
		}
		dir := filepath.Dir(file)
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.PackageClauseOnly|parser.ParseComments)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		documented[dir] = documented[dir] || parsed.Doc != nil && len(parsed.Doc.Text()) > 20
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package %s has no comment that says what it does", dir)
		}
	}
}

var row = regexp.MustCompile(`(?m)^\| ([a-z0-9.-]+\.[a-z]+/\S+) \| .{10,} \|$`)

func TestEveryDependencyHasAReason(t *testing.T) {
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal([]byte(run(t, "go", "mod", "edit", "-json")), &mod); err != nil {
		t.Fatal(err)
	}
	var direct []string
	for _, r := range mod.Require {
		if !r.Indirect {
			direct = append(direct, r.Path)
		}
	}
	doc, err := os.ReadFile(filepath.Join(root, "docs/dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, m := range row.FindAllStringSubmatch(string(doc), -1) {
		reasons = append(reasons, m[1])
	}
	for _, path := range direct {
		if !slices.Contains(reasons, path) {
			t.Errorf("docs/dependencies.md does not say why %s is there", path)
		}
	}
	for _, path := range reasons {
		if !slices.Contains(direct, path) {
			t.Errorf("docs/dependencies.md explains %s, which go.mod does not require directly", path)
		}
	}
}

// Tests of controllers let time pass in synctest's bubbles. Elsewhere they sleep in loops only, until what they wait for has come, and
// in benchmarks, which measure real time.
func TestControllersTestsDoNotSleep(t *testing.T) {
	for _, file := range tracked(t) {
		if !strings.HasPrefix(file, "controllers/") || !strings.HasSuffix(file, "_test.go") {
			continue
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, filepath.Join(root, file), nil, parser.SkipObjectResolution)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(parsed.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"testing/synctest"` }) {
			continue
		}
		for _, decl := range parsed.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || strings.HasPrefix(f.Name.Name, "Benchmark") {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.ForStmt:
					return false
				case *ast.SelectorExpr:
					if of, ok := n.X.(*ast.Ident); ok && of.Name == "time" && n.Sel.Name == "Sleep" {
						t.Errorf("%s sleeps (let time pass in a bubble of testing/synctest, or wait for a condition)", files.Position(n.Pos()))
					}
				}
				return true
			})
		}
	}
}

func tracked(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(strings.Fields(run(t, "git", "ls-files")), func(f string) bool { return strings.HasPrefix(f, "conformance/") && strings.Contains(f, "/testdata/") })
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return string(out)
}
