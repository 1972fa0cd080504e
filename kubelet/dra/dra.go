// SPDX-License-Identifier: Apache-2.0

// Package dra has the drivers of dynamic resource allocation prepare what a pod's ResourceClaims allocate to it.
//
// Drivers are plugins of the kubelet (v1.DRAPlugin, v1beta1.DRAPlugin); drivers.go keeps them. A claim is prepared before the first pod that uses it starts, and
// unprepared when the last one on this node has ended. What was prepared lies in a file, so that a new process neither
// prepares twice nor forgets to unprepare. A driver that stays away loses its ResourceSlices. health.go follows what
// drivers say about the health of their devices.
// Reference: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
package dra

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	api "k8s.io/kubelet/pkg/apis/dra/v1"

	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

const callTimeout = 45 * time.Second

// Manager knows the drivers of a node and what they have prepared.
type Manager struct {
	client     kubernetes.Interface
	node       string
	file       string
	healthFile string
	counts     *metrics.Metrics
	changed    func()          // a driver came: what waits for one may try again
	wake       func(types.UID) // the status of a pod may be another

	hearAgain time.Duration
	streams   sync.WaitGroup // of health

	mu       sync.Mutex
	closed   bool                   // guarded by mu
	drivers  map[string][]*instance // guarded by mu: by name, in the order in which they registered
	restored map[string]*report     // guarded by mu: what drivers told an earlier process, until they tell this one
	wipes    map[string]wipe        // guarded by mu: by driver
	claims   map[types.UID]*claim   // guarded by mu, and so are their exported fields

	wiping chan struct{} // wipes has changed
}

// claim is one that is, or may be, prepared on this node.
type claim struct {
	work sync.Mutex // one call about it at a time

	Namespace string      `json:"namespace"`
	Name      string      `json:"name"`
	UID       types.UID   `json:"uid"`
	Drivers   []string    `json:"drivers"`
	Pods      []types.UID `json:"pods"`
	Prepared  bool        `json:"prepared"`
	Devices   []Device    `json:"devices,omitempty"`
}

// Device is one that was prepared.
type Device struct {
	Driver   string   `json:"driver"`
	Pool     string   `json:"pool"`
	Name     string   `json:"name"`
	Share    *string  `json:"share,omitempty"`
	Requests []string `json:"requests,omitempty"` // that it satisfies
	CDI      []string `json:"cdi,omitempty"`      // its names for the runtime
}

// New makes a Manager in the kubelet's root. changed and wake, which is told of pods whose devices have another health, must not block.
func New(client kubernetes.Interface, node, root string, counts *metrics.Metrics, changed func(), wake func(types.UID)) *Manager {
	return &Manager{
		client: client, node: node, file: filepath.Join(root, "dra.json"), healthFile: filepath.Join(root, "dra_health_state"), counts: counts, changed: changed, wake: wake, hearAgain: hearAgain,
		drivers: map[string][]*instance{}, restored: map[string]*report{}, wipes: map[string]wipe{}, claims: map[types.UID]*claim{}, wiping: make(chan struct{}, 1),
	}
}

// Close ends the streams of drivers; none begins after that. Calls that are under way come to their end, and what
// drivers told is for the next process.
func (m *Manager) Close() {
	m.mu.Lock()
	if !m.closed {
		m.saveHealth()
	}
	m.closed = true
	for _, reports := range m.reports() {
		for _, r := range reports {
			if r.stale != nil {
				r.stale.Stop()
			}
		}
	}
	for _, instances := range m.drivers {
		for _, i := range instances {
			i.unhear()
		}
	}
	m.mu.Unlock()
	m.streams.Wait()
}

// Prepare makes the claims of a pod ready for its containers. It may be called again at any time.
func (m *Manager) Prepare(ctx context.Context, pod *v1.Pod) error {
	names, err := claimsOf(pod)
	if err != nil || len(names) == 0 {
		return err
	}
	if m.ready(pod, names) {
		return nil
	}
	began := time.Now()
	err = m.prepareAll(ctx, pod, names)
	m.measure("PrepareResources", began, err)
	return err
}

// measure notes how long something was done to all claims of a pod, which began then.
func (m *Manager) measure(operation string, began time.Time, err error) {
	m.counts.DRAOperations.WithLabelValues(operation, strconv.FormatBool(err != nil)).Observe(time.Since(began).Seconds())
}

func (m *Manager) prepareAll(ctx context.Context, pod *v1.Pod, names []claimName) error {
	var mine []*claim
	for _, n := range names { // all are looked at before the first is touched, so that a pod that cannot run leaves nothing
		c, err := m.find(ctx, pod, n)
		if err != nil {
			return err
		}
		mine = append(mine, c)
	}
	for _, c := range mine {
		if err := m.prepare(ctx, pod, c); err != nil {
			return err
		}
	}
	return nil
}

// claimName is one of a pod's claims: the name that containers use and that of the object.
type claimName struct {
	ref, object string
	owned       bool // it was made for the pod
}

// claimsOf lists the claims that a pod has; a reference for which none was made is left out.
func claimsOf(pod *v1.Pod) ([]claimName, error) {
	var names []claimName
	for _, ref := range pod.Spec.ResourceClaims {
		if ref.ResourceClaimName != nil {
			names = append(names, claimName{ref: ref.Name, object: *ref.ResourceClaimName})
			continue
		}
		i := slices.IndexFunc(pod.Status.ResourceClaimStatuses, func(s v1.PodResourceClaimStatus) bool { return s.Name == ref.Name })
		if i < 0 {
			return nil, fmt.Errorf("pod \"%s/%s\": ResourceClaim for %s not created yet", pod.Namespace, pod.Name, ref.Name)
		}
		if made := pod.Status.ResourceClaimStatuses[i].ResourceClaimName; made != nil {
			names = append(names, claimName{ref.Name, *made, true})
		}
	}
	if extended := pod.Status.ExtendedResourceClaimStatus; extended != nil {
		names = append(names, claimName{object: extended.ResourceClaimName})
	}
	return names, nil
}

// ready says that all was prepared for the pod before.
func (m *Manager) ready(pod *v1.Pod, names []claimName) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range names {
		c := m.byName(pod.Namespace, n.object)
		if c == nil || !c.Prepared || !slices.Contains(c.Pods, pod.UID) {
			return false
		}
	}
	return true
}

// byName finds a claim. The caller holds mu.
func (m *Manager) byName(namespace, name string) *claim {
	for _, c := range m.claims {
		if c.Namespace == namespace && c.Name == name {
			return c
		}
	}
	return nil
}

// find reads a claim and checks that the pod may use it and that its drivers are there.
func (m *Manager) find(ctx context.Context, pod *v1.Pod, n claimName) (*claim, error) {
	object, err := m.client.ResourceV1().ResourceClaims(pod.Namespace).Get(ctx, n.object, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("fetch ResourceClaim %s: %w", n.object, err)
	}
	if n.owned && !metav1.IsControlledBy(object, pod) {
		return nil, fmt.Errorf("ResourceClaim %s/%s was not created for pod %s/%s (pod is not owner)", object.Namespace, object.Name, pod.Namespace, pod.Name)
	}
	if !slices.ContainsFunc(object.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID == pod.UID }) {
		return nil, fmt.Errorf("pod %s (%s) is not allowed to use ResourceClaim %s (%s)", pod.Name, pod.UID, object.Name, object.UID)
	}
	if object.Status.Allocation == nil {
		return nil, fmt.Errorf("ResourceClaim %s: not allocated", object.Name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var drivers []string
	for _, result := range object.Status.Allocation.Devices.Results {
		if _, err := m.current(result.Driver); err != nil {
			return nil, err
		}
		if !slices.Contains(drivers, result.Driver) {
			drivers = append(drivers, result.Driver)
		}
	}
	c := m.byName(object.Namespace, object.Name)
	if c != nil && c.UID != object.UID {
		return nil, fmt.Errorf("old ResourceClaim with same name %s and different UID %s still exists (previous pod force-deleted?!)", c.Name, c.UID)
	}
	if c == nil {
		c = &claim{Namespace: object.Namespace, Name: object.Name, UID: object.UID, Drivers: drivers}
	}
	return c, nil
}

// prepare notes that the pod uses the claim, and then has the drivers prepare it, unless they have.
func (m *Manager) prepare(ctx context.Context, pod *v1.Pod, c *claim) error {
	m.mu.Lock()
	if now := m.claims[c.UID]; now != nil {
		c = now // another pod was faster
	}
	m.mu.Unlock()
	c.work.Lock()
	defer c.work.Unlock()
	m.mu.Lock()
	m.claims[c.UID] = c
	if !slices.Contains(c.Pods, pod.UID) {
		c.Pods = append(c.Pods, pod.UID)
	}
	prepared := c.Prepared
	err := m.save()
	m.mu.Unlock()
	if err != nil || prepared {
		return err
	}
	var devices []Device
	for _, name := range c.Drivers {
		more, err := m.prepareBy(ctx, name, c)
		if err != nil {
			return err
		}
		devices = append(devices, more...)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c.Devices, c.Prepared = devices, true
	return m.save()
}

func (c *claim) message() *api.Claim {
	return &api.Claim{Namespace: c.Namespace, Uid: string(c.UID), Name: c.Name}
}

func (m *Manager) prepareBy(ctx context.Context, name string, c *claim) ([]Device, error) {
	plugin, err := m.plugin(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := plugin.NodePrepareResources(ctx, &api.NodePrepareResourcesRequest{Claims: []*api.Claim{c.message()}})
	if err != nil {
		return nil, fmt.Errorf("NodePrepareResources: %w", err)
	}
	result := resp.GetClaims()[string(c.UID)]
	if result == nil {
		return nil, errors.New("NodePrepareResources skipped 1 ResourceClaims")
	}
	if result.GetError() != "" {
		return nil, fmt.Errorf("NodePrepareResources failed for ResourceClaim %s: %s", c.Name, result.GetError())
	}
	var devices []Device
	for _, d := range result.GetDevices() {
		devices = append(devices, Device{Driver: name, Pool: d.PoolName, Name: d.DeviceName, Share: d.ShareId, Requests: d.RequestNames, CDI: d.CdiDeviceIds})
	}
	return devices, nil
}

// Unprepare gives back what only this pod used, once its containers have ended.
func (m *Manager) Unprepare(ctx context.Context, pod types.UID) error {
	m.mu.Lock()
	var used []*claim
	for _, c := range m.claims {
		if slices.Contains(c.Pods, pod) {
			used = append(used, c)
		}
	}
	m.mu.Unlock()
	if len(used) == 0 {
		return nil
	}
	began := time.Now()
	var errs []error
	for _, c := range used {
		errs = append(errs, m.release(ctx, pod, c))
	}
	err := errors.Join(errs...)
	m.measure("UnprepareResources", began, err)
	return err
}

func (m *Manager) release(ctx context.Context, pod types.UID, c *claim) error {
	c.work.Lock()
	defer c.work.Unlock()
	m.mu.Lock()
	others := slices.DeleteFunc(slices.Clone(c.Pods), func(uid types.UID) bool { return uid == pod })
	m.mu.Unlock()
	if len(others) == 0 {
		for _, name := range c.Drivers {
			if err := m.unprepareBy(ctx, name, c); err != nil {
				return err
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c.Pods = others
	if len(others) == 0 {
		c.Prepared = false
		delete(m.claims, c.UID)
	}
	return m.save()
}

func (m *Manager) unprepareBy(ctx context.Context, name string, c *claim) error {
	plugin, err := m.plugin(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := plugin.NodeUnprepareResources(ctx, &api.NodeUnprepareResourcesRequest{Claims: []*api.Claim{c.message()}})
	if err != nil {
		return fmt.Errorf("NodeUnprepareResources: %w", err)
	}
	result := resp.GetClaims()[string(c.UID)]
	if result == nil {
		return errors.New("NodeUnprepareResources skipped 1 ResourceClaims")
	}
	if result.GetError() != "" {
		return fmt.Errorf("NodeUnprepareResources failed for ResourceClaim %s: %s", c.Name, result.GetError())
	}
	return nil
}

// Claim is one that a container uses, with the devices that it gets of it.
type Claim struct {
	Namespace, Name string
	Devices         []Device
}

// Of lists what was prepared for a container.
func (m *Manager) Of(pod *v1.Pod, c *v1.Container) []Claim {
	names, err := claimsOf(pod)
	if err != nil || len(names) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Claim
	for _, n := range names {
		prepared := m.byName(pod.Namespace, n.object)
		if prepared == nil {
			continue
		}
		devices := chosen(pod, c, n, prepared.Devices)
		if len(devices) > 0 {
			all = append(all, Claim{prepared.Namespace, prepared.Name, devices})
		}
	}
	return all
}

// chosen are the devices of a claim that a container refers to, as a whole or by request.
func chosen(pod *v1.Pod, c *v1.Container, n claimName, devices []Device) []Device {
	var all []Device
	for _, d := range devices {
		if n.ref == "" && extendedFor(pod, c, d) || slices.ContainsFunc(c.Resources.Claims, func(r v1.ResourceClaim) bool {
			return r.Name == n.ref && d.serves(r.Request)
		}) {
			all = append(all, d)
		}
	}
	return all
}

// serves says whether a device is of those that a request of its claim has; without one all are.
func (d Device) serves(request string) bool {
	return request == "" || len(d.Requests) == 0 || slices.ContainsFunc(d.Requests, func(of string) bool {
		base, _, _ := strings.Cut(of, "/") // of a subrequest
		return of == request || base == request
	})
}

// extendedFor says whether a device stands for an extended resource that a container asks for.
func extendedFor(pod *v1.Pod, c *v1.Container, d Device) bool {
	for _, mapping := range pod.Status.ExtendedResourceClaimStatus.RequestMappings {
		if mapping.ContainerName == c.Name && slices.Contains(d.Requests, mapping.RequestName) {
			return true
		}
	}
	return false
}
