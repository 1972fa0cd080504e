// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The places where crictl finds the container runtime: Skiff's own, and the other one of tests.
const (
	criSocket      = "/run/skiff/containerd/containerd.sock"
	otherCRISocket = otherRuntime + "/containerd.sock"
)

// containers lists what the runtime knows of a namespace, running or not, as crictl would.
func (n *node) containers(namespace string) (lines []string) {
	n.t.Helper()
	socket := criSocket
	if n.other {
		socket = otherCRISocket
	}
	conn, err := grpc.NewClient("passthrough:///cri", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return n.Dial(ctx, "unix", socket) }))
	if err != nil {
		n.t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(n.t.Context(), 30*time.Second)
	defer cancel()
	runtime := runtimeapi.NewRuntimeServiceClient(conn)
	patient := grpc.WaitForReady(true) // a server that has just been started may not listen yet
	pods, err := runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{}, patient)
	if err != nil {
		n.t.Fatalf("list pods at %s: %v", socket, err)
	}
	for _, p := range pods.Items {
		if p.Metadata.Namespace == namespace {
			lines = append(lines, fmt.Sprintf("sandbox %s %s %s", p.Metadata.Name, p.Id, p.State))
		}
	}
	all, err := runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{}, patient)
	if err != nil {
		n.t.Fatalf("list containers at %s: %v", socket, err)
	}
	for _, c := range all.Containers {
		if c.Labels["io.kubernetes.pod.namespace"] == namespace {
			lines = append(lines, fmt.Sprintf("container %s %s %s", c.Metadata.Name, c.Id, c.State))
		}
	}
	slices.Sort(lines)
	return lines
}
