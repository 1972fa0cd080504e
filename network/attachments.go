// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"github.com/skiff-k8s/skiff/network/policy"
)

// attachment is one interface of one pod, as its record in the data directory keeps it.
type attachment struct {
	ContainerID string        `json:"containerID"`
	Pod         policy.Pod    `json:"pod,omitzero"` // empty if the runtime does not tell
	Interface   string        `json:"interface"`
	Netns       string        `json:"netns"`
	HostVeth    string        `json:"hostVeth"`
	Addresses   []netip.Addr  `json:"addresses"`
	Ports       []portMapping `json:"ports,omitempty"`
}

// portMapping is an element of the portMappings capability.
type portMapping struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// key names an attachment; it is the name of its record too. Container IDs and interface names have no
// slash (validated by the server).
func (a *attachment) key() string { return attachmentKey(a.ContainerID, a.Interface) }

func attachmentKey(containerID, ifname string) string { return containerID + "@" + ifname }

var (
	errNoCIDR = errors.New("the node has no pod CIDR yet")
	errFull   = errors.New("no address is free")
)

// attachments hands out addresses. Its state on disk is one file per attachment.
type attachments struct {
	dir string

	mu    sync.Mutex
	cidrs []netip.Prefix
	byKey map[string]*attachment
	taken map[netip.Addr]string // key of the holder; exactly the addresses in byKey
	last  map[netip.Prefix]netip.Addr
}

func newAttachments(dir string) *attachments {
	return &attachments{
		dir:   dir,
		byKey: map[string]*attachment{},
		taken: map[netip.Addr]string{},
		last:  map[netip.Prefix]netip.Addr{},
	}
}

// load reads the records and drops those of pods that are gone, which it returns. A record that cannot be
// read was being written when the process or the machine died, before its address was used.
func (s *attachments) load(alive func(netns string) bool) ([]*attachment, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var gone []*attachment
	for _, entry := range entries {
		path := filepath.Join(s.dir, entry.Name())
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		a := &attachment{}
		if json.Unmarshal(data, a) == nil && a.key() == entry.Name() && alive(a.Netns) {
			s.byKey[a.key()] = a
			for _, addr := range a.Addresses {
				s.taken[addr] = a.key()
			}
			continue
		}
		if a.ContainerID != "" {
			gone = append(gone, a)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	return gone, nil
}

// setCIDRs says where addresses come from. Those handed out from earlier CIDRs stay with their pods.
func (s *attachments) setCIDRs(cidrs []netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cidrs = cidrs
}

// allocate gives the attachment one address per CIDR and writes its record; afterwards they are its own.
func (s *attachments) allocate(a *attachment) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.cidrs) == 0 {
		return errNoCIDR
	}
	if _, exists := s.byKey[a.key()]; exists {
		return fmt.Errorf("container %s already has an interface %s", a.ContainerID, a.Interface)
	}
	for _, cidr := range s.cidrs {
		addr, err := s.next(cidr)
		if err != nil {
			return fmt.Errorf("allocate from %s: %w", cidr, err)
		}
		a.Addresses = append(a.Addresses, addr)
	}
	data, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(s.dir, a.key()), data, 0o600); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	s.byKey[a.key()] = a
	for i, addr := range a.Addresses {
		s.taken[addr] = a.key()
		s.last[s.cidrs[i]] = addr
	}
	return nil
}

// next returns the first free address after the last one handed out, so that an address rests before
// it is used again. The first two (network and gateway) and, for IPv4, the last one are never used.
func (s *attachments) next(cidr netip.Prefix) (netip.Addr, error) {
	first := gateway(cidr).Next()
	start, seen := s.last[cidr]
	if !seen {
		start = gateway(cidr)
	}
	// Among len(taken)+1 successive usable addresses one is free; wrapping and unusable ones cost 3 more steps.
	addr := start
	for range len(s.taken) + 4 {
		addr = addr.Next()
		if !addr.IsValid() || !cidr.Contains(addr) || cidr.Addr().Is4() && !cidr.Contains(addr.Next()) {
			addr = first
		}
		if !cidr.Contains(addr) || cidr.Addr().Is4() && !cidr.Contains(addr.Next()) {
			break // the CIDR has no usable address at all
		}
		if _, used := s.taken[addr]; !used {
			return addr, nil
		}
	}
	return netip.Addr{}, errFull
}

// gateway is the address of the bridge in a pod CIDR.
func gateway(cidr netip.Prefix) netip.Addr { return cidr.Masked().Addr().Next() }

// get returns an attachment, or nil. It must not be modified.
func (s *attachments) get(containerID, ifname string) *attachment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byKey[attachmentKey(containerID, ifname)]
}

// release gives the addresses of an attachment back. Its interface must be gone.
func (s *attachments) release(a *attachment) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byKey[a.key()] != a {
		return nil
	}
	if err := os.Remove(filepath.Join(s.dir, a.key())); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove record: %w", err)
	}
	delete(s.byKey, a.key())
	for _, addr := range a.Addresses {
		delete(s.taken, addr)
	}
	return nil
}

// all returns the attachments for which keep is true, in a stable order.
func (s *attachments) all(keep func(*attachment) bool) []*attachment {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*attachment
	for _, a := range s.byKey {
		if keep(a) {
			list = append(list, a)
		}
	}
	sort.Slice(list, func(i, j int) bool { return strings.Compare(list[i].key(), list[j].key()) < 0 })
	return list
}

func (s *attachments) withPorts() []*attachment {
	return s.all(func(a *attachment) bool { return len(a.Ports) > 0 })
}
