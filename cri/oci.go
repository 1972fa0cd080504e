// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const versionPatience = 10 * time.Second // for a program to say its version

// LowLevelRuntime finds out which program makes the containers of somebody else's containerd or CRI-O, and its version: "runc",
// "1.3.3". Other runtimes, and early ones of CRI-O, do not say; then both are empty.
func LowLevelRuntime(ctx context.Context, conn grpc.ClientConnInterface) (name, version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, versionPatience)
	defer cancel()
	status, err := runtimeapi.NewRuntimeServiceClient(conn).Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return "", "", fmt.Errorf("ask the container runtime for its configuration: %w", err)
	}
	program := defaultProgram(status.GetInfo()["config"])
	if program == "" {
		return "", "", nil
	}
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "", "", fmt.Errorf("ask %s for its version: %w", program, err)
	}
	name, version, _ = strings.Cut(strings.TrimSpace(string(out)), " version ")
	version, _, _ = strings.Cut(version, "\n")
	return name, version, nil
}

// defaultProgram is what the configuration of a containerd or a CRI-O names for pods without a RuntimeClass. It is empty for a
// runtime that is none of runc's kind.
func defaultProgram(config string) string {
	var c struct {
		Containerd struct {
			DefaultRuntimeName string `json:"defaultRuntimeName"`
			Runtimes           map[string]struct {
				Type    string `json:"runtimeType"`
				Options struct{ BinaryName string }
			} `json:"runtimes"`
		} `json:"containerd"`
		CRIO struct {
			DefaultRuntime string
			Runtimes       map[string]struct{ RuntimePath, RuntimeType string }
		} `json:"crio"`
	}
	if json.Unmarshal([]byte(config), &c) != nil {
		return ""
	}
	if name := c.CRIO.DefaultRuntime; name != "" {
		runtime := c.CRIO.Runtimes[name]
		if runtime.RuntimeType != "" && runtime.RuntimeType != "oci" {
			return ""
		}
		return cmp.Or(runtime.RuntimePath, name)
	}
	runtime := c.Containerd.Runtimes[c.Containerd.DefaultRuntimeName]
	if runtime.Type != "io.containerd.runc.v2" {
		return ""
	}
	return cmp.Or(runtime.Options.BinaryName, "runc")
}
