// SPDX-License-Identifier: Apache-2.0

package podcontrol

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/dump"
)

// TemplateHash tells pod templates apart in names and labels. It is computed as upstream does, so that a cluster
// that changes hands keeps its ReplicaSets and DaemonSets.
func TemplateHash(template *corev1.PodTemplateSpec, collisions *int32) string {
	hasher := fnv.New32a()
	fmt.Fprintf(hasher, "%v", dump.ForHash(*template))
	if collisions != nil {
		suffix := make([]byte, 8)
		binary.LittleEndian.PutUint32(suffix, uint32(*collisions))
		hasher.Write(suffix)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(hasher.Sum32()), 10))
}
