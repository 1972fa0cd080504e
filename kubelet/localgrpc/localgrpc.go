// SPDX-License-Identifier: Apache-2.0

// Package localgrpc serves the kubelet's APIs for programs on the node, by gRPC at a socket of the file system.
package localgrpc

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
)

// Serve serves what register adds to the server until ctx ends, and returns nil then. It makes the socket's directory, and takes the place
// of a socket that an earlier process has left.
func Serve(ctx context.Context, socket string, register func(*grpc.Server)) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	register(server)
	context.AfterFunc(ctx, server.Stop)
	if err := server.Serve(listener); ctx.Err() == nil {
		return err
	}
	return nil
}
