// SPDX-License-Identifier: Apache-2.0

package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/distribution/reference"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	api "k8s.io/kubelet/config/v1beta1"

	"github.com/skiff-k8s/skiff/kubelet/checkpoint"
)

// pulled remembers by whose credentials images came to this node, so that a pod that may not pull an image cannot have it
// only because another pod could. Images that were there before (preloaded) are everybody's.
//
// Before a pull an intent is written; after it, a record. Both lie in files in upstream's form.
type pulled struct {
	dir       string
	policy    api.ImagePullCredentialsVerificationPolicy // of which images it matters; empty: of those that were pulled
	allowlist Allowlist                                  // of which it does not, with the policy that has one

	mu sync.Mutex // one change at a time
}

// verdict on whether a pod may have an image that is present.
type verdict int

const (
	allowed verdict = iota
	mustProve
)

// check says whether a pod with these credentials may have an image without a pull.
func (p *pulled) check(image, imageID string, have []credential) (verdict, error) {
	if p == nil {
		return allowed, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	record, err := p.record(imageID)
	if err != nil {
		return mustProve, err
	}
	preloaded := false
	if record == nil { // if there is an intent, we may have ended before we could write by whose right it was pulled
		_, err := os.Stat(p.intent(image))
		if preloaded = errors.Is(err, fs.ErrNotExist); err != nil && !preloaded {
			return mustProve, err
		}
	}
	switch {
	case !p.matters(image, preloaded):
		return allowed, nil
	case record == nil:
		return mustProve, nil
	}
	by, known := record.CredentialMapping[bare(image)]
	switch {
	case !known:
		return mustProve, nil
	case by.NodePodsAccessible:
		return allowed, nil
	}
	for _, c := range have {
		if s := c.secretRecord(); s != nil && slices.ContainsFunc(by.KubernetesSecrets, func(r api.ImagePullSecret) bool {
			return r.CredentialHash == s.CredentialHash || r.UID == s.UID && r.Namespace == s.Namespace && r.Name == s.Name
		}) {
			return allowed, nil
		}
		if a := c.accountRecord(); a != nil && slices.Contains(by.KubernetesServiceAccounts, *a) {
			return allowed, nil
		}
	}
	return mustProve, nil
}

// matters says whether a pod has to prove that it may have an image.
func (p *pulled) matters(image string, preloaded bool) bool {
	switch p.policy {
	case api.NeverVerify:
		return false
	case api.NeverVerifyAllowlistedImages:
		return !p.allowlist.has(image)
	case api.AlwaysVerify:
		return true
	}
	return !preloaded
}

// begin is called before a pull.
func (p *pulled) begin(image string) error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return write(p.intent(image), &api.ImagePullIntent{TypeMeta: typeMeta("ImagePullIntent"), Image: image})
}

// done is called after a pull that succeeded by a credential; nil if none was needed.
func (p *pulled) done(image, imageID string, by *credential) error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	record, err := p.record(imageID)
	if err != nil {
		return err
	}
	if record == nil {
		record = &api.ImagePulledRecord{TypeMeta: typeMeta("ImagePulledRecord"), ImageRef: imageID}
	}
	if record.CredentialMapping == nil {
		record.CredentialMapping = map[string]api.ImagePullCredentials{}
	}
	entry := record.CredentialMapping[bare(image)]
	switch secret, account := by.secretRecord(), by.accountRecord(); {
	case secret != nil:
		entry.KubernetesSecrets = slices.DeleteFunc(entry.KubernetesSecrets, func(r api.ImagePullSecret) bool {
			return r.UID == secret.UID && r.Name == secret.Name && r.Namespace == secret.Namespace
		})
		entry.KubernetesSecrets = append(entry.KubernetesSecrets, *secret)
	case account != nil:
		if !slices.Contains(entry.KubernetesServiceAccounts, *account) {
			entry.KubernetesServiceAccounts = append(entry.KubernetesServiceAccounts, *account)
		}
	default:
		entry = api.ImagePullCredentials{NodePodsAccessible: true}
	}
	record.CredentialMapping[bare(image)], record.LastUpdatedTime = entry, metav1.Now()
	if err := write(p.file(imageID), record); err != nil {
		return err
	}
	return remove(p.intent(image))
}

// failed is called after a pull that did not bring the image.
func (p *pulled) failed(image string) error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return remove(p.intent(image))
}

// forget is called when an image is removed.
func (p *pulled) forget(imageID string) error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return remove(p.file(imageID))
}

func (p *pulled) record(imageID string) (*api.ImagePulledRecord, error) {
	data, err := os.ReadFile(p.file(imageID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read by whom an image was pulled: %w", err)
	}
	record := &api.ImagePulledRecord{}
	if err := json.Unmarshal(data, record); err != nil {
		return nil, fmt.Errorf("read by whom an image was pulled: %w", err)
	}
	return record, nil
}

func (p *pulled) file(imageID string) string { return filepath.Join(p.dir, "pulled", hashed(imageID)) }

func (p *pulled) intent(image string) string { return filepath.Join(p.dir, "pulling", hashed(image)) }

func hashed(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + hex.EncodeToString(sum[:])
}

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: api.SchemeGroupVersion.String(), Kind: kind}
}

// bare is an image's name without tag and digest.
func bare(image string) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return image
	}
	return named.Name()
}

func write(path string, v any) error {
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), checkpoint.Save(path, v)); err != nil {
		return fmt.Errorf("note who pulls an image: %w", err)
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
