// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
)

// allocatePorts takes the node ports that c's Service gets and notes those that it loses.
func (a *Allocator) allocatePorts(ctx context.Context, c *change, old *corev1.Service, dryRun bool) error {
	c.freedPorts = freedPorts(c.service, old)
	if !mayHaveNodePorts(c.service) {
		return nil
	}
	asked := c.service.Spec.DeepCopy()
	return a.ports.update(ctx, dryRun, func(used *bitmap) error {
		asked.DeepCopyInto(&c.service.Spec) // this may be the second try
		c.takenPorts = nil
		if err := assignNodePorts(c, old, used); err != nil {
			return err
		}
		return assignHealthCheckPort(c, old, used)
	})
}

// freedPorts are those of old that s does not have any more.
func freedPorts(s, old *corev1.Service) []int32 {
	if old == nil {
		return nil
	}
	var out, still []int32
	if mayHaveNodePorts(s) {
		still = nodePorts(s)
	}
	if mayHaveNodePorts(old) {
		for _, p := range nodePorts(old) {
			if !slices.Contains(still, p) {
				out = append(out, p)
			}
		}
	}
	if needsHealthCheck(old) && !needsHealthCheck(s) && old.Spec.HealthCheckNodePort != 0 {
		out = append(out, old.Spec.HealthCheckNodePort)
	}
	return out
}

// assignNodePorts sets the node port of each port that needs or wants one and does not have it already. In a
// new Service ports of the same number (DNS over TCP and UDP) share their node port.
func assignNodePorts(c *change, old *corev1.Service, used *bitmap) error {
	s, ports := c.service, c.service.Spec.Ports
	var had []int32
	if old != nil {
		had = nodePorts(old)
	}
	shared := map[int32]int32{} // node port by port
	for i := range ports {
		p := &ports[i]
		if p.NodePort == 0 && !needsNodePorts(s) {
			continue
		}
		if old == nil {
			if p.NodePort == 0 {
				p.NodePort = nodePortOf(ports, p.Port, shared)
			}
			if p.NodePort != 0 && p.NodePort == shared[p.Port] {
				continue
			}
		}
		switch {
		case p.NodePort == 0:
			port, err := used.next()
			if err != nil {
				return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
			}
			p.NodePort = port
		case slices.Contains(had, p.NodePort), old != nil && slices.Contains(c.takenPorts, p.NodePort):
			continue
		default:
			if err := used.take(p.NodePort); err != nil {
				return invalid(s, field.ErrorList{field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), p.NodePort, err.Error())})
			}
		}
		c.takenPorts = append(c.takenPorts, p.NodePort)
		if shared[p.Port] == 0 {
			shared[p.Port] = p.NodePort
		}
	}
	return nil
}

// nodePortOf is the node port that a port of this number has or asks for elsewhere in the Service.
func nodePortOf(ports []corev1.ServicePort, number int32, shared map[int32]int32) int32 {
	if p, ok := shared[number]; ok {
		return p
	}
	for _, p := range ports {
		if p.Port == number && p.NodePort != 0 {
			return p.NodePort
		}
	}
	return 0
}

func assignHealthCheckPort(c *change, old *corev1.Service, used *bitmap) error {
	s := c.service
	if !needsHealthCheck(s) || old != nil && needsHealthCheck(old) {
		return nil
	}
	if wanted := s.Spec.HealthCheckNodePort; wanted != 0 {
		if err := used.take(wanted); err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate requested HealthCheck NodePort %v: %w", wanted, err))
		}
	} else {
		port, err := used.next()
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a HealthCheck NodePort %v: %w", port, err))
		}
		s.Spec.HealthCheckNodePort = port
	}
	c.takenPorts = append(c.takenPorts, s.Spec.HealthCheckNodePort)
	return nil
}

// rangeKey is where upstream keeps the node ports, below the store's prefix.
const rangeKey = "/ranges/servicenodeports"

var errPortTaken = errors.New("provided port is already allocated")

// ports are the node ports: a RangeAllocation object with one bit for each.
type ports struct {
	first, size int
	ranges      storage.Interface
}

func (p *ports) String() string { return fmt.Sprintf("%d-%d", p.first, p.first+p.size-1) }

// update lets decide change the bits and writes what it made of them, in one transaction. decide may be
// called again if somebody else was faster. A dry run writes nothing.
func (p *ports) update(ctx context.Context, dryRun bool, decide func(*bitmap) error) error {
	change := func(o runtime.Object) (runtime.Object, error) {
		r := o.(*corev1.RangeAllocation)
		if r.Range == "" {
			r.Range = p.String()
		}
		if r.Range != p.String() {
			return nil, apierrors.NewInternalError(fmt.Errorf("the stored range of node ports is %s, want %s", r.Range, p))
		}
		used := p.bitmap(r.Data)
		if err := decide(used); err != nil {
			return nil, err
		}
		r.Data = used.bits.Bytes()
		return r, nil
	}
	if dryRun {
		r := &corev1.RangeAllocation{}
		if err := p.ranges.Get(ctx, rangeKey, storage.GetOptions{IgnoreNotFound: true}, r); err != nil {
			return storeerr.InterpretGetError(err, corev1.Resource("servicenodeportallocations"), "")
		}
		_, err := change(r)
		return err
	}
	err := p.ranges.GuaranteedUpdate(ctx, rangeKey, &corev1.RangeAllocation{}, true, nil, storage.SimpleUpdate(change), nil)
	return storeerr.InterpretUpdateError(err, corev1.Resource("servicenodeportallocations"), "")
}

func (p *ports) release(ctx context.Context, ports []int32) error {
	if len(ports) == 0 {
		return nil
	}
	return p.update(ctx, false, func(used *bitmap) error {
		for _, port := range ports {
			used.free(port)
		}
		return nil
	})
}

func (p *ports) bitmap(data []byte) *bitmap {
	return &bitmap{ports: p, bits: new(big.Int).SetBytes(data)}
}

// bitmap is the set of used ports. Bit n stands for the n-th port of the range.
type bitmap struct {
	ports *ports
	bits  *big.Int
}

func (b *bitmap) take(port int32) error {
	n := int(port) - b.ports.first
	switch {
	case n < 0 || n >= b.ports.size:
		return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %s", b.ports)
	case b.bits.Bit(n) == 1:
		return errPortTaken
	}
	b.bits.SetBit(b.bits, n, 1)
	return nil
}

func (b *bitmap) free(port int32) {
	if n := int(port) - b.ports.first; n >= 0 && n < b.ports.size {
		b.bits.SetBit(b.bits, n, 0)
	}
}

// next takes a random free port, of the lower band only if there is no other.
func (b *bitmap) next() (int32, error) {
	static := int(staticBand(uint64(b.ports.size), 32, 16, 128))
	for _, band := range []struct{ first, size int }{{static, b.ports.size - static}, {0, static}} {
		if band.size == 0 {
			continue
		}
		start := rand.IntN(band.size)
		for i := range band.size {
			n := band.first + (start+i)%band.size
			if b.bits.Bit(n) == 0 {
				b.bits.SetBit(b.bits, n, 1)
				return int32(b.ports.first + n), nil
			}
		}
	}
	return 0, errFull
}
