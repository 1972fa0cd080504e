// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"fmt"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"google.golang.org/grpc"

	// containerd's plugins register themselves. These are the ones that a CRI node needs.
	_ "github.com/containerd/containerd/api/types/runc/options"
	_ "github.com/containerd/containerd/v2/core/runtime/v2"
	_ "github.com/containerd/containerd/v2/plugins/content/local/plugin"
	_ "github.com/containerd/containerd/v2/plugins/cri"
	_ "github.com/containerd/containerd/v2/plugins/cri/images"
	_ "github.com/containerd/containerd/v2/plugins/cri/runtime"
	_ "github.com/containerd/containerd/v2/plugins/diff/walking/plugin"
	_ "github.com/containerd/containerd/v2/plugins/events"
	_ "github.com/containerd/containerd/v2/plugins/gc"
	_ "github.com/containerd/containerd/v2/plugins/leases"
	_ "github.com/containerd/containerd/v2/plugins/metadata"
	_ "github.com/containerd/containerd/v2/plugins/mount"
	_ "github.com/containerd/containerd/v2/plugins/sandbox"
	_ "github.com/containerd/containerd/v2/plugins/server/grpc"
	_ "github.com/containerd/containerd/v2/plugins/server/ttrpc" // shims publish their events to it
	_ "github.com/containerd/containerd/v2/plugins/services/containers"
	_ "github.com/containerd/containerd/v2/plugins/services/content"
	_ "github.com/containerd/containerd/v2/plugins/services/diff"
	_ "github.com/containerd/containerd/v2/plugins/services/events"
	_ "github.com/containerd/containerd/v2/plugins/services/images"
	_ "github.com/containerd/containerd/v2/plugins/services/introspection"
	_ "github.com/containerd/containerd/v2/plugins/services/leases"
	_ "github.com/containerd/containerd/v2/plugins/services/namespaces"
	_ "github.com/containerd/containerd/v2/plugins/services/opt"
	_ "github.com/containerd/containerd/v2/plugins/services/sandbox"
	_ "github.com/containerd/containerd/v2/plugins/services/snapshots"
	_ "github.com/containerd/containerd/v2/plugins/services/streaming"
	_ "github.com/containerd/containerd/v2/plugins/services/tasks"
	_ "github.com/containerd/containerd/v2/plugins/services/transfer"
	_ "github.com/containerd/containerd/v2/plugins/services/version"
	_ "github.com/containerd/containerd/v2/plugins/services/warning"
	_ "github.com/containerd/containerd/v2/plugins/snapshots/native/plugin"
	_ "github.com/containerd/containerd/v2/plugins/snapshots/overlay/plugin"
	_ "github.com/containerd/containerd/v2/plugins/streaming"
	_ "github.com/containerd/containerd/v2/plugins/transfer"
)

// namespace is containerd's namespace for what belongs to Kubernetes.
const namespace = "k8s.io"

// service is what the process uses of containerd, without a socket in between.
type service struct {
	cri    interface{ Register(*grpc.Server) error }
	client *containerd.Client
}

// handoffType and handoffID name a plugin of ours. It is loaded after all that it requires, and hands
// their instances over.
const (
	handoffType = plugin.Type("io.skiff.handoff.v1")
	handoffID   = "cri"
)

type handoffKey struct{}

// withHandoff returns a context in which a containerd server hands its service over to the pointer.
func withHandoff(ctx context.Context, to *service) context.Context {
	return context.WithValue(ctx, handoffKey{}, to)
}

// registerHandoff must be called once in a process, because containerd's plugin registry is global.
func registerHandoff() {
	registry.Register(&plugin.Registration{
		Type: handoffType,
		ID:   handoffID,
		Requires: []plugin.Type{
			plugins.GRPCPlugin, plugins.EventPlugin, plugins.LeasePlugin, plugins.SandboxStorePlugin,
			plugins.TransferPlugin, plugins.ServicePlugin, plugins.SandboxControllerPlugin,
		},
		InitFn: handOff,
	})
}

func handOff(ic *plugin.InitContext) (any, error) {
	to, ok := ic.Context.Value(handoffKey{}).(*service)
	if !ok {
		return nil, errors.New("nobody waits for the CRI service")
	}
	instance, err := ic.GetByID(plugins.GRPCPlugin, "cri")
	if err != nil {
		return nil, err
	}
	if to.cri, ok = instance.(interface{ Register(*grpc.Server) error }); !ok {
		return nil, fmt.Errorf("containerd's CRI plugin is a %T, which cannot be served", instance)
	}
	to.client, err = containerd.New("", containerd.WithDefaultNamespace(namespace), containerd.WithInMemoryServices(ic))
	return to, err
}
