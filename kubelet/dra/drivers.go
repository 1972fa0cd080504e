// SPDX-License-Identifier: Apache-2.0

package dra

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
	grpcstatus "google.golang.org/grpc/status"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/klog/v2"
	api "k8s.io/kubelet/pkg/apis/dra/v1"
	"k8s.io/kubelet/pkg/apis/dra/v1beta1"

	"github.com/skiff-k8s/skiff/kubelet/localgrpc"
)

const (
	dialTimeout   = 10 * time.Second
	wipeAfter     = 30 * time.Second // a driver that restarts keeps its ResourceSlices
	wipeAgain     = time.Second      // if it did not work, and then longer and longer
	wipeAgainMost = 5 * time.Minute
	allDrivers    = ""
)

// instance is a process that serves for a driver. While one version of a driver takes the place of another there are two.
type instance struct {
	m                *Manager
	driver, endpoint string
	conn             *grpc.ClientConn
	plugin           api.DRAPluginClient
	unhear           context.CancelFunc // ends the stream of health

	connected bool    // guarded by Manager.mu
	report    *report // guarded by Manager.mu: of the devices' health; nil while there is none
}

// wipe is when the ResourceSlices of a driver are to go.
type wipe struct {
	at    time.Time
	pause time.Duration // before it is tried again
}

// Register takes an instance of a driver; it is for the watcher of plugins.
func (m *Manager) Register(ctx context.Context, name, endpoint string, versions []string) error {
	i := &instance{m: m, driver: name, endpoint: endpoint}
	var err error
	i.conn, err = localgrpc.Client(endpoint, dialTimeout, grpc.WithStatsHandler(i), grpc.WithUnaryInterceptor(m.measured(name)))
	if err != nil {
		return fmt.Errorf("connect to DRA driver %s: %w", name, err)
	}
	if i.plugin = pluginClient(i.conn, versions); i.plugin == nil {
		_ = i.conn.Close()
		return fmt.Errorf("DRA driver %s: none of the supported services %q is %s or %s", name, versions, api.DRAPluginService, v1beta1.DRAPluginService)
	}
	if err := m.add(ctx, i, versions); err != nil {
		_ = i.conn.Close()
		return err
	}
	i.conn.Connect() // whether it is there shows before it is needed
	m.changed()
	return nil
}

// measured counts the calls of a driver.
func (m *Manager) measured(driver string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		began := time.Now()
		err := invoke(ctx, method, req, reply, conn, options...)
		m.counts.DRACalls.WithLabelValues(driver, method, grpcstatus.Code(err).String()).Observe(time.Since(began).Seconds())
		return err
	}
}

// pluginClient is how to speak to a driver, nil if it speaks nothing that we do.
func pluginClient(conn *grpc.ClientConn, versions []string) api.DRAPluginClient {
	switch {
	case slices.Contains(versions, api.DRAPluginService):
		return api.NewDRAPluginClient(conn)
	case slices.Contains(versions, v1beta1.DRAPluginService):
		return v1beta1.V1Beta1ClientWrapper{DRAPluginClient: v1beta1.NewDRAPluginClient(conn)}
	}
	return nil
}

func (m *Manager) add(ctx context.Context, i *instance, versions []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.ContainsFunc(m.drivers[i.driver], func(other *instance) bool { return other.endpoint == i.endpoint }) {
		return fmt.Errorf("endpoint %s already registered for DRA driver plugin %s", i.endpoint, i.driver)
	}
	m.drivers[i.driver] = append(m.drivers[i.driver], i)
	ctx, i.unhear = context.WithCancel(ctx)
	if service := healthService(i.conn, versions); service != nil && !m.closed {
		m.streams.Go(func() { m.watchHealth(ctx, i, service) })
	}
	m.judge(i.driver)
	return nil
}

// Deregister is told that an instance of a driver is gone; it is for the watcher of plugins.
func (m *Manager) Deregister(_ context.Context, name, endpoint string) {
	m.mu.Lock()
	var gone *instance
	m.drivers[name] = slices.DeleteFunc(m.drivers[name], func(i *instance) bool {
		if i.endpoint == endpoint {
			gone = i
		}
		return i.endpoint == endpoint
	})
	if gone != nil {
		m.judge(name)
	}
	m.mu.Unlock()
	if gone != nil { // closing a connection calls HandleConn
		gone.unhear()
		_ = gone.conn.Close()
	}
}

// current is the instance of a driver that is asked: the newest of those that are connected. The caller holds mu.
func (m *Manager) current(name string) (*instance, error) {
	all := m.drivers[name]
	if len(all) == 0 {
		return nil, fmt.Errorf("DRA driver %s is not registered", name)
	}
	for _, i := range slices.Backward(all) {
		if i.connected {
			return i, nil
		}
	}
	return all[len(all)-1], nil
}

func (m *Manager) plugin(name string) (api.DRAPluginClient, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, err := m.current(name)
	if err != nil {
		return nil, err
	}
	return i.plugin, nil
}

// judge decides whether what a driver offers is to go, because nobody serves for it. The caller holds mu.
func (m *Manager) judge(name string) {
	if slices.ContainsFunc(m.drivers[name], func(i *instance) bool { return i.connected }) {
		delete(m.wipes, name)
		return
	}
	if _, pending := m.wipes[name]; !pending {
		m.wipes[name] = wipe{at: time.Now().Add(wipeAfter), pause: wipeAgain}
		m.wakeWiping()
	}
}

func (m *Manager) wakeWiping() {
	select {
	case m.wiping <- struct{}{}:
	default:
	}
}

// Run deletes the ResourceSlices of this node for which there is no driver, until ctx ends. At first those are all: no pod is
// to come here for a driver that may never be back, and one that is writes them anew.
func (m *Manager) Run(ctx context.Context) error {
	m.mu.Lock()
	m.wipes[allDrivers] = wipe{at: time.Now(), pause: wipeAgain}
	m.mu.Unlock()
	for {
		var due <-chan time.Time
		if name, at, ok := m.nextWipe(); ok {
			if wait := time.Until(at); wait > 0 {
				due = time.After(wait)
			} else {
				m.wipe(ctx, name)
				continue
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-due:
		case <-m.wiping:
		}
	}
}

func (m *Manager) nextWipe() (name string, at time.Time, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n, w := range m.wipes {
		if !ok || w.at.Before(at) {
			name, at, ok = n, w.at, true
		}
	}
	return name, at, ok
}

// wipe deletes what a driver offers on this node.
func (m *Manager) wipe(ctx context.Context, name string) {
	of := fields.Set{resourcev1.ResourceSliceSelectorNodeName: m.node}
	if name != allDrivers {
		of[resourcev1.ResourceSliceSelectorDriver] = name
	}
	err := m.client.ResourceV1().ResourceSlices().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: of.AsSelector().String()})
	m.mu.Lock()
	defer m.mu.Unlock()
	w, pending := m.wipes[name]
	switch {
	case !pending: // it came back meanwhile
	case err == nil || apierrors.IsNotFound(err):
		delete(m.wipes, name)
	default:
		klog.FromContext(ctx).V(2).Info("Cannot delete the ResourceSlices of a driver that is not there; it is tried again", "driver", name, "err", err)
		m.wipes[name] = wipe{at: time.Now().Add(w.pause), pause: min(2*w.pause, wipeAgainMost)}
	}
}

// TagRPC, HandleRPC, TagConn and HandleConn make an instance a stats.Handler: so it hears whether it is connected.
func (i *instance) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC is of a stats.Handler.
func (i *instance) HandleRPC(context.Context, stats.RPCStats) {}

// TagConn is of a stats.Handler.
func (i *instance) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn hears of the beginning and the end of the connection.
func (i *instance) HandleConn(_ context.Context, s stats.ConnStats) {
	switch s.(type) {
	case *stats.ConnBegin:
		i.connectedIs(true)
	case *stats.ConnEnd:
		i.connectedIs(false)
		go i.conn.Connect() // gRPC would wait for the next call, and holds a lock here that this needs
	}
}

func (i *instance) connectedIs(connected bool) {
	i.m.mu.Lock()
	defer i.m.mu.Unlock()
	i.connected = connected
	if !i.m.closed && slices.Contains(i.m.drivers[i.driver], i) {
		i.m.judge(i.driver)
	}
}
