// SPDX-License-Identifier: Apache-2.0

// Package extender asks programs outside of the scheduler, by HTTP, about nodes that the plugins have found feasible: which are
// not, how good they are, and which pods to preempt; or has one of them bind the pod. A plugin in Go is faster and can do more;
// extenders are for what exists already.
//
// Reference: https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/#kubescheduler-config-k8s-io-v1-Extender
package extender

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/sets"
	restclient "k8s.io/client-go/rest"
	configv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// Name stands for all extenders among those that have rejected a pod.
const Name = "Extender"

const defaultTimeout = 5 * time.Second

// Extender is one of the programs.
type Extender struct {
	config  configv1.Extender
	client  *http.Client
	managed sets.Set[string] // resources; empty if the extender is asked about all pods
}

// New makes an extender as configured.
func New(config configv1.Extender) (*Extender, error) {
	if config.PrioritizeVerb != "" && config.Weight <= 0 {
		return nil, fmt.Errorf("extender %s: weight must be positive", config.URLPrefix)
	}
	e := &Extender{config: config, managed: sets.New[string]()}
	for _, r := range config.ManagedResources {
		if !framework.IsExtendedResource(v1.ResourceName(r.Name)) {
			return nil, fmt.Errorf("extender %s: managedResources: %q must be an extended resource", config.URLPrefix, r.Name)
		}
		e.managed.Insert(r.Name)
	}
	transport, err := newTransport(&config)
	if err != nil {
		return nil, fmt.Errorf("extender %s: %w", config.URLPrefix, err)
	}
	e.client = &http.Client{Transport: transport, Timeout: cmp.Or(config.HTTPTimeout.Duration, defaultTimeout)}
	return e, nil
}

func newTransport(config *configv1.Extender) (http.RoundTripper, error) {
	var c restclient.Config
	if t := config.TLSConfig; t != nil {
		c.TLSClientConfig = restclient.TLSClientConfig{
			Insecure: t.Insecure, ServerName: t.ServerName,
			CertFile: t.CertFile, KeyFile: t.KeyFile, CAFile: t.CAFile, CertData: t.CertData, KeyData: t.KeyData, CAData: t.CAData,
		}
	}
	if config.EnableHTTPS && c.CAFile == "" && len(c.CAData) == 0 {
		c.Insecure = true
	}
	tls, err := restclient.TLSConfigFor(&c)
	if err != nil {
		return nil, err
	}
	return utilnet.SetTransportDefaults(&http.Transport{TLSClientConfig: tls}), nil
}

// Sort puts extenders in the order in which they are asked: ignorable ones last. It refuses several that bind, or that manage the same
// resource.
func Sort(extenders []*Extender) error {
	binders, managed := 0, sets.New[string]()
	for _, e := range extenders {
		if e.Binds() {
			binders++
		}
		if both := managed.Intersection(e.managed); both.Len() > 0 {
			return fmt.Errorf("extenders: %v have several that manage them", sets.List(both))
		}
		managed = managed.Union(e.managed)
	}
	if binders > 1 {
		return errors.New("extenders: only one may bind")
	}
	slices.SortStableFunc(extenders, func(a, b *Extender) int {
		switch {
		case a.config.Ignorable == b.config.Ignorable:
			return 0
		case a.config.Ignorable:
			return 1
		}
		return -1
	})
	return nil
}

// String names the extender.
func (e *Extender) String() string { return e.config.URLPrefix }

// Ignorable says whether to go on without the extender when it fails.
func (e *Extender) Ignorable() bool { return e.config.Ignorable }

// Binds says whether the extender binds pods.
func (e *Extender) Binds() bool { return e.config.BindVerb != "" }

// Wants says whether the extender is to be asked about a pod: it has no resources of its own, or the pod uses one of them.
func (e *Extender) Wants(pod *v1.Pod) bool {
	if e.managed.Len() == 0 {
		return true
	}
	for _, containers := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			for _, list := range []v1.ResourceList{containers[i].Resources.Requests, containers[i].Resources.Limits} {
				for name := range list {
					if e.managed.Has(string(name)) {
						return true
					}
				}
			}
		}
	}
	return false
}

// Filter returns the nodes that are left, and why others are not, by name.
func (e *Extender) Filter(ctx context.Context, pod *v1.Pod, nodes []*framework.NodeInfo) (left []*framework.NodeInfo, rejected map[string]*framework.Status, err error) {
	if e.config.FilterVerb == "" {
		return nodes, nil, nil
	}
	var result extenderv1.ExtenderFilterResult
	if err := e.send(ctx, e.config.FilterVerb, e.args(pod, nodes), &result); err != nil {
		return nil, nil, err
	}
	if result.Error != "" {
		return nil, nil, errors.New(result.Error)
	}
	var names []string
	switch {
	case e.config.NodeCacheCapable && result.NodeNames != nil:
		names = *result.NodeNames
	case result.Nodes != nil:
		for i := range result.Nodes.Items {
			names = append(names, result.Nodes.Items[i].Name)
		}
	}
	for _, name := range names {
		i := slices.IndexFunc(nodes, func(n *framework.NodeInfo) bool { return n.Node.Name == name })
		if i < 0 {
			return nil, nil, fmt.Errorf("extender %q claims a filtered node %q which is not found in the input node list", e, name)
		}
		left = append(left, nodes[i])
	}
	rejected = make(map[string]*framework.Status)
	for name, reason := range result.FailedNodes {
		rejected[name] = framework.Reject(reason)
	}
	for name, reason := range result.FailedAndUnresolvableNodes {
		rejected[name] = framework.RejectForGood(reason)
	}
	return left, rejected, nil
}

// args are about nodes: their names for an extender that knows them by itself.
func (e *Extender) args(pod *v1.Pod, nodes []*framework.NodeInfo) *extenderv1.ExtenderArgs {
	args := &extenderv1.ExtenderArgs{Pod: pod}
	if e.config.NodeCacheCapable {
		names := make([]string, len(nodes))
		for i, n := range nodes {
			names[i] = n.Node.Name
		}
		args.NodeNames = &names
		return args
	}
	args.Nodes = &v1.NodeList{Items: make([]v1.Node, len(nodes))}
	for i, n := range nodes {
		args.Nodes.Items[i] = *n.Node
	}
	return args
}

// Score returns what nodes are worth to the extender, by name, in the measure of all plugins' scores added up; nil if it does not rate.
func (e *Extender) Score(ctx context.Context, pod *v1.Pod, nodes []*framework.NodeInfo) (map[string]int64, error) {
	if e.config.PrioritizeVerb == "" {
		return nil, nil
	}
	var result extenderv1.HostPriorityList
	if err := e.send(ctx, e.config.PrioritizeVerb, e.args(pod, nodes), &result); err != nil {
		return nil, err
	}
	scores := make(map[string]int64, len(result))
	for _, host := range result {
		scores[host.Host] += host.Score * e.config.Weight * (framework.MaxScore / extenderv1.MaxExtenderPriority)
	}
	return scores, nil
}

// Bind has the extender bind the pod.
func (e *Extender) Bind(ctx context.Context, pod *v1.Pod, nodeName string) error {
	var result extenderv1.ExtenderBindingResult
	args := &extenderv1.ExtenderBindingArgs{PodName: pod.Name, PodNamespace: pod.Namespace, PodUID: pod.UID, Node: nodeName}
	if err := e.send(ctx, e.config.BindVerb, args, &result); err != nil {
		return err
	}
	if result.Error != "" {
		return errors.New(result.Error)
	}
	return nil
}

// Preempt lets the extender choose among nodes, and among the pods to go on each.
func (e *Extender) Preempt(ctx context.Context, pod *v1.Pod, choice map[string]*framework.Victims) (map[string]*framework.Victims, error) {
	if e.config.PreemptVerb == "" {
		return choice, nil
	}
	var result extenderv1.ExtenderPreemptionResult
	if err := e.send(ctx, e.config.PreemptVerb, e.preemptionArgs(pod, choice), &result); err != nil {
		return nil, err
	}
	left := make(map[string]*framework.Victims)
	for name, chosen := range result.NodeNameToMetaVictims {
		from := choice[name]
		if from == nil {
			return nil, fmt.Errorf("extender %q claims a node %q to preempt on which is not found in its input", e, name)
		}
		if chosen == nil || len(chosen.Pods) == 0 {
			if e.Ignorable() {
				continue
			}
			return nil, fmt.Errorf("expected at least one victim pod on node %q", name)
		}
		victims := &framework.Victims{Node: from.Node, Violations: int(chosen.NumPDBViolations)}
		for _, meta := range chosen.Pods {
			victim := from.Node.PodByUID(types.UID(meta.UID))
			if victim == nil {
				return nil, fmt.Errorf("extender: %v claims to preempt pod (UID: %v) on node: %v, but the pod is not found on that node", e, meta.UID, name)
			}
			victims.Pods = append(victims.Pods, victim)
		}
		left[name] = victims
	}
	return left, nil
}

func (e *Extender) preemptionArgs(pod *v1.Pod, choice map[string]*framework.Victims) *extenderv1.ExtenderPreemptionArgs {
	args := &extenderv1.ExtenderPreemptionArgs{Pod: pod}
	if e.config.NodeCacheCapable {
		args.NodeNameToMetaVictims = make(map[string]*extenderv1.MetaVictims)
		for name, v := range choice {
			meta := &extenderv1.MetaVictims{Pods: []*extenderv1.MetaPod{}, NumPDBViolations: int64(v.Violations)}
			for _, p := range v.Pods {
				meta.Pods = append(meta.Pods, &extenderv1.MetaPod{UID: string(p.UID)})
			}
			args.NodeNameToMetaVictims[name] = meta
		}
		return args
	}
	args.NodeNameToVictims = make(map[string]*extenderv1.Victims)
	for name, v := range choice {
		args.NodeNameToVictims[name] = &extenderv1.Victims{Pods: v.Pods, NumPDBViolations: int64(v.Violations)}
	}
	return args
}

func (e *Extender) send(ctx context.Context, verb string, args, result any) error {
	body, err := json.Marshal(args)
	if err != nil {
		return err
	}
	url := strings.TrimRight(e.config.URLPrefix, "/") + "/" + verb
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("failed %v with extender at URL %v, code %v", verb, url, resp.StatusCode)
	}
	return json.NewDecoder(resp.Body).Decode(result)
}
