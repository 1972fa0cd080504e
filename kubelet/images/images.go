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
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
	api "k8s.io/kubelet/config/v1beta1"
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
	cfg     Config
	slots   chan struct{} // one for each pull that goes on; nil for any number
	pulled  *pulled       // nil: all images are everybody's
	cri     runtimeapi.ImageServiceClient
	secrets Secrets
	events  record.EventRecorder
	backoff *flowcontrol.Backoff
	rate    flowcontrol.RateLimiter // nil: as many as come

	mu     sync.Mutex
	failed map[string]failure // guarded by mu: by pod and image, how the pull failed last
}

// failure is why a pull failed, with the reason, and when.
type failure struct {
	at  time.Time
	why string
}

// Secrets reads a pull secret of a namespace.
type Secrets interface {
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
}

// Config is what the operator chose.
type Config struct {
	Parallel   int                   // how many images are pulled at the same time; 0 for any number
	Records    string                // a folder that remembers by whose right images were pulled; empty: images are everybody's
	Providers  Providers             // programs that know credentials
	Registries map[string]DockerAuth // the node's own credentials, by registry

	// Verify says of which images that are present a pod has to prove that it may have them; empty: of those that were pulled.
	Verify    api.ImagePullCredentialsVerificationPolicy
	Allowlist Allowlist
	// Began is told when an image is pulled for a pod, once more maybe, and Got when it has come. They may be nil.
	Began, Got func(pod types.UID, image string)
	// Pulled is told of each pull: how large the image is, and how long it took with waiting. It may be nil.
	Pulled func(bytes uint64, took time.Duration)
	// PullsPerSecond are tried, and PullsAtOnce; 0 for any number.
	PullsPerSecond, PullsAtOnce int32
}

// DockerAuth is a credential of a registry.
type DockerAuth dockerEntry

// NewPuller makes a Puller.
func NewPuller(cfg Config, cri runtimeapi.ImageServiceClient, secrets Secrets, events record.EventRecorder) *Puller {
	p := &Puller{
		cfg: cfg, cri: cri, secrets: secrets, events: events,
		backoff: flowcontrol.NewBackOff(10*time.Second, 5*time.Minute),
		failed:  map[string]failure{},
	}
	if cfg.Parallel > 0 {
		p.slots = make(chan struct{}, cfg.Parallel)
	}
	if cfg.Records != "" {
		p.pulled = &pulled{dir: cfg.Records, policy: cfg.Verify, allowlist: cfg.Allowlist}
	}
	if cfg.PullsPerSecond > 0 {
		p.rate = flowcontrol.NewTokenBucketRateLimiter(float32(cfg.PullsPerSecond), int(cfg.PullsAtOnce))
	}
	return p
}

// Forget is called when an image was removed from this node.
func (p *Puller) Forget(imageID string) error { return p.pulled.forget(imageID) }

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
	var proof verdict
	if image != nil && c.ImagePullPolicy != v1.PullAlways {
		if proof, err = p.verify(ctx, pod, ref, image.GetId()); err != nil {
			message := fmt.Sprintf("Failed to find out by whose credentials image %q was pulled: %v", c.Image, err)
			p.event(pod, c, v1.EventTypeWarning, "InspectFailed", message)
			return nil, &Error{Reason: ReasonImageInspectError, Message: message}
		}
	}
	if !mustPull(c.ImagePullPolicy, image != nil && proof == allowed) {
		if image != nil && proof == allowed {
			p.event(pod, c, v1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", c.Image))
			return image, nil
		}
		// Also for one that is present and not the pod's to have: that is not for it to know.
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
		p.event(pod, c, v1.EventTypeWarning, "ErrImageNeverPull", message)
		return nil, &Error{Reason: ReasonErrImageNever, Message: message}
	}
	return p.pull(ctx, pod, c, spec, sandbox)
}

// verify says whether the pod may have an image that is present. Its credentials are only looked for if that matters.
func (p *Puller) verify(ctx context.Context, pod *v1.Pod, ref, imageID string) (verdict, error) {
	proof, err := p.pulled.check(ref, imageID, nil)
	if err != nil || proof == allowed {
		return proof, err
	}
	have, _ := p.credentials(ctx, pod, ref)
	return p.pulled.check(ref, imageID, have)
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
		if failed.why != "" {
			message += ": " + failed.why
		}
		return nil, &Error{Reason: ReasonImagePullBackOff, Message: message, RetryAt: failed.at.Add(p.backoff.Get(key))}
	}
	if p.cfg.Began != nil {
		p.cfg.Began(pod.UID, c.Image)
	}
	p.event(pod, c, v1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", c.Image))
	waiting := time.Now()
	if p.slots != nil {
		select {
		case p.slots <- struct{}{}:
			defer func() { <-p.slots }()
		case <-ctx.Done():
			return nil, &Error{Reason: ReasonErrImagePull, Message: ctx.Err().Error()}
		}
	}
	began := time.Now()
	by, err := p.try(ctx, pod, spec, sandbox)
	if err != nil {
		reason, message := classify(c.Image, err)
		p.mu.Lock()
		p.failed[key] = failure{time.Now(), reason + ": " + message}
		p.mu.Unlock()
		p.backoff.Next(key, time.Now())
		p.event(pod, c, v1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", c.Image, err))
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
	if err == nil {
		err = p.pulled.done(spec.GetImage(), image.GetId(), by)
	}
	if err != nil {
		return nil, &Error{Reason: ReasonImageInspectError, Message: fmt.Sprintf("Failed to inspect image %q: %v", c.Image, err)}
	}
	took, whole := time.Since(began).Truncate(time.Millisecond), time.Since(waiting).Truncate(time.Millisecond)
	if p.cfg.Got != nil {
		p.cfg.Got(pod.UID, c.Image)
	}
	if p.cfg.Pulled != nil {
		p.cfg.Pulled(image.GetSize(), time.Since(waiting))
	}
	p.event(pod, c, v1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		c.Image, took, whole, image.GetSize()))
	return image, nil
}

// try pulls with each credential that fits until one works, which it returns; without any it pulls anonymously.
func (p *Puller) try(ctx context.Context, pod *v1.Pod, spec *runtimeapi.ImageSpec, sandbox *runtimeapi.PodSandboxConfig) (*credential, error) {
	if err := p.pulled.begin(spec.GetImage()); err != nil {
		return nil, err
	}
	all, missing := p.credentials(ctx, pod, spec.GetImage())
	var errs []error
	for i := range all {
		err := p.bring(ctx, &runtimeapi.PullImageRequest{Image: spec, Auth: all[i].auth, SandboxConfig: sandbox})
		if err == nil {
			return &all[i], nil
		}
		errs = append(errs, err)
	}
	if len(all) == 0 {
		err := p.bring(ctx, &runtimeapi.PullImageRequest{Image: spec, SandboxConfig: sandbox})
		if err == nil {
			return nil, nil
		}
		errs = append(errs, err)
	}
	if len(missing) > 0 {
		p.events.Eventf(pod, v1.EventTypeWarning, "FailedToRetrieveImagePullSecret", "Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", "))
	}
	return nil, utilerrors.NewAggregate(append(errs, p.pulled.failed(spec.GetImage())))
}

// bring has the runtime pull, unless too many pulls were tried just now.
func (p *Puller) bring(ctx context.Context, r *runtimeapi.PullImageRequest) error {
	if p.rate != nil && !p.rate.TryAccept() {
		return errors.New("pull QPS exceeded")
	}
	_, err := p.cri.PullImage(ctx, r)
	if s, ok := grpcstatus.FromError(err); ok && s.Code() == codes.Unknown {
		return errors.New(s.Message()) // the code would tell nothing, and hide what the text begins with
	}
	return err
}

// classify turns a runtime's error into the reason and text of the waiting state.
func classify(image string, err error) (reason, message string) {
	text := err.Error()
	if detail, is := strings.CutPrefix(text, crierrors.ErrRegistryUnavailable.Error()); is {
		return ReasonRegistryDown, fmt.Sprintf("image pull failed for %s because the registry is unavailable%s", image, detail)
	}
	if detail, is := strings.CutPrefix(text, crierrors.ErrSignatureValidationFailed.Error()); is {
		return ReasonSignature, fmt.Sprintf("image pull failed for %s because the signature validation failed%s", image, detail)
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
