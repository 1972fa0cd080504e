// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"encoding/json"
	"hash/fnv"
	"maps"
	"strconv"

	v1 "k8s.io/api/core/v1"
	apitypes "k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubelet/pkg/types"
)

// The annotations by which a container is known again after a restart, and can be ended without its pod's spec.
const (
	annotationHash             = "io.kubernetes.container.hash"
	annotationRestartCount     = "io.kubernetes.container.restartCount"
	annotationMessagePath      = "io.kubernetes.container.terminationMessagePath"
	annotationMessagePolicy    = "io.kubernetes.container.terminationMessagePolicy"
	annotationPreStop          = "io.kubernetes.container.preStopHandler"
	annotationPorts            = "io.kubernetes.container.ports"
	annotationDeletionGrace    = "io.kubernetes.pod.deletionGracePeriod"
	annotationTerminationGrace = "io.kubernetes.pod.terminationGracePeriod"
)

// Hash identifies what of a container's spec cannot change while it runs: its name and image.
func Hash(c *v1.Container) string {
	h := fnv.New32a()
	_ = json.NewEncoder(h).Encode([]string{c.Name, c.Image}) // strings always encode
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

func podLabels(pod *v1.Pod) map[string]string {
	labels := map[string]string{}
	maps.Copy(labels, pod.Labels)
	labels[types.KubernetesPodNameLabel] = pod.Name
	labels[types.KubernetesPodNamespaceLabel] = pod.Namespace
	labels[types.KubernetesPodUIDLabel] = string(pod.UID)
	return labels
}

func containerLabels(pod *v1.Pod, c *v1.Container) map[string]string {
	return map[string]string{
		types.KubernetesPodNameLabel:       pod.Name,
		types.KubernetesPodNamespaceLabel:  pod.Namespace,
		types.KubernetesPodUIDLabel:        string(pod.UID),
		types.KubernetesContainerNameLabel: c.Name,
	}
}

// Owner says whose container it is, by its labels.
func Owner(c *runtimeapi.Container) (pod apitypes.UID, name string) {
	return apitypes.UID(c.GetLabels()[types.KubernetesPodUIDLabel]), c.GetLabels()[types.KubernetesContainerNameLabel]
}

func containerAnnotations(pod *v1.Pod, c *v1.Container, restartCount int) map[string]string {
	a := map[string]string{
		annotationHash:          Hash(c),
		annotationRestartCount:  strconv.Itoa(restartCount),
		annotationMessagePath:   c.TerminationMessagePath,
		annotationMessagePolicy: string(c.TerminationMessagePolicy),
	}
	if grace := pod.DeletionGracePeriodSeconds; grace != nil {
		a[annotationDeletionGrace] = strconv.FormatInt(*grace, 10)
	}
	if grace := pod.Spec.TerminationGracePeriodSeconds; grace != nil {
		a[annotationTerminationGrace] = strconv.FormatInt(*grace, 10)
	}
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		a[annotationPreStop] = jsonText(c.Lifecycle.PreStop)
	}
	if len(c.Ports) > 0 {
		a[annotationPorts] = jsonText(c.Ports)
	}
	return a
}

func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}

// specFromAnnotations restores as much of a pod and container as ending the container needs. It serves
// containers whose pod is gone from the API.
func specFromAnnotations(c *Container) (*v1.Pod, *v1.Container) {
	pod := &v1.Pod{}
	pod.Name, pod.Namespace = c.Labels[types.KubernetesPodNameLabel], c.Labels[types.KubernetesPodNamespaceLabel]
	pod.UID = c.PodUID()
	pod.DeletionGracePeriodSeconds = secondsFrom(c.Annotations[annotationDeletionGrace])
	pod.Spec.TerminationGracePeriodSeconds = secondsFrom(c.Annotations[annotationTerminationGrace])

	container := &v1.Container{Name: c.Name, TerminationMessagePath: c.Annotations[annotationMessagePath]}
	var preStop v1.LifecycleHandler
	if json.Unmarshal([]byte(c.Annotations[annotationPreStop]), &preStop) == nil {
		container.Lifecycle = &v1.Lifecycle{PreStop: &preStop}
	}
	_ = json.Unmarshal([]byte(c.Annotations[annotationPorts]), &container.Ports) // absent: no ports
	return pod, container
}

func secondsFrom(text string) *int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return nil
	}
	return &n
}
