// SPDX-License-Identifier: Apache-2.0

// Package csi knows the CSI drivers of this node: who they are, and how to talk to them.
//
// Drivers register themselves (package plugins); Drivers then asks each for its name of this node and publishes that
// in the CSINode object and on the Node. What becomes of volumes is decided in package volumes.
// Reference: https://github.com/container-storage-interface/spec
package csi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	csi "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/kubelet/localgrpc"
	"github.com/skiff-k8s/skiff/kubelet/plugins"
)

// Timeout is how long a driver has for one call.
const Timeout = 2 * time.Minute

// Drivers are the registered drivers. It is a handler for package plugins.
type Drivers struct {
	// Measured hears of each call of a driver, with gRPC's code of how it ended. It may be nil.
	Measured func(driver, method, code string, took time.Duration)

	client   kubernetes.Interface
	nodeName string

	publishing sync.Mutex // one change of CSINode and Node at a time

	mu     sync.Mutex
	byName map[string]*Driver // guarded by mu
}

// New returns Drivers without any. The client acts as the node.
func New(client kubernetes.Interface, nodeName string) *Drivers {
	return &Drivers{client: client, nodeName: nodeName, byName: map[string]*Driver{}}
}

// Driver is a way to a driver.
type Driver struct {
	csi.NodeClient
	Name string

	endpoint string
	version  *version.Version
	conn     *grpc.ClientConn
	gone     context.CancelFunc // ends what goes on for it

	mu           sync.Mutex
	capabilities map[Capability]bool // guarded by mu: nil before they are known
}

// Capability is something that a driver may be able to do on nodes.
type Capability = csi.NodeServiceCapability_RPC_Type

// Get returns the registered driver of that name.
func (d *Drivers) Get(name string) (*Driver, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	driver := d.byName[name]
	if driver == nil {
		return nil, fmt.Errorf("driver name %s not found in the list of registered CSI drivers", name)
	}
	return driver, nil
}

// Register takes a driver and publishes what it calls this node. One of the same name is replaced only by a newer one,
// or once it is gone.
func (d *Drivers) Register(ctx context.Context, name, endpoint string, versions []string) error {
	highest, err := version.HighestSupportedVersion(versions)
	if err != nil {
		return fmt.Errorf("validation failed for CSI Driver %s at endpoint %s: none of the versions %q is supported: %w", name, endpoint, versions, err)
	}
	driver, err := d.dial(name, endpoint)
	if err != nil {
		return err
	}
	driver.version = highest
	lifetime, gone := context.WithCancel(ctx)
	driver.gone = gone
	if err := d.put(driver); err != nil {
		driver.close()
		return err
	}
	err = d.describe(ctx, driver)
	if err != nil && errors.Is(context.Cause(ctx), plugins.ErrGone) {
		d.Deregister(context.WithoutCancel(ctx), name, endpoint) // a part may have been published, and it will not come again
	}
	if err != nil {
		d.drop(name, endpoint)
		return fmt.Errorf("register CSI driver %s: %w", name, err)
	}
	go d.refreshAsAsked(lifetime, name)
	return nil
}

// describe asks a driver about this node, and publishes what it says.
func (d *Drivers) describe(ctx context.Context, driver *Driver) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	info, err := driver.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	if err != nil {
		return err
	}
	return d.publish(ctx, driver.Name, info)
}

// Deregister forgets a driver, and takes back what was published about it.
func (d *Drivers) Deregister(ctx context.Context, name, endpoint string) {
	if !d.drop(name, endpoint) {
		return
	}
	if err := d.unpublish(ctx, name); err != nil {
		klog.FromContext(ctx).Error(err, "Deregistering CSI driver", "driver", name)
	}
}

func (d *Drivers) put(driver *Driver) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if there := d.byName[driver.Name]; there != nil {
		if there.endpoint != driver.endpoint && !there.version.LessThan(driver.version) {
			return fmt.Errorf("CSI driver %q is already registered with a higher supported version: %q", driver.Name, there.version)
		}
		there.close()
	}
	d.byName[driver.Name] = driver
	return nil
}

func (d *Drivers) drop(name, endpoint string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	driver := d.byName[name]
	if driver == nil || driver.endpoint != endpoint {
		return false
	}
	driver.close()
	delete(d.byName, name)
	return true
}

func (d *Driver) close() {
	d.gone()
	_ = d.conn.Close()
}

func (d *Drivers) dial(name, endpoint string) (*Driver, error) {
	conn, err := localgrpc.Client(endpoint, 0, grpc.WithUnaryInterceptor(d.measure(name)))
	if err != nil {
		return nil, fmt.Errorf("connect to CSI driver %s: %w", name, err)
	}
	return &Driver{NodeClient: csi.NewNodeClient(conn), Name: name, endpoint: endpoint, conn: conn}, nil
}

func (d *Drivers) measure(driver string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		began := time.Now()
		err := invoke(ctx, method, req, reply, conn, options...)
		if d.Measured != nil {
			d.Measured(driver, method, status.Code(err).String(), time.Since(began))
		}
		return err
	}
}

// Has tells whether the driver is capable of something. It is asked once.
func (d *Driver) Has(ctx context.Context, c Capability) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.capabilities == nil {
		ctx, cancel := context.WithTimeout(ctx, Timeout)
		defer cancel()
		response, err := d.NodeGetCapabilities(ctx, &csi.NodeGetCapabilitiesRequest{})
		if err != nil {
			return false, err
		}
		all := map[Capability]bool{}
		for _, capability := range response.GetCapabilities() {
			all[capability.GetRpc().GetType()] = true
		}
		d.capabilities = all
	}
	return d.capabilities[c], nil
}

// Mode is what an access mode of Kubernetes means to the driver.
func (d *Driver) Mode(ctx context.Context, mode corev1.PersistentVolumeAccessMode) (csi.VolumeCapability_AccessMode_Mode, error) {
	precise, err := d.Has(ctx, csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER)
	if err != nil {
		return csi.VolumeCapability_AccessMode_UNKNOWN, err
	}
	switch mode {
	case corev1.ReadWriteOnce:
		if precise {
			return csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER, nil
		}
		return csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, nil
	case corev1.ReadWriteOncePod:
		if precise {
			return csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER, nil
		}
		return csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, nil
	case corev1.ReadOnlyMany:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY, nil
	case corev1.ReadWriteMany:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER, nil
	}
	return csi.VolumeCapability_AccessMode_UNKNOWN, nil
}

// Final tells whether an error of a call means that the driver has done nothing, and will not do it later.
func Final(err error) bool {
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted, codes.Aborted:
		return false
	}
	return true
}
