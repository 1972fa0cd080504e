// SPDX-License-Identifier: Apache-2.0

// Package images makes the images of containers be on this node, and removes those nobody uses.
//
// A pull follows the container's pull policy, uses the pod's pull secrets, and is repeated with growing
// pauses (10 s to 5 min). What Ensure returns as an Error is what clients read in the container's
// waiting state, so its reasons and texts are those of every kubelet.
package images

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The reasons why a container waits for its image.
const (
	ReasonErrImagePull      = "ErrImagePull"
	ReasonImagePullBackOff  = "ImagePullBackOff"
	ReasonErrImageNever     = "ErrImageNeverPull"
	ReasonInvalidImageName  = "InvalidImageName"
	ReasonImageInspectError = "ImageInspectError"
	ReasonRegistryDown      = "RegistryUnavailable"
	ReasonSignature         = "SignatureValidationFailed"
)

// Error says why an image is not there.
type Error struct {
	Reason  string
	Message string
	RetryAt time.Time // zero: trying again at once makes sense
}

func (e *Error) Error() string { return e.Message }

// Puller pulls images for pods. It keeps only back-off times.
type Puller struct {
	cri     runtimeapi.ImageServiceClient
	secrets Secrets
	events  record.EventRecorder
	backoff *flowcontrol.Backoff

	mu     sync.Mutex
	failed map[string]time.Time // guarded by mu: by pod and image, when the pull failed last
}

// Secrets reads a pull secret of a namespace.
type Secrets interface {
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
}

// NewPuller makes a Puller.
func NewPuller(cri runtimeapi.ImageServiceClient, secrets Secrets, events record.EventRecorder) *Puller {
	return &Puller{
		cri: cri, secrets: secrets, events: events,
		backoff: flowcontrol.NewBackOff(10*time.Second, 5*time.Minute),
		failed:  map[string]time.Time{},
	}
}

// Ensure returns the image of a container, after pulling it if the policy asks for that.
func (p *Puller) Ensure(ctx context.Context, pod *v1.Pod, c *v1.Container, sandbox *runtimeapi.PodSandboxConfig, handler string) (*runtimeapi.Image, *Error) {
	ref, err := withTag(c.Image)
	if err != nil {
		message := fmt.Sprintf("Failed to apply default image tag %q: %v", c.Image, err)
		p.event(pod, c, v1.EventTypeWarning, "InspectFailed", message)
		return nil, &Error{Reason: ReasonInvalidImageName, Message: message}
	}
	spec := &runtimeapi.ImageSpec{Image: ref, UserSpecifiedImage: c.Image, RuntimeHandler: handler}
	image, err := p.present(ctx, spec)
	if err != nil {
		message := fmt.Sprintf("Failed to inspect image %q: %v", c.Image, err)
		p.event(pod, c, v1.EventTypeWarning, "InspectFailed", message)
		return nil, &Error{Reason: ReasonImageInspectError, Message: message}
	}
	if !mustPull(c.ImagePullPolicy, image != nil) {
		if image != nil {
			p.event(pod, c, v1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", c.Image))
			return image, nil
		}
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
		p.event(pod, c, v1.EventTypeWarning, "ErrImageNeverPull", message)
		return nil, &Error{Reason: ReasonErrImageNever, Message: message}
	}
	return p.pull(ctx, pod, c, spec, sandbox)
}

func (p *Puller) present(ctx context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	resp, err := p.cri.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil {
		return nil, err
	}
	return resp.GetImage(), nil
}

func mustPull(policy v1.PullPolicy, present bool) bool {
	switch policy {
	case v1.PullAlways:
		return true
	case v1.PullNever:
		return false
	}
	return !present
}

// pull pulls now, or says that it is too early since the last failure.
func (p *Puller) pull(ctx context.Context, pod *v1.Pod, c *v1.Container, spec *runtimeapi.ImageSpec, sandbox *runtimeapi.PodSandboxConfig) (*runtimeapi.Image, *Error) {
	key := string(pod.UID) + "_" + c.Image
	p.mu.Lock()
	failed := p.failed[key]
	p.mu.Unlock()
	if p.backoff.IsInBackOffSinceUpdate(key, time.Now()) {
		message := fmt.Sprintf("Back-off pulling image %q", c.Image)
		p.event(pod, c, v1.EventTypeNormal, "BackOff", message)
		return nil, &Error{Reason: ReasonImagePullBackOff, Message: message, RetryAt: failed.Add(p.backoff.Get(key))}
	}
	p.event(pod, c, v1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", c.Image))
	began := time.Now()
	err := p.try(ctx, pod, spec, sandbox)
	if err != nil {
		p.mu.Lock()
		p.failed[key] = time.Now()
		p.mu.Unlock()
		p.backoff.Next(key, time.Now())
		p.event(pod, c, v1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", c.Image, err))
		reason, message := classify(c.Image, err)
		return nil, &Error{Reason: reason, Message: message, RetryAt: time.Now().Add(p.backoff.Get(key))}
	}
	p.backoff.GC()
	p.mu.Lock()
	delete(p.failed, key)
	p.mu.Unlock()
	image, err := p.present(ctx, spec)
	if err == nil && image == nil {
		err = errors.New("the runtime does not have it after the pull")
	}
	if err != nil {
		return nil, &Error{Reason: ReasonImageInspectError, Message: fmt.Sprintf("Failed to inspect image %q: %v", c.Image, err)}
	}
	took := time.Since(began).Truncate(time.Millisecond)
	p.event(pod, c, v1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		c.Image, took, took, image.GetSize()))
	return image, nil
}

// try pulls with each credential that fits until one works; without any it pulls anonymously.
func (p *Puller) try(ctx context.Context, pod *v1.Pod, spec *runtimeapi.ImageSpec, sandbox *runtimeapi.PodSandboxConfig) error {
	auths := p.credentials(ctx, pod, spec.GetImage())
	if len(auths) == 0 {
		auths = []*runtimeapi.AuthConfig{nil}
	}
	var errs []error
	for _, auth := range auths {
		_, err := p.cri.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec, Auth: auth, SandboxConfig: sandbox})
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// classify turns a runtime's error into the reason and text of the waiting state.
func classify(image string, err error) (reason, message string) {
	text := err.Error()
	switch {
	case strings.HasPrefix(text, "RegistryUnavailable") || strings.Contains(text, "RegistryUnavailable:"):
		return ReasonRegistryDown, fmt.Sprintf("image pull failed for %s because the registry is unavailable", image)
	case strings.Contains(text, "SignatureValidationFailed"):
		return ReasonSignature, fmt.Sprintf("image pull failed for %s because the signature validation failed", image)
	}
	return ReasonErrImagePull, text
}

func (p *Puller) event(pod *v1.Pod, c *v1.Container, eventType, reason, message string) {
	p.events.Event(ContainerRef(pod, c), eventType, reason, message)
}

// ContainerRef names a container of a pod as the object of an event.
func ContainerRef(pod *v1.Pod, c *v1.Container) *v1.ObjectReference {
	return &v1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
		ResourceVersion: pod.ResourceVersion, FieldPath: fieldPath(pod, c),
	}
}

func fieldPath(pod *v1.Pod, c *v1.Container) string {
	for _, list := range []struct {
		field string
		in    []v1.Container
	}{{"spec.containers", pod.Spec.Containers}, {"spec.initContainers", pod.Spec.InitContainers}} {
		for i := range list.in {
			if list.in[i].Name == c.Name {
				return fmt.Sprintf("%s{%s}", list.field, c.Name)
			}
		}
	}
	return fmt.Sprintf("spec.ephemeralContainers{%s}", c.Name)
}

// withTag gives a name without tag or digest the tag "latest".
func withTag(image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", fmt.Errorf("couldn't parse image name %q: %w", image, err)
	}
	if !reference.IsNameOnly(named) {
		return image, nil
	}
	// The name stays as it was written: a short name is the runtime's to expand.
	return image + ":latest", nil
}
