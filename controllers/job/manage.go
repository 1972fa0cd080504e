// SPDX-License-Identifier: Apache-2.0

package job

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

const indexVariable = "JOB_COMPLETION_INDEX"

// maxGeneratedPrefix is how long metadata.generateName may be so that it is not cut off: a label less the suffix.
const maxGeneratedPrefix = 63 - 5

// manage deletes pods that are too many or else creates those that are missing.
func (s *state) manage(ctx context.Context) error {
	if doomed := s.tooMany(); len(doomed) > 0 {
		s.action = deletes
		keys := make([]types.NamespacedName, len(doomed))
		for i, pod := range doomed {
			keys[i] = reconcile.KeyOf(pod)
		}
		s.expectations.ExpectDeletions(s.job.UID, keys...)
		_, err := s.deletePods(ctx, doomed, removeFinalizer)
		return err
	}
	if suspended(s.job) {
		return nil
	}
	missing := s.wanted() - int(s.running)
	if replacesOnlyEnded(s.job) {
		missing -= int(s.terminating)
	}
	return s.create(ctx, min(missing, burst))
}

// wanted is how many pods should be active.
func (s *state) wanted() int {
	parallelism := int(ptr.Deref(s.job.Spec.Parallelism, 1))
	switch {
	case suspended(s.job):
		return 0
	case s.job.Spec.Completions != nil:
		return max(0, min(parallelism, int(*s.job.Spec.Completions)-s.succeeded))
	case s.succeeded > 0: // what runs may end, and nothing new starts
		return int(s.running)
	}
	return parallelism
}

// tooMany returns the active pods to delete: those with wrong indexes, and the least valuable as far as there are too many.
func (s *state) tooMany() []*corev1.Pod {
	atLeast := max(0, len(s.active)-s.wanted())
	rest := slices.Clone(s.active)
	var doomed []*corev1.Pod
	if indexed(s.job) {
		doomed, rest = surplus(s.active, int(*s.job.Spec.Completions), s.now)
	}
	if more := atLeast - len(doomed); more > 0 {
		podcontrol.SortForDeletion(rest, nil, s.now)
		doomed = append(doomed, rest[:more]...)
	}
	if suspended(s.job) {
		return doomed
	}
	return doomed[:min(len(doomed), burst)]
}

// create creates n pods, or as many as the back-off allows.
func (s *state) create(ctx context.Context, n int) error {
	if n <= 0 {
		return nil
	}
	perIndex := s.job.Spec.BackoffLimitPerIndex != nil && indexed(s.job)
	if wait := s.failures.left(s.now); wait > 0 && !perIndex {
		s.lookAgain(wait)
		return nil
	}
	numbers := slices.Repeat([]int{noIndex}, n)
	if indexed(s.job) {
		numbers = s.pendingIndexes(n)
	}
	if perIndex {
		numbers = s.startable(numbers)
	}

	n = len(numbers)
	s.action = creates
	s.expectations.ExpectCreations(s.job.UID, n)
	created, err := podcontrol.SlowStart(n, func(i int) error {
		_, err := s.control.Create(ctx, s.job, s.newPod(numbers[i]))
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // cannot work and need not: the Job goes as well
		}
		return err
	})
	for range n - created {
		s.expectations.Created(s.job.UID)
	}
	s.countCreated(created, n-created)
	s.running += int32(created)
	return err
}

// pendingIndexes returns the first n indexes that neither have ended nor have a pod.
func (s *state) pendingIndexes(n int) []int {
	served := indexesOfPods(s.active).and(s.succeededIndexes).and(s.failedIndexes)
	if replacesOnlyEnded(s.job) {
		served = served.and(indexesOfPods(podcontrol.Filter(s.pods, podcontrol.Terminating)))
	}
	return served.missing(n, int(*s.job.Spec.Completions))
}

// startable returns the indexes whose own back-off is over. If there are others, the Job is looked at again in time.
func (s *state) startable(numbers []int) []int {
	return slices.DeleteFunc(numbers, func(index int) bool {
		wait := leftForIndex(s.awaited[index], s.now)
		if wait > 0 {
			s.lookAgain(wait)
		}
		return wait > 0
	})
}

// newPod makes a pod, for an index unless that is noIndex.
func (s *state) newPod(index int) *corev1.Pod {
	pod := podcontrol.FromTemplate(&s.job.Spec.Template, s.job, metav1.NewControllerRef(s.job, kind))
	if !tracked(pod) {
		pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if index == noIndex {
		return pod
	}
	number := strconv.Itoa(index)
	pod.GenerateName = indexedName(s.job.Name, number)
	pod.Labels[batchv1.JobCompletionIndexAnnotation] = number
	pod.Annotations[batchv1.JobCompletionIndexAnnotation] = number
	pod.Spec.Hostname = s.job.Name + "-" + number
	addIndexVariable(pod.Spec.InitContainers)
	addIndexVariable(pod.Spec.Containers)
	if s.job.Spec.BackoffLimitPerIndex != nil {
		counted, ignored := failureCounts(s.job, s.awaited[index])
		pod.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(counted)
		if ignored > 0 {
			pod.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(ignored)
		}
	}
	return pod
}

// indexedName is the prefix of the names of an index's pods, cut so that the index stays in the name.
func indexedName(job, number string) string {
	suffix := "-" + number + "-"
	return job[:min(len(job), maxGeneratedPrefix-len(suffix))] + suffix
}

// addIndexVariable tells containers the index, unless they have a variable of that name.
func addIndexVariable(containers []corev1.Container) {
	for i := range containers {
		if slices.ContainsFunc(containers[i].Env, func(v corev1.EnvVar) bool { return v.Name == indexVariable }) {
			continue
		}
		containers[i].Env = append(containers[i].Env, corev1.EnvVar{
			Name: indexVariable,
			ValueFrom: &corev1.EnvVarSource{
				FieldRef: &corev1.ObjectFieldSelector{FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation)},
			},
		})
	}
}

// What becomes of the finalizer of a pod that is deleted.
const (
	keepFinalizer   = false // its end counts
	removeFinalizer = true  // it was not needed: its end is no failure
)

// deletePods deletes pods and returns how many of them are or will be gone.
func (s *state) deletePods(ctx context.Context, pods []*corev1.Pod, untrack bool) (int, error) {
	errs := podcontrol.ForEach(pods, func(pod *corev1.Pod) error {
		err := s.deletePod(ctx, pod, untrack)
		if err != nil {
			s.expectations.Deleted(s.job.UID, reconcile.KeyOf(pod)) // nothing to wait for
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	deleted := 0
	var firstErr error
	for i, err := range errs {
		switch {
		case err == nil:
			deleted++
			s.running--
			s.terminating++
			if podcontrol.Ready(pods[i]) {
				s.ready--
			}
		case firstErr == nil:
			firstErr = err
		}
	}
	return deleted, firstErr
}

func (s *state) deletePod(ctx context.Context, pod *corev1.Pod, untrack bool) error {
	if untrack {
		if err := s.controller.untrack(ctx, pod); err != nil {
			return err
		}
	}
	return s.control.Delete(ctx, s.job, pod)
}
