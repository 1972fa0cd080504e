// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Health is how the devices of a container are.
func (m *Manager) Health(pod types.UID, container string) []v1.ResourceStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.given[pod]
	if g == nil {
		return nil
	}
	var all []v1.ResourceStatus
	for _, name := range slices.Sorted(maps.Keys(g.Containers[container])) {
		s := v1.ResourceStatus{Name: v1.ResourceName(name)}
		for _, id := range g.Containers[container][name].IDs {
			s.Resources = append(s.Resources, v1.ResourceHealth{ResourceID: v1.ResourceID(id), Health: m.offers[name].health(id)})
		}
		all = append(all, s)
	}
	return all
}

// health is how a device is: well until its plugin, if there is one, says otherwise or stays away.
func (o *offer) health(id string) v1.ResourceHealthStatus {
	if o == nil {
		return v1.ResourceHealthStatusHealthy
	}
	if d := o.devices[id]; o.gone || d != nil && d.Health != api.Healthy {
		return v1.ResourceHealthStatusUnhealthy
	}
	return v1.ResourceHealthStatusHealthy
}

// differ are the devices whose health is another than before.
func differ(before, after map[string]*api.Device) (ids []string) {
	for id, d := range after {
		if was := before[id]; was == nil || was.Health != d.Health {
			ids = append(ids, id)
		}
	}
	for id := range before {
		if after[id] == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// usersLocked are the pods that have any of some devices. The caller holds mu.
func (m *Manager) usersLocked(name string, ids []string) (pods []types.UID) {
	for uid, g := range m.given {
		for _, byResource := range g.Containers {
			if slices.ContainsFunc(byResource[name].IDs, func(id string) bool { return slices.Contains(ids, id) }) {
				pods = append(pods, uid)
				break
			}
		}
	}
	return pods
}

// tell says that the resources have changed, and the health of what some pods have.
func (m *Manager) tell(users []types.UID) {
	m.changed()
	for _, uid := range users {
		m.wake(uid)
	}
}
