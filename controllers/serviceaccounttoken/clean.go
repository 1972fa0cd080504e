// SPDX-License-Identifier: Apache-2.0

package serviceaccounttoken

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/skiff-k8s/skiff/apiserver/authz/node"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

const (
	unused   = 365 * 24 * time.Hour // after which a token is marked, and after that deleted
	cleanAll = 24 * time.Hour       // between two looks

	lastUsedLabel     = "kubernetes.io/legacy-token-last-used"
	invalidSinceLabel = "kubernetes.io/legacy-token-invalid-since"
)

// TrackingConfigMap in kube-system says, under TrackingKey, since which day the API server notes the use of tokens.
const (
	TrackingConfigMap = "kube-apiserver-legacy-service-account-token-tracking"
	TrackingKey       = "since"
)

// clean marks and deletes what nobody has used for long.
func (c *controller) clean(ctx context.Context, lister corelisters.SecretLister) (reconcile.Result, error) {
	secrets, err := lister.List(labels.Everything())
	if err != nil || len(secrets) == 0 {
		return reconcile.Result{}, err // the first token queues it again
	}
	again := reconcile.Result{RequeueAfter: cleanAll}
	now := time.Now().UTC()
	since, err := c.trackedSince(ctx)
	if err != nil {
		return again, err
	}
	if now.Before(since.Add(unused)) {
		return again, nil
	}
	var errs []error
	for _, secret := range secrets {
		if !isOld(secret, now) {
			continue
		}
		made, err := c.wasMadeUnasked(secret)
		if err == nil && made {
			err = c.retire(ctx, secret, now)
		}
		errs = append(errs, err)
	}
	return again, errors.Join(errs...)
}

// trackedSince returns the end of the first day of which it is known who used what.
func (c *controller) trackedSince(ctx context.Context) (time.Time, error) {
	config, err := c.Cleaner.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, TrackingConfigMap, metav1.GetOptions{})
	if err != nil {
		return time.Time{}, fmt.Errorf("find out since when the use of tokens is noted: %w", err)
	}
	day, err := time.Parse(time.DateOnly, config.Data[TrackingKey])
	if err != nil {
		return time.Time{}, fmt.Errorf("find out since when the use of tokens is noted: %w", err)
	}
	return day.AddDate(0, 0, 1), nil
}

// isOld tells whether a token was not made and not used for long. What cannot be read is not old.
func isOld(secret *corev1.Secret, now time.Time) bool {
	limit := now.Add(-unused)
	if secret.DeletionTimestamp != nil || !secret.CreationTimestamp.Time.Before(limit) {
		return false
	}
	used, ok := secret.Labels[lastUsedLabel]
	if !ok {
		return true
	}
	_, err := time.Parse(time.DateOnly, used)
	return err == nil && used < limit.Format(time.DateOnly)
}

// wasMadeUnasked tells whether a token is one that old versions made for each account: the account refers to it. One
// that a pod mounts is needed nevertheless.
func (c *controller) wasMadeUnasked(secret *corev1.Secret) (bool, error) {
	account, err := c.accounts.ServiceAccounts(secret.Namespace).Get(accountOf(secret))
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil || !isUID(account, secret.Annotations[corev1.ServiceAccountUIDKey]) || !refersTo(account, secret.Name) {
		return false, err
	}
	pods, err := c.pods.Pods(secret.Namespace).List(labels.Everything())
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(pods, func(pod *corev1.Pod) bool { return slices.Contains(node.SecretNames(pod), secret.Name) }), nil
}

// retire marks a token as invalid, and deletes it if it has been that for long.
func (c *controller) retire(ctx context.Context, secret *corev1.Secret, now time.Time) error {
	secrets := c.Cleaner.CoreV1().Secrets(secret.Namespace)
	since := secret.Labels[invalidSinceLabel]
	if _, err := time.Parse(time.DateOnly, since); err != nil {
		patch, err := json.Marshal(metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
			UID: secret.UID, Labels: map[string]string{invalidSinceLabel: now.Format(time.DateOnly)},
		}})
		if err != nil {
			return err
		}
		if _, err := secrets.Patch(ctx, secret.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark token Secret %s/%s as invalid: %w", secret.Namespace, secret.Name, err)
		}
		return nil
	}
	if since >= now.Add(-unused).Format(time.DateOnly) {
		return nil
	}
	err := secrets.Delete(ctx, secret.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &secret.ResourceVersion}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete token Secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	return nil
}
