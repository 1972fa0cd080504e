// SPDX-License-Identifier: Apache-2.0

// Command nodedriverregistrar stands in for CSI's sidecar of that name (kubernetes-csi/node-driver-registrar): it tells the kubelet of
// a driver on its node, by a socket in the folder that the kubelet watches.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

type config struct {
	driver   string // its socket, as this process sees it
	endpoint string // the same, as the kubelet sees it
	folder   string // that the kubelet watches
	timeout  time.Duration
	http     string // address for health checks; none if empty
}

func main() {
	var c config
	flag.StringVar(&c.driver, "csi-address", "/run/csi/socket", "path of the driver's socket")
	flag.StringVar(&c.endpoint, "kubelet-registration-path", "", "path of the driver's socket on the node")
	flag.StringVar(&c.folder, "plugin-registration-path", "/registration", "folder that the kubelet watches")
	flag.DurationVar(&c.timeout, "timeout", time.Second, "how long the driver may take to answer")
	flag.StringVar(&c.http, "http-endpoint", "", "address for health checks")
	flag.Int("v", 0, "accepted, without effect")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "nodedriverregistrar:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c config) error {
	name, err := driverName(ctx, c)
	if err != nil {
		return err
	}
	socket := filepath.Join(c.folder, name+"-reg.sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "driver %s, to be registered by %s\n", name, socket)
	failed := make(chan error, 3)
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, &registrar{name: name, endpoint: c.endpoint, failed: failed})
	go func() { failed <- server.Serve(l) }()
	defer server.Stop() // this removes the socket, too
	if c.http != "" {
		go func() { failed <- http.ListenAndServe(c.http, healthy(socket)) }()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// driverName waits for the driver and asks it for its name.
func driverName(ctx context.Context, c config) (string, error) {
	conn, err := grpc.NewClient("unix://"+strings.TrimPrefix(c.driver, "unix://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	for {
		info, err := askName(ctx, conn, c.timeout)
		if err == nil {
			return info.GetName(), nil
		}
		fmt.Fprintln(os.Stderr, "waiting for the driver:", err)
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func askName(ctx context.Context, conn *grpc.ClientConn, timeout time.Duration) (*csi.GetPluginInfoResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return csi.NewIdentityClient(conn).GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
}

func healthy(socket string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := os.Stat(socket); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return mux
}

// registrar answers the kubelet.
type registrar struct {
	registration.UnimplementedRegistrationServer
	name, endpoint string
	failed         chan<- error
}

func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: r.name, Endpoint: r.endpoint, SupportedVersions: []string{"1.0.0"}}, nil
}

func (r *registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !s.PluginRegistered {
		r.failed <- fmt.Errorf("register driver %s: %s", r.name, s.Error)
	}
	return &registration.RegistrationStatusResponse{}, nil
}
