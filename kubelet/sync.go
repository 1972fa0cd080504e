// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	versionutil "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-helpers/resource"
	"k8s.io/klog/v2"
	"k8s.io/kubectl/pkg/util/qos"

	"github.com/skiff-k8s/skiff/kubelet/admit"
	"github.com/skiff-k8s/skiff/kubelet/cgroups"
	"github.com/skiff-k8s/skiff/kubelet/containers"
	"github.com/skiff-k8s/skiff/kubelet/eviction"
	"github.com/skiff-k8s/skiff/kubelet/metrics"
	"github.com/skiff-k8s/skiff/kubelet/probe"
	"github.com/skiff-k8s/skiff/kubelet/shutdown"
	"github.com/skiff-k8s/skiff/kubelet/status"
	"github.com/skiff-k8s/skiff/version"
)

// syncPod makes one step towards a running pod. done means that the pod has ended, or may not run here.
func (k *Kubelet) syncPod(ctx context.Context, w *worker, pod *v1.Pod) (done bool, then next, err error) {
	have, err := k.runtime.Status(ctx, pod.UID)
	if err != nil {
		return false, then, err
	}
	w.saw(have)
	if !w.seen {
		k.remember(w, pod, have)
	}
	if rejected, err := k.admit(ctx, w, pod, have); rejected || err != nil {
		return rejected, then, err
	}
	if pod, err = k.grant(w, pod, have); err != nil { // from here on its resources are those that it was granted
		return false, then, err
	}
	if k.neverStarted(pod, have) {
		return true, then, nil
	}
	k.probeContainers(w, pod, have)
	if deadline, set := k.deadlineOf(pod); set {
		then.at = deadline
		if !time.Now().Before(deadline) {
			end := &status.End{Phase: v1.PodFailed, Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
			k.events.Event(pod, v1.EventTypeNormal, end.Reason, end.Message)
			w.decide(end, nil)
			return true, then, nil
		}
	}
	now := k.generate(w, pod, have, false)
	k.startup.Initialized(pod.UID, have.Initialized(pod))
	k.status.Set(pod, now)
	if now.Phase == v1.PodRunning && !w.started {
		w.started = true
		k.metrics.PodStart.Observe(time.Since(w.began).Seconds())
	}
	if status.IsTerminal(now.Phase) {
		return true, then, nil
	}
	if status.Restarting(&now) {
		if err := k.runtime.RemoveAll(ctx, pod, have); err != nil {
			return false, next{}, err
		}
		return false, next{now: true}, nil
	}
	if err := k.prepareNode(ctx, pod); err != nil {
		final := rejecting(nil)
		if !errors.As(err, &final) {
			return false, next{}, err
		}
		k.reject(pod, &admit.Rejection{Reason: final.RejectReason(), Message: "Pod was rejected: " + final.Error()})
		return true, then, nil
	}
	out, err := k.runtime.Sync(ctx, pod, have)
	changed := k.note(w, out)
	changed = k.resizeFailed(w, pod, out.ResizeErr) || changed
	if out.Changed {
		return false, next{now: true}, nil // read again what is new; a failure shows then too
	}
	if changed {
		k.status.Set(pod, k.generate(w, pod, have, false))
	}
	if !out.RetryAt.IsZero() && (then.at.IsZero() || out.RetryAt.Before(then.at)) {
		then.at = out.RetryAt
	}
	if soon := time.Now().Add(retryMost); out.ResizeErr != nil && then.at.After(soon) {
		then.at = soon // whatever else waits longer
	}
	return false, then, err
}

// remember notes which containers ran before this process: their probes start from what the API says of them, and so
// does a resize.
func (k *Kubelet) remember(w *worker, pod *v1.Pod, have *containers.Status) {
	w.seen, w.started = true, pod.Status.Phase != v1.PodPending
	k.rememberResize(w, pod)
	for _, c := range have.RunningContainers() {
		w.old = append(w.old, c.ID)
	}
}

// note keeps why containers wait, and says whether that is news.
func (k *Kubelet) note(w *worker, out *containers.Outcome) (changed bool) {
	for name, why := range out.Waiting {
		was := w.waiting[name]
		if why == nil {
			delete(w.waiting, name)
			changed = changed || was != nil
			continue
		}
		changed = changed || was == nil || *was != *why
		w.waiting[name] = why
	}
	return changed
}

// errNotRegistered puts pods off for a moment, at a start.
var errNotRegistered = errors.New("the node is not registered yet")

// kubernetesVersion is the one whose features there are.
var kubernetesVersion = versionutil.MustParse(version.Kubernetes)

// admit decides once whether the pod may run here. A pod that runs already is not asked again.
func (k *Kubelet) admit(ctx context.Context, w *worker, pod *v1.Pod, have *containers.Status) (rejected bool, err error) {
	k.admission.Lock()
	defer k.admission.Unlock()
	w.mu.Lock()
	ready := w.ready
	w.mu.Unlock()
	if ready || status.IsTerminal(pod.Status.Phase) {
		return false, nil
	}
	pod, _ = k.grants.Apply(pod)
	if len(have.Containers) == 0 {
		node := k.agent.Node()
		if node == nil || len(node.Status.Allocatable) == 0 { // before the first report nothing would fit
			return false, errNotRegistered // wakeAll follows
		}
		r := admit.Sysctls(pod, k.cfg.AllowedSysctls)
		if why := k.evictor.Refuse(pod); why != "" {
			r = &admit.Rejection{Reason: eviction.Reason, Message: "Pod was rejected: " + why}
		}
		if k.shutdown.Begun() {
			r = &admit.Rejection{Reason: shutdown.Reason, Message: shutdown.Message}
		}
		if w.makingRoom() {
			return false, errMakingRoom
		}
		if r == nil {
			if r = admit.Check(pod, node, k.rivals(pod.UID)); r != nil {
				other, err := k.makeRoom(w, pod, node)
				if err != nil {
					return false, err
				}
				r = cmp.Or(other, r)
			}
		}
		if r == nil {
			r = admit.AppArmor(pod, k.cfg.AppArmor)
		}
		if r == nil {
			r = admit.Features(pod, node.Status.DeclaredFeatures, kubernetesVersion)
		}
		if r == nil {
			r = k.assign(ctx, pod)
		}
		if r != nil {
			k.reject(pod, r)
			return true, nil
		}
	}
	if err := k.grants.Allocate(pod); err != nil {
		k.events.Eventf(pod, v1.EventTypeWarning, "FailedSync", "error syncing pod: %v", err)
		return false, err
	}
	w.mu.Lock()
	w.ready = true
	w.mu.Unlock()
	k.countAdmitted(pod)
	if k.cpus.Has(pod.UID) {
		k.shareCPUs(ctx)
	}
	return false, nil
}

func (k *Kubelet) countAdmitted(pod *v1.Pod) {
	has := func(c v1.Container) bool { return len(c.Resources.Requests)+len(c.Resources.Limits) > 0 }
	mode := metrics.ConfigMode(resource.IsPodLevelResourcesSet(pod), slices.ContainsFunc(pod.Spec.Containers, has) || slices.ContainsFunc(pod.Spec.InitContainers, has))
	k.metrics.Admitted.WithLabelValues(mode, strings.ToLower(string(qos.GetPodQOS(pod)))).Inc()
}

func (k *Kubelet) reject(pod *v1.Pod, r *admit.Rejection) {
	k.metrics.Reject(r.Reason)
	k.events.Event(pod, v1.EventTypeWarning, r.Reason, strings.TrimPrefix(r.Message, "Pod was rejected: "))
	k.status.Set(pod, rejectedStatus(pod, r))
}

func rejectedStatus(pod *v1.Pod, r *admit.Rejection) v1.PodStatus {
	s := *pod.Status.DeepCopy()
	s.Phase, s.Reason, s.Message = v1.PodFailed, r.Reason, r.Message
	s.ObservedGeneration = pod.Generation
	return s
}

// deadlineOf is when the pod's activeDeadlineSeconds are over.
func (k *Kubelet) deadlineOf(pod *v1.Pod) (time.Time, bool) {
	if pod.Spec.ActiveDeadlineSeconds == nil {
		return time.Time{}, false
	}
	start := pod.Status.StartTime
	if now, known := k.status.Get(pod.UID); known {
		start = now.StartTime
	}
	if start.IsZero() {
		return time.Time{}, false
	}
	return start.Add(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second), true
}

// prepareNode makes what the pod's containers need around them.
func (k *Kubelet) prepareNode(ctx context.Context, pod *v1.Pod) error {
	if err := k.agent.NetworkError(); err != nil && !pod.Spec.HostNetwork {
		k.events.Eventf(pod, v1.EventTypeWarning, "NetworkNotReady", "network is not ready: %v", err)
		return fmt.Errorf("network is not ready: %w", err)
	}
	if !k.tree.Exists(pod) {
		began := time.Now()
		err := k.tree.Ensure(pod)
		k.metrics.Cgroups.WithLabelValues("create").Observe(time.Since(began).Seconds())
		if err != nil {
			k.events.Eventf(pod, v1.EventTypeWarning, "FailedCreatePodContainer", "unable to ensure pod container exists: %v", err)
			return err
		}
		if err := k.shareOut(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(k.runtime.PodDir(pod.UID), 0o750); err != nil {
		k.events.Eventf(pod, v1.EventTypeWarning, "Failed", "error making pod data directories: %v", err)
		return fmt.Errorf("create pod folder: %w", err)
	}
	if err := k.prepareClaims(ctx, pod); err != nil {
		return err
	}
	if err := k.volumes.SetUp(ctx, pod); err != nil {
		each := apart(err)
		if ctx.Err() == nil {
			k.mountsFailed(pod, each)
		}
		if final := slices.IndexFunc(each, func(one error) bool { return errors.As(one, new(rejecting)) }); final >= 0 {
			err = each[final]
		}
		return fmt.Errorf("set up volumes: %w", err)
	}
	return nil
}

// rejecting is an error after which the pod may not run here.
type rejecting interface {
	error
	RejectReason() string
}

// apart are the errors that were joined, which errors.As does not look into.
func apart(err error) []error {
	if each := utilerrors.Aggregate(nil); errors.As(err, &each) {
		return each.Errors()
	}
	return []error{err}
}

// mountsFailed tells about each volume that could not be made, by the reason that its error may have.
func (k *Kubelet) mountsFailed(pod *v1.Pod, all []error) {
	for _, err := range all {
		reason := "FailedMount"
		if has := interface{ EventReason() string }(nil); errors.As(err, &has) {
			reason = has.EventReason()
		}
		k.events.Event(pod, v1.EventTypeWarning, reason, err.Error())
	}
}

// shareOut gives the classes of pods what theirs request together: the burstable ones their CPU, and all their memory if that is
// to be protected.
func (k *Kubelet) shareOut() error {
	var milli int64
	memory := map[v1.PodQOSClass]int64{}
	for _, pod := range k.active() {
		class := qos.GetPodQOS(pod)
		requests := resource.PodRequests(pod, resource.PodResourcesOptions{})
		memory[class] += requests.Memory().Value()
		if class == v1.PodQOSBurstable {
			milli += requests.Cpu().MilliValue()
		}
	}
	if k.cfg.Cgroups.MemoryQoS.Tiered {
		k.metrics.MemoryMin.Set(float64(memory[v1.PodQOSGuaranteed]))
		k.metrics.MemoryLow.Set(float64(memory[v1.PodQOSBurstable]))
		if err := k.tree.ProtectMemory(memory[v1.PodQOSGuaranteed], memory[v1.PodQOSBurstable]); err != nil {
			return err
		}
	}
	return k.tree.SetBurstableShares(cgroups.Shares(milli))
}

// generate decides the pod's status.
func (k *Kubelet) generate(w *worker, pod *v1.Pod, have *containers.Status, terminal bool) v1.PodStatus {
	old, known := k.status.Get(pod.UID)
	if !known {
		old = *pod.Status.DeepCopy()
	}
	end, _ := w.decided()
	return status.Generate(status.Input{
		Pod: pod, Old: &old, Runtime: have, Waiting: w.waiting, Probes: k.prober, Terminal: terminal, End: end, Resize: w.resize.conditions(), Resizing: w.resize.progress != nil, Actuated: k.grants.Actuated, Devices: k.health,
		HostIPs: k.cfg.Node.IPs, RuntimeName: k.runtimeName,
	})
}

// health is how the devices of a container are, those of plugins and those of claims.
func (k *Kubelet) health(pod *v1.Pod, c *v1.Container) []v1.ResourceStatus {
	return append(k.devices.Health(pod.UID, c.Name), k.claims.Health(pod, c)...)
}

// probeContainers has exactly the pod's running containers probed.
func (k *Kubelet) probeContainers(w *worker, pod *v1.Pod, have *containers.Status) {
	var targets []probe.Target
	ip := pod.Status.PodIP
	if len(have.IPs) > 0 {
		ip = have.IPs[0]
	}
	if pod.Spec.HostNetwork && len(k.cfg.Node.IPs) > 0 {
		ip = k.cfg.Node.IPs[0]
	}
	for _, c := range have.RunningContainers() {
		spec := containers.Spec(pod, c.Name)
		if spec == nil || spec.LivenessProbe == nil && spec.ReadinessProbe == nil && spec.StartupProbe == nil {
			continue
		}
		t := probe.Target{Pod: pod, Container: spec, ContainerID: c.ID, PodIP: ip, StartedAt: c.StartedAt, Adopted: slices.Contains(w.old, c.ID)}
		if s := statusOf(pod, c.Name); s != nil && strings.HasSuffix(s.ContainerID, c.ID) {
			t.Ready, t.Started = s.Ready, s.Started != nil && *s.Started
		}
		targets = append(targets, t)
	}
	k.prober.Sync(pod.UID, targets)
}

func statusOf(pod *v1.Pod, name string) *v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// terminate ends the pod's containers within their grace period.
func (k *Kubelet) terminate(ctx context.Context, w *worker, pod *v1.Pod) error {
	have, err := k.runtime.Status(ctx, pod.UID)
	if err != nil {
		return err
	}
	w.saw(have)
	w.seen = true
	pod, _ = k.grants.Apply(pod)
	rejected := k.neverStarted(pod, have)
	if !rejected {
		k.status.Set(pod, k.generate(w, pod, have, false))
	}
	k.prober.StopHealth(pod.UID)
	_, grace := w.decided()
	stop := k.reportReadiness(w, pod, have, rejected)
	err = k.runtime.KillPod(ctx, pod, have, grace)
	stop()
	if err != nil {
		if ctx.Err() == nil {
			k.events.Eventf(pod, v1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", err)
		}
		return fmt.Errorf("error killing terminating pod: %w", err)
	}
	k.prober.Forget(pod.UID)
	after, err := k.runtime.Status(ctx, pod.UID)
	if err != nil {
		return err
	}
	w.saw(after)
	if running := after.RunningContainers(); len(running) > 0 {
		return fmt.Errorf("%d containers run after the pod was ended", len(running))
	}
	if err := errors.Join(k.claims.Unprepare(ctx, pod.UID), k.unassign(ctx, pod.UID)); err != nil {
		return err
	}
	k.setPending(w, pod, nil, "terminated")
	k.setProgress(w, nil)
	after.IPs = have.IPs // the last address stays readable
	if !rejected {
		k.status.Set(pod, k.generate(w, pod, after, true))
	}
	klog.FromContext(ctx).V(4).Info("All containers of the pod have ended")
	return nil
}

// reportReadiness writes the status of a pod that takes its time to end when a probe has changed its mind, until stop is called: what
// is not ready any more shall get no more traffic.
func (k *Kubelet) reportReadiness(w *worker, pod *v1.Pod, have *containers.Status, rejected bool) (stop func()) {
	if rejected {
		return func() {}
	}
	var reporting sync.WaitGroup
	ended := make(chan struct{})
	reporting.Go(func() {
		for {
			select {
			case <-w.wake:
				k.status.Set(pod, k.generate(w, pod, have, false))
			case <-ended:
				return
			}
		}
	})
	return func() {
		close(ended)
		reporting.Wait()
	}
}

// neverStarted says that a pod was refused, now or by an earlier process: its status says why, and nothing about containers.
func (k *Kubelet) neverStarted(pod *v1.Pod, have *containers.Status) bool {
	now, known := k.status.Get(pod.UID)
	if !known {
		now = pod.Status
	}
	return status.IsTerminal(now.Phase) && len(now.ContainerStatuses)+len(have.Containers)+len(have.Sandboxes) == 0
}

// tidyUp removes the volumes and cgroups of an ended pod. Its dead containers stay for their logs until it is deleted.
func (k *Kubelet) tidyUp(ctx context.Context, w *worker, pod *v1.Pod) error {
	if err := k.volumes.TearDown(ctx, pod.UID); err != nil {
		return fmt.Errorf("tear down volumes: %w", err)
	}
	began := time.Now()
	err := k.tree.Remove(pod)
	k.metrics.Cgroups.WithLabelValues("destroy").Observe(time.Since(began).Seconds())
	if err := errors.Join(err, k.shareOut()); err != nil {
		return err
	}
	w.mu.Lock()
	deleted := w.gone || w.pod.DeletionTimestamp != nil
	w.mu.Unlock()
	if deleted {
		k.wakeWaiting(podRemoved)
	} else {
		k.wakeWaiting(podTerminated)
	}
	if deleted {
		if err := k.removeRest(ctx, pod.UID); err != nil {
			return err
		}
	}
	k.status.Removed(pod.UID)
	return nil
}
