// SPDX-License-Identifier: Apache-2.0

// Package localgrpc serves the kubelet's APIs for programs on the node, and reaches the APIs of plugins: by gRPC at sockets of the
// file system.
package localgrpc

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// Serve serves what register adds to the server until ctx ends, and returns nil then. It makes the socket's directory, and takes the place
// of a socket that an earlier process has left.
func Serve(ctx context.Context, socket string, register func(*grpc.Server), options ...grpc.ServerOption) error {
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
	server := grpc.NewServer(options...)
	register(server)
	context.AfterFunc(ctx, server.Stop)
	if err := server.Serve(listener); ctx.Err() == nil {
		return err
	}
	return nil
}

// Client makes a connection to who serves at a socket, which need not be there yet. An attempt to connect takes patience at most; 0: as
// long as gRPC lets it. The caller closes the connection.
func Client(socket string, patience time.Duration, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+socket, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, path string) (net.Conn, error) {
			return (&net.Dialer{Timeout: patience}).DialContext(ctx, "unix", path)
		}))...)
}

// How many calls of one API there may be, each second and at once.
const (
	callsPerSecond = 100
	callsAtOnce    = 10
)

// Limit refuses calls that come too fast, so that nobody on the node can keep the kubelet busy.
func Limit() grpc.UnaryServerInterceptor {
	limiter := rate.NewLimiter(callsPerSecond, callsAtOnce)
	return func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if !limiter.Allow() {
			return nil, status.Error(codes.ResourceExhausted, "rejected by rate limit")
		}
		return handle(ctx, request)
	}
}
