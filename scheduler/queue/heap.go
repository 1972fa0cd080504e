// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"container/heap"

	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// podHeap is a priority queue of pods that also finds them by UID.
type podHeap struct {
	less  func(a, b *framework.QueuedPod) bool
	pods  []*framework.QueuedPod
	index map[types.UID]int // where in pods
}

func newPodHeap(less func(a, b *framework.QueuedPod) bool) *podHeap {
	return &podHeap{less: less, index: make(map[types.UID]int)}
}

func (h *podHeap) push(p *framework.QueuedPod) { heap.Push((*heapOrder)(h), p) }

func (h *podHeap) peek() *framework.QueuedPod {
	if len(h.pods) == 0 {
		return nil
	}
	return h.pods[0]
}

func (h *podHeap) pop() *framework.QueuedPod {
	if len(h.pods) == 0 {
		return nil
	}
	return heap.Pop((*heapOrder)(h)).(*framework.QueuedPod)
}

func (h *podHeap) get(uid types.UID) *framework.QueuedPod {
	if i, ok := h.index[uid]; ok {
		return h.pods[i]
	}
	return nil
}

func (h *podHeap) remove(uid types.UID) *framework.QueuedPod {
	i, ok := h.index[uid]
	if !ok {
		return nil
	}
	return heap.Remove((*heapOrder)(h), i).(*framework.QueuedPod)
}

// fix restores the order after the pod changed.
func (h *podHeap) fix(uid types.UID) { heap.Fix((*heapOrder)(h), h.index[uid]) }

// heapOrder keeps container/heap's methods out of podHeap's.
type heapOrder podHeap

func (h *heapOrder) Len() int           { return len(h.pods) }
func (h *heapOrder) Less(i, j int) bool { return h.less(h.pods[i], h.pods[j]) }
func (h *heapOrder) Swap(i, j int) {
	h.pods[i], h.pods[j] = h.pods[j], h.pods[i]
	h.index[h.pods[i].Pod.UID], h.index[h.pods[j].Pod.UID] = i, j
}

func (h *heapOrder) Push(x any) {
	p := x.(*framework.QueuedPod)
	h.index[p.Pod.UID] = len(h.pods)
	h.pods = append(h.pods, p)
}

func (h *heapOrder) Pop() any {
	last := len(h.pods) - 1
	p := h.pods[last]
	h.pods[last] = nil
	h.pods = h.pods[:last]
	delete(h.index, p.Pod.UID)
	return p
}
