// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/mount-utils"
)

// nfs mounts what an NFS server exports, for a pod or behind a claim. The node needs its mount.nfs for that.
type nfs struct{}

func (nfs) name() string { return "kubernetes.io/nfs" }

func (nfs) supports(v *volume) bool {
	return v.source.NFS != nil || v.pv != nil && v.pv.Spec.NFS != nil
}

func (nfs) setUp(_ context.Context, v *volume) (mounted, error) {
	source, options := nfsMount(v)
	at, err := isMountPoint(v.dir)
	if err != nil {
		return mounted{}, err
	}
	if !at {
		if err := os.MkdirAll(v.dir, 0o750); err != nil {
			return mounted{}, err
		}
		if err := mount.NewWithoutSystemd("").Mount(source, v.dir, "nfs", options); err != nil {
			return mounted{}, errors.Join(err, os.Remove(v.dir))
		}
	}
	return mounted{path: v.dir, readOnly: slices.Contains(options, "ro")}, nil
}

// nfsMount is what to mount, and how.
func nfsMount(v *volume) (source string, options []string) {
	var export *corev1.NFSVolumeSource
	readOnly := v.readOnly
	if v.pv != nil {
		export, options = v.pv.Spec.NFS, slices.Clone(v.pv.Spec.MountOptions)
	} else {
		export = v.source.NFS
		readOnly = export.ReadOnly
	}
	if readOnly {
		options = append(options, "ro")
	}
	server := export.Server
	if addr, err := netip.ParseAddr(server); err == nil && addr.Is6() {
		server = "[" + server + "]"
	}
	return server + ":" + export.Path, options
}
