// SPDX-License-Identifier: Apache-2.0

package volumebinding

import (
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins/podvolumes"
)

func (*plugin) Hints() []framework.Hint {
	change := framework.Add | framework.UpdateOther
	return []framework.Hint{
		podvolumes.ClaimHint(change),
		{Kind: framework.PersistentVolume, Action: change},
		{Kind: framework.StorageClass, Action: framework.Add},
		{Kind: framework.StorageClass, Action: framework.UpdateOther, Helps: otherTopologies},
		{Kind: framework.Node, Action: framework.Add | framework.UpdateNodeLabel},
		{Kind: framework.CSIDriver, Action: framework.UpdateOther | framework.Delete, Helps: capacityNoLongerTold},
		{Kind: framework.CSIStorageCapacity, Action: framework.Add},
		{Kind: framework.CSIStorageCapacity, Action: framework.UpdateOther, Helps: moreCapacity},
	}
}

func otherTopologies(_ *framework.PodInfo, event *framework.Event) bool {
	old, now := event.Old.(*storagev1.StorageClass), event.New.(*storagev1.StorageClass)
	return !equality.Semantic.DeepEqual(old.AllowedTopologies, now.AllowedTopologies)
}

// capacityNoLongerTold says whether a driver's volumes are made from now on without a look at what is left.
func capacityNoLongerTold(_ *framework.PodInfo, event *framework.Event) bool {
	old, _ := event.Old.(*storagev1.CSIDriver)
	now, _ := event.New.(*storagev1.CSIDriver)
	return old != nil && tellsCapacity(old) && (now == nil || !tellsCapacity(now))
}

func moreCapacity(_ *framework.PodInfo, event *framework.Event) bool {
	was, is := limit(event.Old.(*storagev1.CSIStorageCapacity)), limit(event.New.(*storagev1.CSIStorageCapacity))
	return is != nil && (was == nil || is.Cmp(*was) > 0)
}
