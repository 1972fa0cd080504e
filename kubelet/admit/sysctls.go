// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// safeSysctls are namespaced by the kernel and touch no other pod.
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem",
	"net.ipv4.tcp_wmem", "net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_notsent_lowat",
}

// Sysctls refuses a pod that sets what is neither safe nor allowed by the operator ("kernel.msg*" allows a whole family),
// or what its namespaces would change for the whole machine.
func Sysctls(pod *v1.Pod, allowed []string) *Rejection {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		name := strings.ReplaceAll(s.Name, "/", ".")
		if !slices.Contains(safeSysctls, name) && !slices.ContainsFunc(allowed, func(pattern string) bool { return covers(pattern, name) }) {
			return rejected("SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowlisted", name))
		}
		if where := sharedNamespace(pod, name); where != "" {
			return rejected("SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowed with host %s enabled", name, where))
		}
	}
	return nil
}

func covers(pattern, name string) bool {
	pattern = strings.ReplaceAll(pattern, "/", ".")
	if prefix, family := strings.CutSuffix(pattern, "*"); family {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

// sharedNamespace names the namespace that a sysctl belongs to if the pod has the host's.
func sharedNamespace(pod *v1.Pod, name string) string {
	ipc := name == "kernel.sem" || strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") || strings.HasPrefix(name, "fs.mqueue.")
	switch {
	case pod.Spec.HostIPC && ipc:
		return "ipc"
	case pod.Spec.HostNetwork && strings.HasPrefix(name, "net."):
		return "net"
	}
	return ""
}
