// SPDX-License-Identifier: Apache-2.0

package statefulset

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/controllers/podcontrol"
)

// noOrdinal is the number of a pod whose name has none.
const noOrdinal = -1

// parseName splits the name of a pod into the set's and the pod's number.
func parseName(pod string) (set string, ordinal int) {
	dash := strings.LastIndexByte(pod, '-')
	if dash < 0 {
		return "", noOrdinal
	}
	n, err := strconv.ParseUint(pod[dash+1:], 10, 31)
	if err != nil {
		return "", noOrdinal
	}
	return pod[:dash], int(n)
}

func ordinalOf(pod *corev1.Pod) int {
	_, ordinal := parseName(pod.Name)
	return ordinal
}

func podName(set *appsv1.StatefulSet, ordinal int) string {
	return fmt.Sprintf("%s-%d", set.Name, ordinal)
}

// firstOrdinal is the number of the first pod.
func firstOrdinal(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

// wanted tells whether the set wants a pod of that number.
func wanted(set *appsv1.StatefulSet, ordinal int) bool {
	first := firstOrdinal(set)
	return ordinal >= first && ordinal < first+int(*set.Spec.Replicas)
}

// newPod makes a pod of the set from a template of the given revision.
func newPod(set *appsv1.StatefulSet, template *corev1.PodTemplateSpec, revision string, ordinal int) *corev1.Pod {
	pod := podcontrol.FromTemplate(template, set, metav1.NewControllerRef(set, kind))
	pod.Name = podName(set, ordinal)
	identify(pod)
	pod.Labels[appsv1.StatefulSetRevisionLabel] = revision
	pod.Spec.Hostname = pod.Name
	pod.Spec.Subdomain = set.Spec.ServiceName
	mountClaims(set, pod)
	return pod
}

// identify gives a pod the labels that say which one it is.
func identify(pod *corev1.Pod) {
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.StatefulSetPodNameLabel] = pod.Name
	pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinalOf(pod))
}

func identified(set *appsv1.StatefulSet, pod *corev1.Pod) bool {
	return pod.Name == podName(set, ordinalOf(pod)) && pod.Labels[appsv1.StatefulSetPodNameLabel] == pod.Name
}

// mountClaims gives a pod the volumes of its claims, in place of volumes of the same name.
func mountClaims(set *appsv1.StatefulSet, pod *corev1.Pod) {
	var volumes []corev1.Volume
	for _, template := range set.Spec.VolumeClaimTemplates {
		volumes = append(volumes, corev1.Volume{Name: template.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(set, &template, ordinalOf(pod))},
		}})
	}
	for _, volume := range pod.Spec.Volumes {
		if !slices.ContainsFunc(volumes, func(v corev1.Volume) bool { return v.Name == volume.Name }) {
			volumes = append(volumes, volume)
		}
	}
	pod.Spec.Volumes = volumes
}

func claimsMounted(set *appsv1.StatefulSet, pod *corev1.Pod) bool {
	for _, template := range set.Spec.VolumeClaimTemplates {
		mounted := slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Name == template.Name && v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claimName(set, &template, ordinalOf(pod))
		})
		if !mounted {
			return false
		}
	}
	return true
}

// created tells whether the pod exists: the API server gives each a phase.
func created(pod *corev1.Pod) bool { return pod.Status.Phase != "" }

func runningAndReady(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && podcontrol.Ready(pod)
}

// unavailable tells whether the pod does not serve, or soon will not.
func unavailable(pod *corev1.Pod, minReadySeconds int32, now time.Time) bool {
	return pod.DeletionTimestamp != nil || !podcontrol.Available(pod, minReadySeconds, now)
}

func revisionOf(pod *corev1.Pod) string { return pod.Labels[appsv1.StatefulSetRevisionLabel] }

// create creates a pod, after its claims.
func (r *rollout) create(ctx context.Context, pod *corev1.Pod) error {
	err := r.createClaims(ctx, pod)
	if err == nil {
		_, err = r.client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return err // the cache does not have it yet
		}
	}
	r.tell("Create", pod, err)
	return err
}

// delete deletes a pod. It names the UID: a pod of the same name may have taken its place.
func (r *rollout) delete(ctx context.Context, pod *corev1.Pod) error {
	err := r.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if apierrors.IsNotFound(err) {
		err = nil
	}
	if apierrors.IsConflict(err) {
		return err
	}
	r.tell("Delete", pod, err)
	return err
}

// repair makes a pod and its claims as they should be.
func (r *rollout) repair(ctx context.Context, pod *corev1.Pod) error {
	err := r.repairQuietly(ctx, pod)
	if apierrors.IsConflict(err) {
		return err
	}
	r.tell("Update", pod, err)
	return err
}

func (r *rollout) repairQuietly(ctx context.Context, pod *corev1.Pod) error {
	if err := r.ownClaims(ctx, pod); err != nil {
		return err
	}
	mounted := claimsMounted(r.set, pod)
	if mounted && identified(r.set, pod) {
		return nil
	}
	if !mounted {
		if err := r.createClaims(ctx, pod); err != nil {
			return err
		}
	}
	pod = pod.DeepCopy()
	identify(pod)
	mountClaims(r.set, pod)
	_, err := r.client.CoreV1().Pods(pod.Namespace).Update(ctx, pod, metav1.UpdateOptions{})
	return err
}

// tell records an event about what was done to a pod.
func (r *rollout) tell(verb string, pod *corev1.Pod, err error) {
	if err != nil {
		r.events.Eventf(r.set, corev1.EventTypeWarning, "Failed"+verb, "%s Pod %s in StatefulSet %s failed error: %v", verb, pod.Name, r.set.Name, err)
		return
	}
	r.events.Eventf(r.set, corev1.EventTypeNormal, "Successful"+verb, "%s Pod %s in StatefulSet %s successful", verb, pod.Name, r.set.Name)
}
