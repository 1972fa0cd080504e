// SPDX-License-Identifier: Apache-2.0

// Package metrics serves metrics.k8s.io: what nodes and pods use right now, for kubectl top and for autoscalers.
//
// Nothing is stored and nothing runs: who asks makes the kubelets be asked (usage.go), unless that was done a moment
// ago. A user who installs another source, such as metrics-server, registers it in place of this one.
// Reference: https://kubernetes.io/docs/tasks/debug/debug-cluster/resource-metrics-pipeline/
package metrics

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/metrics/pkg/apis/metrics"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// AddToScheme adds both versions and the types that they have in common.
func AddToScheme(scheme *runtime.Scheme) error {
	for _, add := range []func(*runtime.Scheme) error{metrics.AddToScheme, metricsv1.AddToScheme, metricsv1beta1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	return scheme.SetVersionPriority(metricsv1.SchemeGroupVersion, metricsv1beta1.SchemeGroupVersion)
}

// Deps is what the resources are made from.
type Deps struct {
	Nodes corelisters.NodeLister
	Pods  corelisters.PodLister
	Usage *Usage
}

// Storages serve the resources of both versions.
func Storages(d Deps) map[string]genericrest.Storage {
	return map[string]genericrest.Storage{
		"nodes": &nodeMetrics{TableConvertor: rest.NewTable(nodeColumns()), Deps: d},
		"pods":  &podMetrics{TableConvertor: rest.NewTable(podColumns()), Deps: d},
	}
}

// used is what the nodes use that are Ready: others would let everybody wait for an answer that does not come.
func (d *Deps) used(ctx context.Context, nodes []string) map[string]used {
	return d.Usage.of(ctx, slices.DeleteFunc(nodes, func(name string) bool {
		node, err := d.Nodes.Get(name)
		return err != nil || !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
	}))
}

type nodeMetrics struct {
	genericrest.TableConvertor
	Deps
}

var (
	_ genericrest.Lister               = &nodeMetrics{}
	_ genericrest.Getter               = &nodeMetrics{}
	_ genericrest.Scoper               = &nodeMetrics{}
	_ genericrest.KindProvider         = &nodeMetrics{}
	_ genericrest.SingularNameProvider = &nodeMetrics{}
)

func (m *nodeMetrics) New() runtime.Object     { return &metrics.NodeMetrics{} }
func (m *nodeMetrics) NewList() runtime.Object { return &metrics.NodeMetricsList{} }
func (m *nodeMetrics) Destroy()                {}
func (m *nodeMetrics) NamespaceScoped() bool   { return false }
func (m *nodeMetrics) Kind() string            { return "NodeMetrics" }
func (m *nodeMetrics) GetSingularName() string { return "" }

func (m *nodeMetrics) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	node, err := m.Nodes.Get(name)
	if err != nil {
		return nil, err
	}
	if found := m.of(ctx, node); len(found) > 0 {
		return &found[0], nil
	}
	return nil, apierrors.NewNotFound(metrics.Resource("nodes"), name)
}

func (m *nodeMetrics) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	wanted := predicate(options)
	nodes, err := m.Nodes.List(wanted.Label)
	if err != nil {
		return nil, err
	}
	nodes = slices.DeleteFunc(nodes, func(n *corev1.Node) bool { return !wanted.Field.Matches(nameFields(n)) })
	return &metrics.NodeMetricsList{Items: m.of(ctx, nodes...)}, nil
}

// of returns the metrics of those nodes that tell.
func (m *nodeMetrics) of(ctx context.Context, nodes ...*corev1.Node) []metrics.NodeMetrics {
	used := m.used(ctx, names(nodes))
	out := []metrics.NodeMetrics{}
	for _, node := range nodes {
		u, ok := used[node.Name]
		if !ok || u.node == nil {
			continue
		}
		out = append(out, metrics.NodeMetrics{
			ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: node.Labels, CreationTimestamp: metav1.Now()},
			Timestamp:  metav1.NewTime(u.node.at), Window: metav1.Duration{Duration: u.node.window}, Usage: u.node.list(),
		})
	}
	slices.SortFunc(out, func(a, b metrics.NodeMetrics) int { return strings.Compare(a.Name, b.Name) })
	return out
}

type podMetrics struct {
	genericrest.TableConvertor
	Deps
}

var (
	_ genericrest.Lister               = &podMetrics{}
	_ genericrest.Getter               = &podMetrics{}
	_ genericrest.Scoper               = &podMetrics{}
	_ genericrest.KindProvider         = &podMetrics{}
	_ genericrest.SingularNameProvider = &podMetrics{}
)

func (m *podMetrics) New() runtime.Object     { return &metrics.PodMetrics{} }
func (m *podMetrics) NewList() runtime.Object { return &metrics.PodMetricsList{} }
func (m *podMetrics) Destroy()                {}
func (m *podMetrics) NamespaceScoped() bool   { return true }
func (m *podMetrics) Kind() string            { return "PodMetrics" }
func (m *podMetrics) GetSingularName() string { return "" }

func (m *podMetrics) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	pod, err := m.Pods.Pods(request.NamespaceValue(ctx)).Get(name)
	if err != nil {
		return nil, err
	}
	if found := m.of(ctx, pod); len(found) > 0 {
		return &found[0], nil
	}
	return nil, apierrors.NewNotFound(metrics.Resource("pods"), pod.Namespace+"/"+name)
}

func (m *podMetrics) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	wanted := predicate(options)
	pods, err := m.Pods.Pods(request.NamespaceValue(ctx)).List(wanted.Label)
	if err != nil {
		return nil, err
	}
	pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return !wanted.Field.Matches(nameFields(p)) })
	return &metrics.PodMetricsList{Items: m.of(ctx, pods...)}, nil
}

// of returns the metrics of those pods that run and whose nodes tell.
func (m *podMetrics) of(ctx context.Context, pods ...*corev1.Pod) []metrics.PodMetrics {
	var nodes []string
	for _, pod := range pods {
		if pod.Spec.NodeName != "" && pod.Status.Phase == corev1.PodRunning {
			nodes = append(nodes, pod.Spec.NodeName)
		}
	}
	slices.Sort(nodes)
	used := m.used(ctx, slices.Compact(nodes))
	out := []metrics.PodMetrics{}
	for _, pod := range pods {
		containers := used[pod.Spec.NodeName].pods[pod.UID]
		if len(containers) == 0 || pod.Status.Phase != corev1.PodRunning {
			continue
		}
		p := metrics.PodMetrics{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, Labels: pod.Labels, CreationTimestamp: metav1.Now()}}
		for _, c := range containers {
			if at := metav1.NewTime(c.at); p.Timestamp.IsZero() || at.Before(&p.Timestamp) {
				p.Timestamp, p.Window = at, metav1.Duration{Duration: c.window}
			}
			p.Containers = append(p.Containers, metrics.ContainerMetrics{Name: c.name, Usage: c.list()})
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b metrics.PodMetrics) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return out
}

func names(nodes []*corev1.Node) []string {
	out := make([]string, len(nodes))
	for i, node := range nodes {
		out[i] = node.Name
	}
	return out
}

// predicate is what a list is about.
func predicate(options *internalversion.ListOptions) storage.SelectionPredicate {
	p := storage.SelectionPredicate{Label: labels.Everything(), Field: fields.Everything()}
	if options != nil && options.LabelSelector != nil {
		p.Label = options.LabelSelector
	}
	if options != nil && options.FieldSelector != nil {
		p.Field = options.FieldSelector
	}
	return p
}

func nameFields(o metav1.Object) fields.Set {
	return fields.Set{"metadata.name": o.GetName(), "metadata.namespace": o.GetNamespace()}
}

func nodeColumns() []rest.Column[*metrics.NodeMetrics] {
	type N = *metrics.NodeMetrics
	used := func(name corev1.ResourceName) func(N) string {
		return func(n N) string {
			q := n.Usage[name]
			return q.String()
		}
	}
	return []rest.Column[N]{
		rest.Name[N](),
		rest.Text("cpu", "", used(corev1.ResourceCPU)),
		rest.Text("memory", "", used(corev1.ResourceMemory)),
		rest.Text("window", "", func(n N) string { return n.Window.Duration.String() }),
	}
}

func podColumns() []rest.Column[*metrics.PodMetrics] {
	type P = *metrics.PodMetrics
	used := func(name corev1.ResourceName) func(P) string {
		return func(p P) string {
			total := p.Containers[0].Usage[name].DeepCopy()
			for _, c := range p.Containers[1:] {
				total.Add(c.Usage[name])
			}
			return total.String()
		}
	}
	return []rest.Column[P]{
		rest.Name[P](),
		rest.Text("cpu", "", used(corev1.ResourceCPU)),
		rest.Text("memory", "", used(corev1.ResourceMemory)),
		rest.Text("window", "", func(p P) string { return p.Window.Duration.String() }),
	}
}
