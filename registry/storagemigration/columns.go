// SPDX-License-Identifier: Apache-2.0

package storagemigration

import (
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// storageVersionMigrationColumns are what kubectl prints, in the order and the words of upstream.
func storageVersionMigrationColumns() []rest.Column[*storagemigrationv1.StorageVersionMigration] {
	type M = *storagemigrationv1.StorageVersionMigration
	name := rest.Name[M]()
	name.Format = ""
	return []rest.Column[M]{
		name,
		rest.Text("Resource", "GroupResource to migrate", func(o M) string { return o.Spec.Resource.String() }),
		rest.Text("Status", "Status of the migration", func(o M) string {
			status := "Unknown"
			for _, c := range o.Status.Conditions {
				switch storagemigrationv1.MigrationConditionType(c.Type) {
				case storagemigrationv1.MigrationRunning, storagemigrationv1.MigrationFailed, storagemigrationv1.MigrationSucceeded:
					if c.Status == metav1.ConditionTrue {
						status = c.Type
					}
				}
			}
			return status
		}),
	}
}
