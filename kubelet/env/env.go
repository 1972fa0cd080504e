// SPDX-License-Identifier: Apache-2.0

// Package env says what environment a container gets.
//
// Builder.Environ puts together Service variables, envFrom and env; Expand and CommandAndArgs
// replace $(VAR) references; Field and Resource are the downward API, which the volumes use too.
// Nothing here has state. file.go reads files that earlier containers wrote; all other I/O is that of the Builder's dependencies.
// Reference: https://kubernetes.io/docs/tasks/inject-data-application/
package env

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// Objects gives the ConfigMaps and Secrets that a pod refers to; kubelet/objects does.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// Node says what the downward API tells about the node.
type Node struct {
	Allocatable func() (corev1.ResourceList, error)
	HostIPs     func() ([]string, error) // the node's addresses, the primary one first
	// Volumes are where those of a pod lie, by name.
	Volumes func(pod types.UID) map[string]string
}

// Builder makes environments.
type Builder struct {
	objects  Objects
	services Services
	node     Node
}

// New returns a Builder that reads from its arguments at each call.
func New(objects Objects, services Services, node Node) *Builder {
	return &Builder{objects: objects, services: services, node: node}
}

// Environ returns the variables of container, sorted by name. podIP and podIPs are the addresses that
// the runtime gave to the pod, which its status may not have yet. An error keeps the container waiting
// with reason CreateContainerConfigError.
func (b *Builder) Environ(ctx context.Context, pod *corev1.Pod, container *corev1.Container, podIP string, podIPs []string) ([]*runtimeapi.KeyValue, error) {
	if len(podIPs) == 0 && podIP != "" {
		podIPs = []string{podIP}
	}
	service, err := b.serviceVariables(pod)
	if err != nil {
		return nil, err
	}
	vars := map[string]string{}
	for i := range container.EnvFrom {
		if err := b.addFrom(ctx, pod.Namespace, &container.EnvFrom[i], vars); err != nil {
			return nil, err
		}
	}
	lookup := Lookup(vars, service)
	for i := range container.Env {
		e := &container.Env[i]
		value, ok := Expand(e.Value, lookup), true
		if e.Value == "" && e.ValueFrom != nil {
			if value, ok, err = b.valueFrom(ctx, pod, container, e.ValueFrom, podIPs); err != nil {
				return nil, err
			}
		}
		if ok {
			vars[e.Name] = value
		}
	}
	for name, value := range service {
		if _, own := vars[name]; !own {
			vars[name] = value
		}
	}
	return sorted(vars), nil
}

func sorted(vars map[string]string) []*runtimeapi.KeyValue {
	out := make([]*runtimeapi.KeyValue, 0, len(vars))
	for name, value := range vars {
		out = append(out, &runtimeapi.KeyValue{Key: name, Value: []byte(value)})
	}
	slices.SortFunc(out, func(a, b *runtimeapi.KeyValue) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// addFrom adds all keys of a ConfigMap or Secret to vars.
func (b *Builder) addFrom(ctx context.Context, namespace string, from *corev1.EnvFromSource, vars map[string]string) error {
	switch {
	case from.ConfigMapRef != nil:
		cm, err := b.objects.ConfigMap(ctx, namespace, from.ConfigMapRef.Name)
		if err != nil {
			return unlessOptional(err, from.ConfigMapRef.Optional)
		}
		for k, v := range cm.Data {
			vars[from.Prefix+k] = v
		}
	case from.SecretRef != nil:
		secret, err := b.objects.Secret(ctx, namespace, from.SecretRef.Name)
		if err != nil {
			return unlessOptional(err, from.SecretRef.Optional)
		}
		for k, v := range secret.Data {
			vars[from.Prefix+k] = string(v)
		}
	}
	return nil
}

// valueFrom returns the value of a variable; ok is false if the variable is optional and not there.
func (b *Builder) valueFrom(ctx context.Context, pod *corev1.Pod, container *corev1.Container, from *corev1.EnvVarSource, podIPs []string) (value string, ok bool, err error) {
	switch {
	case from.FieldRef != nil:
		value, err = b.field(pod, from.FieldRef, podIPs)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		allocatable, err := b.node.Allocatable()
		if err != nil {
			return "", false, err
		}
		value, err = Resource(pod, container, from.ResourceFieldRef, allocatable)
		return value, err == nil, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		cm, err := b.objects.ConfigMap(ctx, pod.Namespace, ref.Name)
		if err != nil {
			return "", false, unlessOptional(err, ref.Optional)
		}
		if value, ok = cm.Data[ref.Key]; !ok && !isTrue(ref.Optional) {
			err = fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return value, ok, err
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		secret, err := b.objects.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			return "", false, unlessOptional(err, ref.Optional)
		}
		data, ok := secret.Data[ref.Key]
		if !ok && !isTrue(ref.Optional) {
			err = fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return string(data), ok, err
	case from.FileKeyRef != nil:
		return b.fromFile(klog.FromContext(ctx), pod, from.FileKeyRef)
	}
	return "", true, nil
}

// field adds to Field what only the node and the runtime know.
func (b *Builder) field(pod *corev1.Pod, ref *corev1.ObjectFieldSelector, podIPs []string) (string, error) {
	switch ref.FieldPath {
	case "status.hostIP", "status.hostIPs":
		ips, err := b.node.HostIPs()
		if err != nil {
			return "", err
		}
		if len(ips) > 0 && ref.FieldPath == "status.hostIP" {
			ips = ips[:1]
		}
		return strings.Join(ips, ","), nil
	case "status.podIP":
		return strings.Join(podIPs[:min(1, len(podIPs))], ","), nil
	case "status.podIPs":
		return strings.Join(podIPs, ","), nil
	}
	return Field(pod, ref.FieldPath)
}

// unlessOptional drops a NotFound error about an optional source.
func unlessOptional(err error, optional *bool) error {
	if apierrors.IsNotFound(err) && isTrue(optional) {
		return nil
	}
	return err
}

func isTrue(b *bool) bool { return b != nil && *b }
