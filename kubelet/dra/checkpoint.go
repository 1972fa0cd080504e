// SPDX-License-Identifier: Apache-2.0

package dra

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/kubelet/checkpoint"
)

// save writes what there is. The caller holds mu.
func (m *Manager) save() error {
	m.count()
	claims := slices.SortedFunc(maps.Values(m.claims), func(a, b *claim) int { return strings.Compare(string(a.UID), string(b.UID)) })
	if err := checkpoint.Save(m.file, claims); err != nil {
		return fmt.Errorf("write prepared ResourceClaims: %w", err)
	}
	return nil
}

// Load reads what an earlier process left prepared.
func (m *Manager) Load() error {
	var claims []*claim
	if err := checkpoint.Load(m.file, &claims); err != nil {
		return fmt.Errorf("read prepared ResourceClaims in %s: %w", m.file, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range claims {
		m.claims[c.UID] = c
	}
	m.count()
	m.loadHealth(time.Now())
	return nil
}

// count counts the claims by driver. The caller holds mu.
func (m *Manager) count() {
	m.counts.ClaimsInUse.Reset()
	m.counts.ClaimsInUse.WithLabelValues("<any>").Set(float64(len(m.claims)))
	for _, c := range m.claims {
		for _, driver := range c.Drivers {
			m.counts.ClaimsInUse.WithLabelValues(driver).Inc()
		}
	}
}

// driverState and deviceState are what a driver told of its devices, in upstream's form.
type driverState struct{ Devices map[string]deviceState }

type deviceState struct {
	PoolName, DeviceName string
	Health               v1.ResourceHealthStatus
	LastUpdated          time.Time
	HealthCheckTimeout   time.Duration
	Message              string
}

// reportsOf are what is known of the devices of a driver, the newest last. The caller holds mu.
func (m *Manager) reportsOf(driver string) (all []*report) {
	if r := m.restored[driver]; r != nil {
		all = append(all, r)
	}
	for _, i := range m.drivers[driver] {
		if i.report != nil {
			all = append(all, i.report)
		}
	}
	return all
}

// reports are those of all drivers. The caller holds mu.
func (m *Manager) reports() map[string][]*report {
	all := map[string][]*report{}
	for name := range m.restored {
		all[name] = m.reportsOf(name)
	}
	for name := range m.drivers {
		all[name] = m.reportsOf(name)
	}
	return all
}

// saveHealth writes it. It is written when something changes, not each time that a driver says so again. The caller holds mu.
func (m *Manager) saveHealth() {
	state := map[string]driverState{}
	for name, reports := range m.reports() {
		devices := map[string]deviceState{}
		for _, r := range reports {
			for key, h := range r.devices {
				devices[key.pool+"/"+key.name] = deviceState{key.pool, key.name, h.status, h.told, h.holds, h.message}
			}
		}
		if len(devices) > 0 {
			state[name] = driverState{devices}
		}
	}
	if err := checkpoint.Save(m.healthFile, state); err != nil {
		klog.Background().Error(err, "The health of devices will not be known after a restart")
	}
}

// loadHealth reads what still holds. Without it drivers have to tell again. The caller holds mu.
func (m *Manager) loadHealth(now time.Time) {
	var state map[string]driverState
	if err := checkpoint.Load(m.healthFile, &state); err != nil {
		klog.Background().Error(err, "The health of devices is not known before their drivers tell it")
		return
	}
	for name, driver := range state {
		r := &report{devices: map[deviceKey]health{}}
		for _, d := range driver.Devices {
			r.devices[deviceKey{d.PoolName, d.DeviceName}] = health{d.Health, d.Message, d.LastUpdated, cmp.Or(d.HealthCheckTimeout, healthHolds)}
		}
		r.expire(now)
		m.restored[name] = r
		m.expectStale(name, r)
	}
}
