// SPDX-License-Identifier: Apache-2.0

package volumebinding

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/component-helpers/storage/volume"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// Reserve decides for good, and keeps the volumes from other pods.
func (p *plugin) Reserve(_ context.Context, st framework.State, _ *v1.Pod, nodeName string) *framework.Status {
	s, ok := st.(*state)
	if !ok || len(s.waiting) == 0 {
		return nil
	}
	node, err := p.handle.Informers.Core().V1().Nodes().Lister().Get(nodeName)
	if err != nil {
		return p.failed("assume", err)
	}
	decisions, lack, err := p.decide(s, node)
	switch {
	case err != nil:
		return p.failed("assume", err)
	case lack != 0:
		return p.rejections[lack]
	}
	s.chosen = decisions
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range decisions {
		if d.volume != nil {
			p.reserved[d.volume.Name] = d.claim.UID
		} else {
			p.selected[d.claim.UID] = nodeName
		}
	}
	return nil
}

func (p *plugin) Unreserve(_ context.Context, st framework.State, _ *v1.Pod, _ string) {
	if s, ok := st.(*state); ok {
		p.release(s)
	}
}

func (p *plugin) release(s *state) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range s.chosen {
		if d.volume != nil {
			delete(p.reserved, d.volume.Name)
		} else {
			delete(p.selected, d.claim.UID)
		}
	}
}

// NeedsPreBind implements framework.PreBinder.
func (*plugin) NeedsPreBind(st framework.State, _ string) bool {
	s, ok := st.(*state)
	return ok && len(s.chosen) > 0
}

// PreBindsBesideOthers implements framework.ConcurrentPreBinder.
func (*plugin) PreBindsBesideOthers() {}

// PreBind writes down the decisions and waits until the claims are bound.
func (p *plugin) PreBind(ctx context.Context, st framework.State, pod *v1.Pod, nodeName string) *framework.Status {
	s := st.(*state)
	for i := range s.chosen {
		if err := p.write(ctx, &s.chosen[i], nodeName); err != nil {
			return p.failed("bind", err)
		}
	}
	err := wait.PollUntilContextTimeout(ctx, bindPoll, p.BindTimeout, false, func(context.Context) (bool, error) {
		return p.allBound(s, pod, nodeName)
	})
	if err != nil {
		return p.failed("bind", fmt.Errorf("binding volumes: %w", err))
	}
	p.release(s)
	return nil
}

// write gives the claim its volume, or tells the provisioner its node.
func (p *plugin) write(ctx context.Context, d *decision, nodeName string) error {
	if d.volume == nil {
		if d.claim.Annotations[volume.AnnSelectedNode] == nodeName {
			return nil
		}
		claim := d.claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnSelectedNode, nodeName)
		claims := p.handle.Client.CoreV1().PersistentVolumeClaims(claim.Namespace)
		written, err := claims.Update(ctx, claim, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) { // by another pod with this claim, perhaps, which has said the same
			if now, getErr := claims.Get(ctx, claim.Name, metav1.GetOptions{}); getErr == nil && now.UID == claim.UID && now.Annotations[volume.AnnSelectedNode] == nodeName {
				written, err = now, nil
			}
		}
		if err != nil {
			return fmt.Errorf("selecting node %s for claim %s/%s: %w", nodeName, claim.Namespace, claim.Name, err)
		}
		d.written = written.ResourceVersion
		return nil
	}
	pv, changed, err := volume.GetBindVolumeToClaim(d.volume, d.claim)
	if err == nil && changed {
		if pv, err = p.handle.Client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{}); err == nil {
			d.written = pv.ResourceVersion
		}
	}
	if err != nil {
		return fmt.Errorf("binding volume %s to claim %s/%s: %w", d.volume.Name, d.claim.Namespace, d.claim.Name, err)
	}
	return nil
}

// allBound fails when the pod, or a volume, or what was written is gone: a provisioner gives the node back if it cannot make a volume there.
func (p *plugin) allBound(s *state, pod *v1.Pod, nodeName string) (bool, error) {
	core := p.handle.Informers.Core().V1()
	node, err := core.Nodes().Lister().Get(nodeName)
	if err != nil {
		return false, fmt.Errorf("get node %q: %w", nodeName, err)
	}
	if _, err := core.Pods().Lister().Pods(pod.Namespace).Get(pod.Name); apierrors.IsNotFound(err) {
		return false, fmt.Errorf("pod does not exist any more: %w", err)
	}
	for i := range s.chosen {
		d := &s.chosen[i]
		claim, err := s.listers.Claims.PersistentVolumeClaims(d.claim.Namespace).Get(d.claim.Name)
		if err != nil {
			return false, err
		}
		check := s.checkProvisioned
		if d.volume != nil {
			check = s.checkVolume
		}
		if ok, err := check(d, claim, node); !ok {
			return false, err
		}
		if !isBound(claim) {
			return false, nil
		}
	}
	return true, nil
}

// checkVolume is false as long as the volume is not seen as it was written.
func (s *state) checkVolume(d *decision, _ *v1.PersistentVolumeClaim, node *v1.Node) (bool, error) {
	pv, err := s.listers.Volumes.Get(d.volume.Name)
	switch {
	case err != nil:
		return false, err
	case older(pv, d.written):
		return false, nil
	case pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID == "":
		return false, fmt.Errorf("ClaimRef got reset for pv %q", pv.Name)
	}
	return reachable(pv, node)
}

func reachable(pv *v1.PersistentVolume, node *v1.Node) (bool, error) {
	if err := volume.CheckNodeAffinity(pv, node.Labels); err != nil {
		return false, fmt.Errorf("pv %q node affinity doesn't match node %q: %w", pv.Name, node.Name, err)
	}
	return true, nil
}

// checkProvisioned is false as long as the claim is not seen as it was written, and if its volume is not there yet.
func (s *state) checkProvisioned(d *decision, claim *v1.PersistentVolumeClaim, node *v1.Node) (bool, error) {
	switch {
	case older(claim, d.written):
		return false, nil
	case claim.Annotations[volume.AnnSelectedNode] != node.Name:
		return false, fmt.Errorf("provisioning failed for PVC %q", claim.Name)
	case claim.Spec.VolumeName == "":
		return false, nil
	}
	pv, err := s.listers.Volumes.Get(claim.Spec.VolumeName)
	if err != nil {
		return false, nil // not seen yet; if it is gone, the claim will be lost
	}
	return reachable(pv, node)
}

// older says whether an object is from before something was written.
func older(object metav1.Object, written string) bool {
	if written == "" {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(object.GetResourceVersion(), written)
	return err == nil && order < 0
}
