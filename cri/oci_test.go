// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// saysConfig is a connection to a runtime whose status is one configuration.
type saysConfig struct {
	grpc.ClientConnInterface
	config string
}

func (s saysConfig) Invoke(_ context.Context, _ string, _, reply any, _ ...grpc.CallOption) error {
	proto.Merge(reply.(proto.Message), &runtimeapi.StatusResponse{Info: map[string]string{"config": s.config}})
	return nil
}

func TestLowLevelRuntime(t *testing.T) {
	program := filepath.Join(t.TempDir(), "my-runc")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n[ $1 = --version ] && printf 'runc version 1.2.7\\ncommit: v1.2.7\\nspec: 1.2.0\\n'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for config, want := range map[string]string{
		`{"containerd":{"defaultRuntimeName":"runc","runtimes":{"runc":{"runtimeType":"io.containerd.runc.v2","options":{"BinaryName":"` + program + `"}}}}}`:      "runc 1.2.7",
		`{"containerd":{"defaultRuntimeName":"kata","runtimes":{"kata":{"runtimeType":"io.containerd.kata.v2"}}}}`:                                                 " ",
		`{"sandboxImage":"registry.k8s.io/pause:3.10","crio":{"DefaultRuntime":"mine","Runtimes":{"mine":{"RuntimePath":"` + program + `","RuntimeType":"oci"}}}}`: "runc 1.2.7",
		`{"crio":{"DefaultRuntime":"kata","Runtimes":{"kata":{"RuntimePath":"` + program + `","RuntimeType":"vm"}}}}`:                                              " ",
		`{"sandboxImage":"registry.k8s.io/pause:3.10"}`: " ", // an early CRI-O
		`[none]`: " ",
	} {
		name, version, err := LowLevelRuntime(t.Context(), saysConfig{config: config})
		if err != nil || name+" "+version != want {
			t.Errorf("LowLevelRuntime with %s = %q %q, %v; want %q", config, name, version, err, want)
		}
	}
}
