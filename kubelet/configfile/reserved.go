// SPDX-License-Identifier: Apache-2.0

package configfile

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	api "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/cpuset"

	"github.com/skiff-k8s/skiff/kubelet/cgroups"
)

// What enforceNodeAllocatable can name. What is compressible is the CPU alone.
const (
	enforcePods   = "pods"
	enforceNone   = "none"
	enforceSystem = "system-reserved"
	enforceKube   = "kube-reserved"
	compressible  = "-compressible"
)

// Reserved is what the node keeps for the system and for itself.
func Reserved(c *api.KubeletConfiguration) (v1.ResourceList, error) {
	sum := v1.ResourceList{}
	for field, list := range map[string]map[string]string{"kubeReserved": c.KubeReserved, "systemReserved": c.SystemReserved} {
		amounts, err := amountsOf(field, list)
		if err != nil {
			return nil, err
		}
		for name, q := range amounts {
			q.Add(sum[name])
			sum[name] = q
		}
	}
	if set, err := cpuset.Parse(c.ReservedSystemCPUs); err == nil && !set.IsEmpty() {
		sum[v1.ResourceCPU] = *resource.NewQuantity(int64(set.Size()), resource.DecimalSI)
	}
	return sum, nil
}

func amountsOf(field string, list map[string]string) (v1.ResourceList, error) {
	amounts := v1.ResourceList{}
	for name, text := range list {
		switch v1.ResourceName(name) {
		case v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage, "pid":
		default:
			return nil, fmt.Errorf("%s: cannot reserve %q resource", field, name)
		}
		q, err := resource.ParseQuantity(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", field, name, err)
		}
		if q.Sign() < 0 {
			return nil, fmt.Errorf("%s: %s cannot be negative", field, name)
		}
		amounts[v1.ResourceName(name)] = q
	}
	return amounts, nil
}

// Reservations are the cgroups that are to be limited to what is reserved for them.
func Reservations(c *api.KubeletConfiguration) (all []cgroups.Reservation, err error) {
	system, err := amountsOf("systemReserved", c.SystemReserved)
	if err != nil {
		return nil, err
	}
	kube, err := amountsOf("kubeReserved", c.KubeReserved)
	if err != nil {
		return nil, err
	}
	for _, of := range []struct {
		enforcement, owner, group string
		amounts                   v1.ResourceList
	}{
		{enforceSystem, "system", c.SystemReservedCgroup, system}, {enforceKube, "kube", c.KubeReservedCgroup, kube},
	} {
		r := cgroups.Reservation{Owner: of.owner, Group: of.group, Amounts: of.amounts}
		if slices.Contains(c.EnforceNodeAllocatable, of.enforcement) {
			all = append(all, r)
		}
		if slices.Contains(c.EnforceNodeAllocatable, of.enforcement+compressible) {
			r.Compressible = true
			all = append(all, r)
		}
	}
	return all, nil
}

// checkReserved checks which cgroups are to be limited.
func checkReserved(c *api.KubeletConfiguration) error {
	list := c.EnforceNodeAllocatable
	valid := []string{enforcePods, enforceSystem, enforceSystem + compressible, enforceKube, enforceKube + compressible, enforceNone}
	for i, what := range list {
		switch {
		case !slices.Contains(valid, what):
			return fmt.Errorf("option %q specified for enforceNodeAllocatable. Valid options are %q", what, valid)
		case slices.Contains(list[:i], what):
			return fmt.Errorf("duplicated enforcements %q in enforceNodeAllocatable", what)
		case what == enforceNone && len(list) > 1:
			return fmt.Errorf("enforceNodeAllocatable may not contain additional enforcements when %q is specified", what)
		}
	}
	for _, of := range []struct{ enforcement, field, group string }{
		{enforceSystem, "systemReservedCgroup", c.SystemReservedCgroup}, {enforceKube, "kubeReservedCgroup", c.KubeReservedCgroup},
	} {
		all, cpu := slices.Contains(list, of.enforcement), slices.Contains(list, of.enforcement+compressible)
		switch {
		case all && cpu:
			return fmt.Errorf("both %q and %q cannot be specified together in enforceNodeAllocatable", of.enforcement, of.enforcement+compressible)
		case (all || cpu) && of.group == "":
			return fmt.Errorf("%s must be specified when %q or %q included in enforceNodeAllocatable", of.field, of.enforcement, of.enforcement+compressible)
		case of.group != "" && c.ReservedSystemCPUs != "":
			return fmt.Errorf("can't use reservedSystemCPUs with systemReservedCgroup or kubeReservedCgroup")
		}
	}
	return nil
}
