// SPDX-License-Identifier: Apache-2.0

// Command generate describes the built-in API as OpenAPI documents, for the server to carry.
//
// It runs in two steps, since the descriptions of Go types have to be compiled: it writes package
// definitions from the comments of k8s.io/api, and then runs command write, which builds a server with
// those definitions and turns its routes into documents. Nothing is done when the documents fit the
// modules and sources already.
package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/gengo/v2"
	"k8s.io/gengo/v2/generator"
	"k8s.io/kube-openapi/cmd/openapi-gen/args"
	"k8s.io/kube-openapi/pkg/generators"
)

const (
	root        = "apiserver/openapi"
	definitions = root + "/definitions"
	inputs      = root + "/files/inputs" // a hash of all that the documents were made from
	module      = "github.com/skiff-k8s/skiff/"
)

// packages have the types that the built-in API is made of. Those of CustomResourceDefinitions and
// APIServices come described with their modules.
var packages = []string{
	"k8s.io/api/admissionregistration/v1",
	"k8s.io/api/apps/v1",
	"k8s.io/api/authentication/v1",
	"k8s.io/api/authorization/v1",
	"k8s.io/api/autoscaling/v1",
	"k8s.io/api/autoscaling/v2",
	"k8s.io/api/batch/v1",
	"k8s.io/api/certificates/v1",
	"k8s.io/api/coordination/v1",
	"k8s.io/api/core/v1",
	"k8s.io/api/discovery/v1",
	"k8s.io/api/events/v1",
	"k8s.io/api/flowcontrol/v1",
	"k8s.io/api/networking/v1",
	"k8s.io/api/node/v1",
	"k8s.io/api/policy/v1",
	"k8s.io/api/rbac/v1",
	"k8s.io/api/resource/v1",
	"k8s.io/api/scheduling/v1",
	"k8s.io/api/scheduling/v1alpha3", // types that others refer to
	"k8s.io/api/storage/v1",
	"k8s.io/api/storagemigration/v1",
	"k8s.io/apimachinery/pkg/api/resource",
	"k8s.io/apimachinery/pkg/apis/meta/v1",
	"k8s.io/apimachinery/pkg/runtime",
	"k8s.io/apimachinery/pkg/util/intstr",
	"k8s.io/apimachinery/pkg/version",
	"k8s.io/metrics/pkg/apis/metrics/v1",
	"k8s.io/metrics/pkg/apis/metrics/v1beta1",
}

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatalf("generate OpenAPI: %v", err)
	}
}

func run() error {
	want, err := hashInputs()
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(inputs); err == nil && string(have) == want {
		return nil
	}
	if err := writeDefinitions(); err != nil {
		return err
	}
	write := exec.Command("go", "run", "-tags", "openapi_definitions", "./"+root+"/write", root+"/files")
	write.Stdout, write.Stderr = os.Stdout, os.Stderr
	if err := write.Run(); err != nil {
		return fmt.Errorf("write the documents: %w", err)
	}
	return os.WriteFile(inputs, []byte(want), 0o644)
}

// hashInputs covers the versions of modules, what makes the documents, and the resources' descriptions.
func hashInputs() (string, error) {
	files := []string{"go.mod", "apiserver/install.go", "apiserver/extensions.go", "apiserver/aggregation.go"}
	for _, dir := range []string{root, "registry"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && path == definitions {
				return fs.SkipDir
			}
			if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
				files = append(files, path)
			}
			return nil
		})
		if err != nil {
			return "", fmt.Errorf("list sources (run from the module's root): %w", err)
		}
	}
	sum := sha256.New()
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("read sources: %w", err)
		}
		fmt.Fprintln(sum, file, len(content))
		sum.Write(content)
	}
	return fmt.Sprintf("%x\n", sum.Sum(nil)), nil
}

// writeDefinitions makes the Go package with the descriptions of all types.
func writeDefinitions() error {
	report, err := os.CreateTemp("", "openapi-report-")
	if err != nil {
		return fmt.Errorf("make a file for the report: %w", err)
	}
	defer os.Remove(report.Name()) // violations of API rules that upstream's types have
	defer report.Close()
	a := args.New()
	a.OutputDir = definitions
	a.OutputPkg = module + definitions
	a.OutputFile = "zz_generated.openapi.go"
	a.ReportFilename = report.Name()
	targets := func(c *generator.Context) []generator.Target {
		return generators.GetOpenAPITargets(c, a, []byte("// SPDX-License-Identifier: Apache-2.0\n\n"))
	}
	if err := os.MkdirAll(definitions, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the folder of definitions: %w", err)
	}
	if err := gengo.Execute(generators.NameSystems(), generators.DefaultNameSystem(), targets, gengo.StdBuildTag, packages); err != nil {
		return fmt.Errorf("describe types: %w", err)
	}
	return nil
}
