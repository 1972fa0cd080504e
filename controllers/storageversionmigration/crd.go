// SPDX-License-Identifier: Apache-2.0

package storageversionmigration

import (
	"context"
	"fmt"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsapply "k8s.io/apiextensions-apiserver/pkg/client/applyconfiguration/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// markCRD notes in the definition of a custom resource that a migration runs.
func (c *controller) markCRD(ctx context.Context, m *migration) error {
	crd, err := c.crd(ctx, m)
	if crd == nil || err != nil {
		return err
	}
	return c.applyCRD(ctx, crd, apiextensionsv1.ConditionTrue, "MigrationRunning", fmt.Sprintf("Migration %s is running", m.Name), "")
}

// finishCRD notes that it has ended. If it has succeeded, and the definition is the one it began with, there are
// no objects left but of the storage version.
func (c *controller) finishCRD(ctx context.Context, m *migration) error {
	crd, err := c.crd(ctx, m)
	if crd == nil || err != nil {
		return err
	}
	reason, message, stored := "MigrationFailed", "The migration has failed", ""
	if isTrue(m, storagemigrationv1.MigrationSucceeded) {
		reason, message = "MigrationSucceeded", "The migration has succeeded but the stored versions have not been updated due to a generation mismatch"
		if beganWith(crd) {
			message = "The migration has succeeded and the stored versions have been updated"
			stored = storageVersion(crd)
		}
	}
	return c.applyCRD(ctx, crd, apiextensionsv1.ConditionFalse, reason, message, stored)
}

// beganWith tells whether the definition is as it was when the migration began.
func beganWith(crd *apiextensionsv1.CustomResourceDefinition) bool {
	for _, condition := range crd.Status.Conditions {
		if condition.Type == apiextensionsv1.StorageMigrating {
			return condition.ObservedGeneration == crd.Generation
		}
	}
	return false
}

func storageVersion(crd *apiextensionsv1.CustomResourceDefinition) string {
	for _, version := range crd.Spec.Versions {
		if version.Storage {
			return version.Name
		}
	}
	return ""
}

// crd returns the definition of the resource, nil if it is built in.
func (c *controller) crd(ctx context.Context, m *migration) (*apiextensionsv1.CustomResourceDefinition, error) {
	name := m.Spec.Resource.Resource + "." + m.Spec.Resource.Group
	crd, err := c.CRDs.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get CustomResourceDefinition %s: %w", name, err)
	}
	return crd, nil
}

// applyCRD sets the condition and, unless it is empty, the only stored version; of exactly this definition.
func (c *controller) applyCRD(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, value apiextensionsv1.ConditionStatus, reason, message, stored string) error {
	status := apiextensionsapply.CustomResourceDefinitionStatus().WithConditions(apiextensionsapply.CustomResourceDefinitionCondition().
		WithType(apiextensionsv1.StorageMigrating).WithStatus(value).WithLastTransitionTime(metav1.Now()).
		WithReason(reason).WithMessage(message).WithObservedGeneration(crd.Generation))
	if stored != "" {
		status.WithStoredVersions(stored)
	}
	_, err := c.CRDs.ApplyStatus(ctx, apiextensionsapply.CustomResourceDefinition(crd.Name).WithResourceVersion(crd.ResourceVersion).WithStatus(status),
		metav1.ApplyOptions{FieldManager: "migration-runner-controller", Force: true})
	if err != nil {
		return fmt.Errorf("set the status of CustomResourceDefinition %s: %w", crd.Name, err)
	}
	return nil
}
