// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/kubelet/images"
)

// Waiting is why a container does not run: what clients read in its status.
type Waiting struct {
	Reason  string
	Message string
}

// The reasons besides those of images.
const (
	ReasonCrashLoop      = "CrashLoopBackOff"
	ReasonConfigError    = "CreateContainerConfigError"
	ReasonCreateError    = "CreateContainerError"
	ReasonRunError       = "RunContainerError"
	ReasonPostStartError = "PostStartHookError"
)

// Outcome tells what a Sync did.
type Outcome struct {
	// Waiting has an entry for each container that Sync tried to start; nil when it did.
	Waiting map[string]*Waiting
	// Changed means that something was started or ended, so the pod's status is out of date.
	Changed bool
	// ResizeErr is why the pod's resources could not be changed.
	ResizeErr error
	// RetryAt is when a back-off ends; zero if nothing waits for one.
	RetryAt time.Time
}

func (o *Outcome) fail(name string, err *startError) {
	o.Waiting[name] = &err.Waiting
	if !err.retryAt.IsZero() && (o.RetryAt.IsZero() || err.retryAt.Before(o.RetryAt)) {
		o.RetryAt = err.retryAt
	}
}

// startError is why a container was not started.
type startError struct {
	Waiting
	retryAt time.Time
}

func (e *startError) Error() string { return e.Reason + ": " + e.Message }

// Sync makes one step from status towards the pod's spec. An error means that it is to be tried again
// with a growing pause, unless the Outcome names a time.
func (r *Runtime) Sync(ctx context.Context, pod *v1.Pod, status *Status) (out *Outcome, err error) {
	plan := MakePlan(pod, status, r.health, r.grants)
	out = &Outcome{Waiting: map[string]*Waiting{}}
	klog.FromContext(ctx).V(4).Info("Planned pod", "plan", plan)
	if err := r.end(ctx, pod, status, plan, out); err != nil {
		return out, err
	}
	r.pruneInitContainers(ctx, pod, status)
	resized := len(plan.Resize) > 0 || podResized(pod, r.grants)
	out.ResizeErr = r.resize(ctx, pod, plan) // what is to start starts nevertheless
	out.Changed = out.Changed || resized && out.ResizeErr == nil
	if err := r.begin(ctx, pod, status, plan, out); err != nil {
		return out, errors.Join(out.ResizeErr, err)
	}
	return out, out.ResizeErr
}

// begin makes the sandbox, if there has to be another, and starts what the plan wants started.
func (r *Runtime) begin(ctx context.Context, pod *v1.Pod, status *Status, plan Plan, out *Outcome) (err error) {
	s := session{pod: pod, status: status, sandboxID: plan.SandboxID, ips: status.IPs}
	if plan.CreateSandbox {
		if pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers {
			r.metrics.UserNamespacedPods.Inc()
			defer func() {
				if err != nil {
					r.metrics.UserNamespacedPodsFailed.Inc()
				}
			}()
		}
		if err := r.createSandbox(ctx, &s, plan.Attempt); err != nil {
			return err
		}
		out.Changed = true
	}
	if len(plan.StartEphemeral)+len(plan.StartInit)+len(plan.Start) == 0 {
		return nil
	}
	config, err := r.sandboxConfig(pod, plan.Attempt)
	if err != nil {
		return fmt.Errorf("generate sandbox config of pod %q: %w", podText(pod), err)
	}
	s.config = config
	return r.startAll(ctx, &s, plan, out)
}

// session is what the steps of one Sync share.
type session struct {
	pod       *v1.Pod
	status    *Status
	sandboxID string
	config    *runtimeapi.PodSandboxConfig
	ips       []string
}

func (s *session) ip() string {
	if len(s.ips) == 0 {
		return ""
	}
	return s.ips[0]
}

// end kills what the plan wants dead.
func (r *Runtime) end(ctx context.Context, pod *v1.Pod, status *Status, plan Plan, out *Outcome) error {
	if plan.KillPod {
		if plan.CreateSandbox && plan.SandboxID != "" {
			r.events.Event(pod, v1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
		}
		if err := r.KillPod(ctx, pod, status, nil); err != nil {
			return err
		}
		out.Changed = len(status.RunningContainers()) > 0
		if plan.CreateSandbox {
			r.removeInitContainers(ctx, pod, status, 0)
		}
		return nil
	}
	for _, k := range plan.Kill {
		if err := r.kill(ctx, pod, k.Spec, k.Container, k.Message, k.grace(pod), nil); err != nil {
			return err
		}
		out.Changed = true
	}
	return nil
}

// countImageVolumes counts what became of the volumes of a container that are images.
func (r *Runtime) countImageVolumes(pod *v1.Pod, c *v1.Container, err *startError) {
	isImage := map[string]bool{}
	for _, v := range pod.Spec.Volumes {
		if v.Image != nil {
			isImage[v.Name] = true
		}
	}
	r.metrics.ImageVolumes.Add(float64(len(isImage))) // whether it mounts them or not, as upstream
	failed := err != nil && err.Reason == ReasonCreateError && strings.HasPrefix(err.Message, crierrors.ErrImageVolumeMountFailed.Error())
	for _, mount := range c.VolumeMounts {
		switch {
		case !isImage[mount.Name]:
		case failed:
			r.metrics.ImageVolumesFailed.Inc()
		default:
			r.metrics.ImageVolumesMounted.Inc()
		}
	}
}

func (r *Runtime) startAll(ctx context.Context, s *session, plan Plan, out *Outcome) error {
	var errs []error
	start := func(kind string, c *v1.Container, target string) error {
		r.metrics.StartedContainers.WithLabelValues(kind).Inc()
		err := r.start(ctx, s, c, target)
		if err == nil || err.retryAt.IsZero() { // it was tried
			r.countImageVolumes(s.pod, c, err)
		}
		if err != nil {
			r.metrics.FailedContainers.WithLabelValues(kind, err.Reason).Inc()
			out.fail(c.Name, err)
			return err
		}
		out.Waiting[c.Name], out.Changed = nil, true
		return nil
	}
	for _, i := range plan.StartEphemeral {
		c := &s.pod.Spec.EphemeralContainers[i]
		if err := start("ephemeral_container", (*v1.Container)(&c.EphemeralContainerCommon), c.TargetContainerName); err != nil {
			errs = append(errs, err)
		}
	}
	for _, i := range plan.StartInit {
		c := &s.pod.Spec.InitContainers[i]
		if err := start("init_container", c, ""); err != nil {
			errs = append(errs, err)
			if !IsSidecar(c) {
				return errors.Join(errs...)
			}
		}
	}
	for _, i := range plan.Start {
		if err := start("container", &s.pod.Spec.Containers[i], ""); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (r *Runtime) createSandbox(ctx context.Context, s *session, attempt uint32) error {
	r.metrics.StartedPods.Inc() // tried, as upstream counts
	id, err := r.runSandbox(ctx, s.pod, attempt)
	if err != nil {
		r.metrics.FailedPods.Inc()
		if ctx.Err() == nil {
			r.events.Eventf(s.pod, v1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
		}
		return fmt.Errorf("create sandbox of pod %q: %w", podText(s.pod), err)
	}
	resp, err := r.cri.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil && ctx.Err() == nil {
		r.events.Eventf(s.pod, v1.EventTypeWarning, "FailedPodSandBoxStatus", "Unable to get pod sandbox status: %v", err)
	}
	if err != nil {
		return fmt.Errorf("get status of new sandbox %s: %w", id, err)
	}
	s.sandboxID = id
	if !s.pod.Spec.HostNetwork {
		s.ips = sandboxIPs(resp.GetStatus())
	}
	return nil
}

// start makes and starts one container, unless it is too early after its last failure.
func (r *Runtime) start(ctx context.Context, s *session, c *v1.Container, target string) *startError {
	if err := r.backingOff(s.pod, c, s.status); err != nil {
		return err
	}
	handler, err := r.host.RuntimeHandler(s.pod)
	if err != nil {
		return r.startFailed(ctx, s.pod, c, ReasonConfigError, err)
	}
	image, imageErr := r.images.Ensure(ctx, s.pod, c, s.config, handler)
	if imageErr != nil {
		r.containerEvent(s.pod, c, v1.EventTypeWarning, "Failed", "Error: "+imageErr.Reason)
		return &startError{Waiting{imageErr.Reason, imageErr.Message}, imageErr.RetryAt}
	}
	config, err := r.containerConfig(ctx, s, c, image, r.nextRestartCount(s, c), target)
	if err != nil {
		return r.startFailed(ctx, s.pod, c, ReasonConfigError, err)
	}
	if ctx.Err() != nil {
		return &startError{Waiting: Waiting{ReasonCreateError, ctx.Err().Error()}} // the pod is being ended
	}
	created, err := r.create(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: s.sandboxID, Config: config, SandboxConfig: s.config})
	if err != nil {
		return r.startFailed(ctx, s.pod, c, ReasonCreateError, err)
	}
	r.containerEvent(s.pod, c, v1.EventTypeNormal, "Created", "Container created")
	if err := r.grants.Actuate(s.pod, false, c.Name); err != nil {
		klog.FromContext(ctx).Error(err, "Recording a container's resources", "container", c.Name)
	}
	if err := r.run(ctx, created.GetContainerId()); err != nil {
		return r.startFailed(ctx, s.pod, c, ReasonRunError, err)
	}
	r.containerEvent(s.pod, c, v1.EventTypeNormal, "Started", "Container started")
	log := filepath.Join(s.config.GetLogDirectory(), config.GetLogPath())
	r.logs.add(log)
	r.linkLog(ctx, s, c, log, created.GetContainerId())
	return r.postStart(ctx, s, c, created.GetContainerId())
}

// runtimeTimeout is how long one call may take that makes or starts something.
const runtimeTimeout = 4 * time.Minute

// whole is a context for a call that must not be cut short when the pod is deleted: a runtime that is left in the
// middle of making something may keep half of it.
func whole(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), runtimeTimeout)
}

func (r *Runtime) create(ctx context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	ctx, cancel := whole(ctx)
	defer cancel()
	return r.cri.CreateContainer(ctx, req)
}

func (r *Runtime) run(ctx context.Context, id string) error {
	ctx, cancel := whole(ctx)
	defer cancel()
	_, err := r.cri.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
	return err
}

func (r *Runtime) startFailed(ctx context.Context, pod *v1.Pod, c *v1.Container, reason string, err error) *startError {
	message := criMessage(err)
	if ctx.Err() == nil { // else the pod is being ended, and the failure is our own doing
		r.containerEvent(pod, c, v1.EventTypeWarning, "Failed", "Error: "+message)
	}
	return &startError{Waiting: Waiting{reason, message}}
}

// backingOff says whether the container ended so short ago that it has to wait, longer after each failure.
func (r *Runtime) backingOff(pod *v1.Pod, c *v1.Container, status *Status) *startError {
	var last *Container
	for _, old := range status.Containers {
		if old.Name == c.Name && old.Exited() {
			last = old
			break
		}
	}
	if last == nil {
		return nil
	}
	key, since, waits := backOffKey(pod, c), last.FinishedAt, r.backoff.IsInBackOffSince
	if now := time.Now(); since.After(now) { // the clock was set back since; what counts then is when it was started
		since, waits = now, r.backoff.IsInBackOffSinceUpdate
	}
	if waits(key, since) {
		wait := r.backoff.Get(key)
		r.containerEvent(pod, c, v1.EventTypeWarning, "BackOff",
			fmt.Sprintf("Back-off restarting failed container %s in pod %s", c.Name, podText(pod)))
		return &startError{
			Waiting: Waiting{ReasonCrashLoop, fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", wait, c.Name, podText(pod))},
			retryAt: since.Add(wait),
		}
	}
	r.backoff.Next(key, since)
	r.backoff.GC()
	return nil
}

func backOffKey(pod *v1.Pod, c *v1.Container) string {
	return strings.Join([]string{pod.Name, pod.Namespace, string(pod.UID), c.Name, c.Image, c.Resources.String()}, "/")
}

// nextRestartCount goes on where the last container of that name stopped; if that is gone, after its last log file.
func (r *Runtime) nextRestartCount(s *session, c *v1.Container) int {
	if last := s.status.Find(c.Name); last != nil {
		return last.RestartCount + 1
	}
	files, err := os.ReadDir(filepath.Join(r.LogDir(s.pod), c.Name))
	if err != nil {
		return 0 // no log yet
	}
	next := 0
	for _, f := range files {
		number, _, _ := strings.Cut(f.Name(), ".")
		if n, err := strconv.Atoi(number); err == nil && n >= next {
			next = n + 1
		}
	}
	return next
}

func (r *Runtime) postStart(ctx context.Context, s *session, c *v1.Container, id string) *startError {
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return nil
	}
	err := r.runHook(ctx, s.pod, c, id, s.ip(), c.Lifecycle.PostStart)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	klog.FromContext(ctx).Error(err, "PostStart hook failed", "container", c.Name)
	r.containerEvent(s.pod, c, v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
	started := &Container{ID: id, Name: c.Name}
	if err := r.kill(ctx, s.pod, c, started, "FailedPostStartHook", gracePeriod(s.pod), nil); err != nil {
		klog.FromContext(ctx).Error(err, "Killing a container after its postStart hook failed", "container", c.Name)
	}
	return &startError{Waiting: Waiting{ReasonPostStartError, err.Error()}}
}

// linkLog makes the symbolic link that log collectors follow: <pod>_<namespace>_<container>-<id>.log.
func (r *Runtime) linkLog(ctx context.Context, s *session, c *v1.Container, log, id string) {
	if r.cfg.ContainerLogLinks == "" {
		return
	}
	link := r.logLink(s.pod.Name, s.pod.Namespace, c.Name, id)
	if err := os.Symlink(log, link); err != nil {
		klog.FromContext(ctx).V(2).Info("Linking a container log", "link", link, "err", err)
	}
}

func (r *Runtime) logLink(pod, namespace, container, id string) string {
	return filepath.Join(r.cfg.ContainerLogLinks, fmt.Sprintf("%s_%s_%s-%s.log", pod, namespace, container, id))
}

func (r *Runtime) containerEvent(pod *v1.Pod, c *v1.Container, eventType, reason, message string) {
	r.events.Event(images.ContainerRef(pod, c), eventType, reason, message)
}
