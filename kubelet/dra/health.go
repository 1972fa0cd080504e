// SPDX-License-Identifier: Apache-2.0

package dra

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	healthapi "k8s.io/kubelet/pkg/apis/dra-health/v1"
	healthv1alpha1 "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	"k8s.io/utils/ptr"
)

const (
	healthHolds = 30 * time.Second // what a driver says of a device, unless it says for how long
	healthMost  = 1 << 14          // devices of a driver that are remembered
	hearAgain   = 5 * time.Second  // when a driver's stream has ended
)

// deviceKey names a device of a driver.
type deviceKey struct{ pool, name string }

// health is what a driver last said of a device.
type health struct {
	status  v1.ResourceHealthStatus
	message string
	told    time.Time
	holds   time.Duration // then nobody knows any more
}

func (h health) until() time.Time { return h.told.Add(h.holds) }

// report is what a stream has told. The Manager's mu guards it.
type report struct {
	devices map[deviceKey]health
	stale   *time.Timer // fires when the first of them is out of date
}

// healthService is how a driver tells the health of its devices; nil if it does not.
func healthService(conn *grpc.ClientConn, versions []string) healthapi.DRAResourceHealthClient {
	switch {
	case slices.Contains(versions, healthapi.DRAResourceHealthService):
		return healthapi.NewDRAResourceHealthClient(conn)
	case slices.Contains(versions, healthv1alpha1.DRAResourceHealthService):
		return healthapi.V1Alpha1ClientWrapper{Client: healthv1alpha1.NewDRAResourceHealthClient(conn)}
	}
	return nil
}

// watchHealth listens to a driver until ctx ends, or the driver says that it has nothing to tell.
func (m *Manager) watchHealth(ctx context.Context, i *instance, service healthapi.DRAResourceHealthClient) {
	for ctx.Err() == nil {
		err := m.followHealth(ctx, i, service)
		if grpcstatus.Code(err) == codes.Unimplemented {
			return
		}
		if ctx.Err() == nil {
			klog.FromContext(ctx).V(2).Info("The health of a driver's devices is not known", "driver", i.driver, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(m.hearAgain):
		}
	}
}

func (m *Manager) followHealth(ctx context.Context, i *instance, service healthapi.DRAResourceHealthClient) error {
	stream, err := service.NodeWatchResources(ctx, &healthapi.NodeWatchResourcesRequest{})
	if err != nil {
		return err
	}
	m.mu.Lock()
	r := m.restored[i.driver] // holds until the driver says something else
	if r == nil {
		r = &report{devices: map[deviceKey]health{}}
	}
	delete(m.restored, i.driver)
	i.report = r
	m.mu.Unlock()
	defer m.forgetHealth(i, r)
	for {
		list, err := stream.Recv()
		if err != nil {
			return err
		}
		m.mu.Lock()
		changed := r.take(time.Now(), list.GetDevices())
		m.expectStale(i.driver, r)
		if len(changed) > 0 {
			m.saveHealth()
		}
		m.mu.Unlock()
		m.wakeUsers(i.driver, changed)
	}
}

// take notes what a driver says, and returns of which devices it is news. Those it does not mention keep their health until it is out of date.
func (r *report) take(now time.Time, devices []*healthapi.DeviceHealth) (changed []deviceKey) {
	for _, said := range devices {
		key := deviceKey{said.GetDevice().GetPoolName(), said.GetDevice().GetDeviceName()}
		before, known := r.devices[key]
		if !known && len(r.devices) >= healthMost {
			continue
		}
		holds := healthHolds
		if s := said.GetHealthCheckTimeoutSeconds(); s > 0 {
			holds = time.Duration(s) * time.Second
		}
		after := health{healthOf(said.GetHealth()), shortened(said.GetMessage()), now, holds}
		r.devices[key] = after
		if !known || before.status != after.status || before.message != after.message {
			changed = append(changed, key)
		}
	}
	return append(changed, r.expire(now)...)
}

// expire forgets what is out of date, and returns of which devices.
func (r *report) expire(now time.Time) (gone []deviceKey) {
	for key, h := range r.devices {
		if !now.Before(h.until()) {
			delete(r.devices, key)
			gone = append(gone, key)
		}
	}
	return gone
}

// expectStale has the pods looked at when the first device's health is out of date. The caller holds mu.
func (m *Manager) expectStale(name string, r *report) {
	if r.stale != nil {
		r.stale.Stop()
		r.stale = nil
	}
	var first time.Time
	for _, h := range r.devices {
		if first.IsZero() || h.until().Before(first) {
			first = h.until()
		}
	}
	if first.IsZero() || m.closed {
		return
	}
	r.stale = time.AfterFunc(time.Until(first), func() {
		m.mu.Lock()
		gone := r.expire(time.Now())
		m.expectStale(name, r)
		m.mu.Unlock()
		m.wakeUsers(name, gone)
	})
}

// forgetHealth takes note that a stream has ended: nothing is known of its devices any more, unless it is this process that ends.
func (m *Manager) forgetHealth(i *instance, r *report) {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return
	}
	i.report = nil
	var gone []deviceKey
	for key := range r.devices {
		gone = append(gone, key)
	}
	clear(r.devices)
	m.expectStale(i.driver, r)
	if len(gone) > 0 {
		m.saveHealth()
	}
	m.mu.Unlock()
	m.wakeUsers(i.driver, gone)
}

// wakeUsers has the pods looked at that use any of a driver's devices.
func (m *Manager) wakeUsers(name string, devices []deviceKey) {
	if len(devices) == 0 {
		return
	}
	m.mu.Lock()
	var users []types.UID
	for _, c := range m.claims {
		if slices.ContainsFunc(c.Devices, func(d Device) bool {
			return d.Driver == name && slices.Contains(devices, deviceKey{d.Pool, d.Name})
		}) {
			users = append(users, c.Pods...)
		}
	}
	m.mu.Unlock()
	for _, uid := range users {
		m.wake(uid)
	}
}

// Health is how the devices are that a container has of the claims that it names.
func (m *Manager) Health(pod *v1.Pod, c *v1.Container) []v1.ResourceStatus {
	if len(c.Resources.Claims) == 0 {
		return nil
	}
	names, err := claimsOf(pod)
	if err != nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []v1.ResourceStatus
	for _, ref := range c.Resources.Claims {
		i := slices.IndexFunc(names, func(n claimName) bool { return n.ref == ref.Name })
		if i < 0 {
			continue
		}
		prepared := m.byName(pod.Namespace, names[i].object)
		if prepared == nil {
			continue
		}
		s := v1.ResourceStatus{Name: v1.ResourceName("claim:" + ref.Name)}
		if ref.Request != "" {
			s.Name += v1.ResourceName("/" + ref.Request)
		}
		for _, d := range prepared.Devices {
			h := m.healthLocked(d)
			if d.serves(ref.Request) && !slices.ContainsFunc(s.Resources, func(have v1.ResourceHealth) bool { return have.ResourceID == h.ResourceID }) {
				s.Resources = append(s.Resources, h)
			}
		}
		if len(s.Resources) > 0 {
			all = append(all, s)
		}
	}
	return all
}

// healthLocked is how a device is. The caller holds mu.
func (m *Manager) healthLocked(d Device) v1.ResourceHealth {
	h := v1.ResourceHealth{ResourceID: v1.ResourceID(fmt.Sprintf("%s/%s/%s", d.Driver, d.Pool, d.Name)), Health: v1.ResourceHealthStatusUnknown}
	if len(d.CDI) > 0 {
		h.ResourceID = v1.ResourceID(d.CDI[0])
	}
	for _, r := range slices.Backward(m.reportsOf(d.Driver)) { // the newest that knows
		if said, known := r.devices[deviceKey{d.Pool, d.Name}]; known {
			h.Health = said.status
			if said.message != "" {
				h.Message = ptr.To(said.message)
			}
			break
		}
	}
	return h
}

func healthOf(h healthapi.HealthStatus) v1.ResourceHealthStatus {
	switch h {
	case healthapi.HealthStatus_HEALTHY:
		return v1.ResourceHealthStatusHealthy
	case healthapi.HealthStatus_UNHEALTHY:
		return v1.ResourceHealthStatusUnhealthy
	}
	return v1.ResourceHealthStatusUnknown
}

func shortened(message string) string {
	if len(message) <= v1.ResourceHealthMessageMaxLength {
		return message
	}
	return message[:v1.ResourceHealthMessageMaxLength-3] + "..."
}
