// SPDX-License-Identifier: Apache-2.0

// Command livenessprobe stands in for CSI's sidecar of that name (kubernetes-csi/livenessprobe): it answers the kubelet's HTTP probes
// with what the driver says to CSI's Probe.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func main() {
	driver := flag.String("csi-address", "/run/csi/socket", "path of the driver's socket")
	port := flag.String("health-port", "9808", "port to answer at")
	timeout := flag.Duration("probe-timeout", time.Second, "how long the driver may take to answer")
	flag.Int("v", 0, "accepted, without effect")
	flag.Parse()
	if err := run(strings.TrimPrefix(*driver, "unix://"), *port, *timeout); err != nil {
		fmt.Fprintln(os.Stderr, "livenessprobe:", err)
		os.Exit(1)
	}
}

func run(driver, port string, timeout time.Duration) error {
	conn, err := grpc.NewClient("unix://"+driver, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	http.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		if err := probe(r.Context(), conn, timeout); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return http.ListenAndServe(net.JoinHostPort("", port), nil)
}

func probe(ctx context.Context, conn *grpc.ClientConn, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, err := csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{})
	if err != nil {
		return err
	}
	if ready := answer.GetReady(); ready != nil && !ready.GetValue() {
		return fmt.Errorf("the driver at %s is not ready", conn.Target())
	}
	return nil
}
