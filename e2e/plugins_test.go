// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	pluginResource = "example.com/null"
	pluginDir      = "/var/lib/kubelet/device-plugins"
	pluginFiles    = "/var/lib/null-plugin"
	draDriver      = "dra.example.com"
	draLog         = "/var/lib/dra.log"
	cdiDir         = "/etc/cdi"
)

// nullPlugin is a device plugin with two devices, each the machine's /dev/null. It gives of all that a plugin can give.
type nullPlugin struct {
	api.UnimplementedDevicePluginServer
}

// runDevicePlugin serves it, and registers again whenever the kubelet is a new one.
func runDevicePlugin(ctx context.Context) error {
	spec := `{"cdiVersion": "0.6.0", "kind": "example.com/null", "devices": [{"name": "all", "containerEdits": {"env": ["CDI_SAYS=hello"]}}]}`
	err := os.MkdirAll(pluginFiles, 0o755)
	if err == nil {
		err = os.MkdirAll(cdiDir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(cdiDir, "null.json"), []byte(spec), 0o644)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(pluginFiles, "id"), []byte("mounted\n"), 0o644)
	}
	if err != nil {
		return err
	}
	var last os.FileInfo
	for ctx.Err() == nil {
		now, err := os.Stat(filepath.Join(pluginDir, "kubelet.sock"))
		if err == nil && (last == nil || !os.SameFile(last, now) || !last.ModTime().Equal(now.ModTime())) {
			stop, err := serveNullPlugin(ctx)
			if err == nil {
				last = now
				defer stop()
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
	return nil
}

func serveNullPlugin(ctx context.Context) (stop func(), err error) {
	socket := filepath.Join(pluginDir, "null.sock")
	_ = os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, nullPlugin{})
	go func() { _ = server.Serve(listener) }()
	conn, err := grpc.NewClient("unix://"+filepath.Join(pluginDir, "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err = api.NewRegistrationClient(conn).Register(ctx, &api.RegisterRequest{Version: api.Version, Endpoint: "null.sock", ResourceName: pluginResource})
	if err != nil {
		server.Stop()
	}
	return server.Stop, err
}

func (nullPlugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

func (nullPlugin) ListAndWatch(_ *api.Empty, stream api.DevicePlugin_ListAndWatchServer) error {
	if err := stream.Send(&api.ListAndWatchResponse{Devices: []*api.Device{{ID: "null-0", Health: api.Healthy}, {ID: "null-1", Health: api.Healthy}}}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func (nullPlugin) Allocate(_ context.Context, r *api.AllocateRequest) (*api.AllocateResponse, error) {
	resp := &api.AllocateResponse{}
	for _, c := range r.ContainerRequests {
		resp.ContainerResponses = append(resp.ContainerResponses, &api.ContainerAllocateResponse{
			Envs:       map[string]string{"PLUGGED": strings.Join(c.DevicesIds, ",")},
			Mounts:     []*api.Mount{{ContainerPath: "/plugged-files", HostPath: pluginFiles, ReadOnly: true}},
			Devices:    []*api.DeviceSpec{{ContainerPath: "/dev/plugged", HostPath: "/dev/null", Permissions: "rw"}},
			CdiDevices: []*api.CDIDevice{{Name: "example.com/null=all"}},
		})
	}
	return resp, nil
}

// gizmos is a DRA driver with two devices, each the machine's /dev/zero. It notes what it is asked.
type gizmos struct{}

func runDRADriver(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", "/etc/skiff/skiff.yaml")
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	for _, dir := range []string{cdiDir, "/var/lib/kubelet/plugins/" + draDriver} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	helper, err := kubeletplugin.Start(ctx, gizmos{}, kubeletplugin.DriverName(draDriver), kubeletplugin.KubeClient(client), kubeletplugin.NodeName("alpha"))
	if err != nil {
		return err
	}
	defer helper.Stop()
	err = helper.PublishResources(ctx, resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{
		"alpha": {Slices: []resourceslice.Slice{{Devices: []resourcev1.Device{{Name: "gizmo-0"}, {Name: "gizmo-1"}}}}},
	}})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func noteDRA(what string, uid types.UID) error {
	log, err := os.OpenFile(draLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	_, err = fmt.Fprintln(log, what, uid)
	return err
}

func (gizmos) PrepareResourceClaims(_ context.Context, claims []*resourcev1.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	results := map[types.UID]kubeletplugin.PrepareResult{}
	for _, claim := range claims {
		var result kubeletplugin.PrepareResult
		for _, device := range claim.Status.Allocation.Devices.Results {
			spec := fmt.Sprintf(`{"cdiVersion": "0.6.0", "kind": "%[1]s/gizmo", "devices": [{"name": "%[2]s", "containerEdits": {
				"env": ["GIZMO=%[3]s"], "deviceNodes": [{"path": "/dev/gizmo", "hostPath": "/dev/zero", "type": "c", "major": 1, "minor": 5}]}}]}`, draDriver, claim.UID, device.Device)
			if err := os.WriteFile(filepath.Join(cdiDir, string(claim.UID)+".json"), []byte(spec), 0o644); err != nil {
				return nil, err
			}
			result.Devices = append(result.Devices, kubeletplugin.Device{
				Requests: []string{device.Request}, PoolName: device.Pool, DeviceName: device.Device, CDIDeviceIDs: []string{draDriver + "/gizmo=" + string(claim.UID)},
			})
		}
		if err := noteDRA("prepare", claim.UID); err != nil {
			return nil, err
		}
		results[claim.UID] = result
	}
	return results, nil
}

func (gizmos) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	results := map[types.UID]error{}
	for _, claim := range claims {
		_ = os.Remove(filepath.Join(cdiDir, string(claim.UID)+".json"))
		results[claim.UID] = noteDRA("unprepare", claim.UID)
	}
	return results, nil
}

func (gizmos) HandleError(_ context.Context, err error, msg string) {
	fmt.Fprintln(os.Stderr, "DRA driver:", msg, err)
}

func (gizmos) WatchHealthStatus(context.Context, chan<- kubeletplugin.DeviceHealthReport) error {
	return kubeletplugin.ErrHealthNotSupported
}
