// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"path/filepath"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/skiff-k8s/skiff/kubelet/checkpoint"
)

// saved is what the file says: who has what, and which resources there were.
type saved struct {
	Given     map[types.UID]*Given `json:"given"`
	Resources []string             `json:"resources"`
}

func (m *Manager) file() string { return filepath.Join(m.dir, "allocations.json") }

// save writes the file. The caller holds mu.
func (m *Manager) save() error {
	c := saved{Given: m.given}
	for name := range m.offers {
		c.Resources = append(c.Resources, name)
	}
	for _, g := range m.given {
		for _, byResource := range g.Containers {
			for name, a := range byResource {
				encoded, err := proto.Marshal(a.Response)
				if err != nil {
					return fmt.Errorf("encode assignment of %s: %w", name, err)
				}
				a.Encoded = encoded
				byResource[name] = a
			}
		}
	}
	if err := checkpoint.Save(m.file(), c); err != nil {
		return fmt.Errorf("write assignments of devices: %w", err)
	}
	return nil
}

// Load reads what an earlier process assigned, before any pod is admitted. Resources that it knew are there without
// devices until their plugins register again.
func (m *Manager) Load() error {
	var c saved
	if err := checkpoint.Load(m.file(), &c); err != nil {
		return fmt.Errorf("read assignments of devices in %s: %w", m.file(), err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range c.Resources {
		if m.offers[name] == nil {
			m.offers[name] = &offer{devices: map[string]*api.Device{}}
		}
	}
	for uid, g := range c.Given {
		for _, byResource := range g.Containers {
			for name, a := range byResource {
				a.Response = &api.ContainerAllocateResponse{}
				if err := proto.Unmarshal(a.Encoded, a.Response); err != nil {
					return fmt.Errorf("read assignment of %s: %w", name, err)
				}
				byResource[name] = a
			}
		}
		m.given[uid] = g
	}
	return nil
}
