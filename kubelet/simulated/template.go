// SPDX-License-Identifier: Apache-2.0

package simulated

import (
	"bytes"
	"context"
	"fmt"
	"text/template"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/internal/simulatednode"
	"github.com/skiff-k8s/skiff/kubelet/node"
	"github.com/skiff-k8s/skiff/version"
)

// Template makes the Node with the number i, from 0 on. What it leaves open is filled in.
type Template func(i int) (*v1.Node, error)

// NodeLabel is on all simulated nodes.
const NodeLabel = simulatednode.Label

const defaultTemplate = `
metadata:
  name: simulated-{{.Index}}
status:
  capacity: {cpu: "32", memory: 256Gi, ephemeral-storage: 1Ti, pods: "110"}
`

// DefaultTemplate makes nodes of 32 CPUs and 256 GiB, with room for 110 pods.
func DefaultTemplate() Template {
	t, err := ParseTemplate(defaultTemplate)
	if err != nil {
		panic(err) // a constant
	}
	return t
}

// ParseTemplate makes a Template of a Node manifest in which {{.Index}} is the node's number, and
// {{mod .Index 3}} that number modulo 3, which spreads nodes over zones.
func ParseTemplate(text string) (Template, error) {
	t, err := template.New("node").Option("missingkey=error").Funcs(template.FuncMap{
		"mod": func(a, b int) (int, error) {
			if b <= 0 {
				return 0, fmt.Errorf("mod by %d", b)
			}
			return a % b, nil
		},
	}).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("parse the template of simulated nodes: %w", err)
	}
	return func(i int) (*v1.Node, error) {
		var manifest bytes.Buffer
		if err := t.Execute(&manifest, struct{ Index int }{i}); err != nil {
			return nil, fmt.Errorf("execute the template of simulated nodes: %w", err)
		}
		n := &v1.Node{}
		if err := yaml.UnmarshalStrict(manifest.Bytes(), n); err != nil {
			return nil, fmt.Errorf("the template of simulated nodes must make a Node: %w", err)
		}
		return n, nil
	}, nil
}

// member is one node of the fleet.
type member struct {
	index    int
	name, ip string
	want     *v1.Node
	object   *v1.Node              // as registered; nil before
	lease    *coordinationv1.Lease // as last written; nil before
}

// newMember completes what the template makes to what a kubelet would register.
func newMember(t Template, i int) (*member, error) {
	from, err := t(i)
	if err != nil {
		return nil, err
	}
	n := &member{index: i, name: from.Name, ip: address(1<<16 + uint32(i)%(1<<16-2))}
	if n.name == "" {
		n.name = fmt.Sprintf("simulated-%d", i)
	}
	capacity := from.Status.Capacity
	if capacity == nil {
		capacity = from.Status.Allocatable
	}
	cfg := node.Config{
		Name: n.name, Hostname: n.name, IPs: []string{n.ip}, Labels: from.Labels, Annotations: from.Annotations,
		Taints: from.Spec.Taints, MaxPods: capacity.Pods().Value(), KubeletVersion: version.GitVersion(),
	}
	n.want = cfg.Describe(node.Machine{
		CPUs: capacity.Cpu().Value(), Memory: capacity.Memory().Value(), Disk: capacity.StorageEphemeral().Value(),
		Kernel: "simulated", OSImage: "simulated", MachineID: n.name, SystemUUID: n.name, BootID: n.name,
	}, node.Usable(runtimeName+"://"+version.Skiff), time.Now())
	n.want.Spec.Unschedulable = from.Spec.Unschedulable
	n.want.Status.Images = from.Status.Images
	n.want.Labels[NodeLabel] = "true"
	overlay(n.want.Status.Capacity, capacity)
	overlay(n.want.Status.Allocatable, capacity)
	overlay(n.want.Status.Allocatable, from.Status.Allocatable)
	return n, nil
}

func overlay(on, by v1.ResourceList) {
	for name, quantity := range by {
		on[name] = quantity
	}
}

// register creates the Node, or brings the status of the one from an earlier start up to date.
func (n *member) register(ctx context.Context, client kubernetes.Interface) error {
	is, err := client.CoreV1().Nodes().Create(ctx, n.want, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		if is, err = client.CoreV1().Nodes().Get(ctx, n.name, metav1.GetOptions{}); err == nil {
			is.Status = n.want.Status
			is, err = client.CoreV1().Nodes().UpdateStatus(ctx, is, metav1.UpdateOptions{})
		}
	}
	if err != nil {
		return fmt.Errorf("register Node %s: %w", n.name, err)
	}
	n.object = is
	return nil
}

// renew is the node's heartbeat.
func (n *member) renew(ctx context.Context, client kubernetes.Interface) error {
	leases := client.CoordinationV1().Leases(v1.NamespaceNodeLease)
	next, err := n.lease, error(nil)
	if next == nil {
		next, err = leases.Create(ctx, n.newLease(), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // from an earlier start
			next, err = leases.Get(ctx, n.name, metav1.GetOptions{})
		}
	}
	if err == nil && time.Since(next.Spec.RenewTime.Time) > time.Second {
		next = next.DeepCopy()
		next.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
		next, err = leases.Update(ctx, next, metav1.UpdateOptions{})
	}
	if err != nil {
		n.lease = nil // read it again
		return fmt.Errorf("renew Lease %s: %w", n.name, err)
	}
	n.lease = next
	return nil
}

func (n *member) newLease() *coordinationv1.Lease {
	seconds := int32(40) // as every kubelet's
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: n.name, Namespace: v1.NamespaceNodeLease, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "Node", Name: n.name, UID: n.object.UID},
		}},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &n.name, LeaseDurationSeconds: &seconds, RenewTime: &metav1.MicroTime{Time: time.Now()}},
	}
}
