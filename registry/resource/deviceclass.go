// SPDX-License-Identifier: Apache-2.0

package resource

import (
	resourcev1 "k8s.io/api/resource/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// DeviceClasses says what is particular to deviceclasses.
func DeviceClasses() rest.Resource[*resourcev1.DeviceClass] {
	return rest.Resource[*resourcev1.DeviceClass]{
		Kind:           resourcev1.SchemeGroupVersion.WithKind("DeviceClass"),
		Plural:         "deviceclasses",
		Singular:       "deviceclass",
		ReturnDeleted:  true,
		Validate:       validateDeviceClass,
		ValidateUpdate: validateDeviceClassUpdate,
	}
}
