// SPDX-License-Identifier: Apache-2.0

package job

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/skiff-k8s/skiff/controllers/podcontrol"
)

// noIndex is the completion index of a pod that has none.
const noIndex = -1

// interval is the indexes from first to last, both included.
type interval struct{ first, last int }

// indexes is a set of completion indexes as status.completedIndexes writes it: 0,1,3-5. Its intervals are in
// order, and there is a gap between any two.
type indexes []interval

// parseIndexes reads a set and cuts it off at completions. What cannot be read is left out.
func parseIndexes(text string, completions int) indexes {
	var parsed indexes
	if text == "" {
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err := strconv.Atoi(from)
		if err != nil {
			continue
		}
		if first >= completions {
			break
		}
		last, err := strconv.Atoi(to)
		if err != nil {
			continue
		}
		parsed = parsed.append(interval{first, min(last, completions-1)})
	}
	return parsed
}

// append adds an interval that does not start before the last one.
func (x indexes) append(next interval) indexes {
	if n := len(x); n > 0 && next.first <= x[n-1].last+1 {
		x[n-1].last = max(x[n-1].last, next.last)
		return x
	}
	return append(x, next)
}

// and is the union with another set.
func (x indexes) and(other indexes) indexes {
	all := slices.Concat(x, other)
	slices.SortStableFunc(all, func(a, b interval) int { return cmp.Compare(a.first, b.first) })
	var union indexes
	for _, next := range all {
		union = union.append(next)
	}
	return union
}

func indexesOf(set sets.Set[int]) indexes {
	var all indexes
	for _, index := range sets.List(set) {
		all = all.append(interval{index, index})
	}
	return all
}

func (x indexes) total() int {
	n := 0
	for _, i := range x {
		n += i.last - i.first + 1
	}
	return n
}

func (x indexes) has(index int) bool {
	at, _ := slices.BinarySearchFunc(x, index, func(i interval, index int) int { return cmp.Compare(i.last, index) })
	return at < len(x) && x[at].first <= index
}

// overlap counts the indexes that are in both sets.
func (x indexes) overlap(other indexes) int {
	n := 0
	for i, j := 0, 0; i < len(x) && j < len(other); {
		n += max(0, min(x[i].last, other[j].last)-max(x[i].first, other[j].first)+1)
		if x[i].last < other[j].last {
			i++
		} else {
			j++
		}
	}
	return n
}

func (x indexes) String() string {
	var text strings.Builder
	for _, i := range x {
		if text.Len() > 0 {
			text.WriteByte(',')
		}
		text.WriteString(strconv.Itoa(i.first))
		if i.last > i.first {
			separator := byte('-')
			if i.last == i.first+1 {
				separator = ','
			}
			text.WriteByte(separator)
			text.WriteString(strconv.Itoa(i.last))
		}
	}
	return text.String()
}

// missing returns the first count indexes below completions that are not in the set.
func (x indexes) missing(count, completions int) []int {
	var found []int
	candidate := 0
	take := func(end int) {
		for ; candidate < min(end, completions) && len(found) < count; candidate++ {
			found = append(found, candidate)
		}
	}
	for _, i := range x {
		take(i.first)
		candidate = max(candidate, i.last+1)
	}
	take(completions)
	return found
}

// indexOf returns the completion index of a pod, or noIndex.
func indexOf(pod *corev1.Pod) int {
	index, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || index < 0 {
		return noIndex
	}
	return index
}

// validIndex tells whether the pod counts: in an indexed Job, only one with an index that the Job has does.
func validIndex(job *batchv1.Job, pod *corev1.Pod) bool {
	if !indexed(job) {
		return true
	}
	index := indexOf(pod)
	return index != noIndex && index < int(*job.Spec.Completions)
}

func indexesOfPods(pods []*corev1.Pod) indexes {
	set := sets.New[int]()
	for _, pod := range pods {
		if index := indexOf(pod); index != noIndex {
			set.Insert(index)
		}
	}
	return indexesOf(set)
}

// surplus parts the active pods of an indexed Job: those that are too many, because they have no valid index or share
// one with a more valuable pod, and the rest.
func surplus(pods []*corev1.Pod, completions int, now time.Time) (tooMany, rest []*corev1.Pod) {
	byIndex := map[int][]*corev1.Pod{}
	for _, pod := range pods {
		if index := indexOf(pod); index == noIndex || index >= completions {
			tooMany = append(tooMany, pod)
		} else {
			byIndex[index] = append(byIndex[index], pod)
		}
	}
	for _, index := range sets.List(sets.KeySet(byIndex)) {
		same := byIndex[index]
		podcontrol.SortForDeletion(same, nil, now)
		tooMany = append(tooMany, same[:len(same)-1]...)
		rest = append(rest, same[len(same)-1])
	}
	return tooMany, rest
}

// countedFailures is how often pods of this pod's index had failed when it was created, as far as that counts
// against backoffLimitPerIndex; absoluteFailures is how often at all.
func countedFailures(pod *corev1.Pod) int {
	return counter(pod, batchv1.JobIndexFailureCountAnnotation)
}

func ignoredFailures(pod *corev1.Pod) int {
	return counter(pod, batchv1.JobIndexIgnoredFailureCountAnnotation)
}

func absoluteFailures(pod *corev1.Pod) int { return countedFailures(pod) + ignoredFailures(pod) }

// counter reads an annotation that anybody may have changed: what is no count is 0.
func counter(pod *corev1.Pod, annotation string) int {
	n, err := strconv.ParseUint(pod.Annotations[annotation], 10, 31)
	if err != nil {
		return 0
	}
	return int(n)
}
