// SPDX-License-Identifier: Apache-2.0

package endpointslicemirroring

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	sliceutil "k8s.io/endpointslice/util"
	netutils "k8s.io/utils/net"
)

// maxAddresses is how many addresses of a subset are mirrored.
const maxAddresses = 1000

// mirrored is what Endpoints say in terms of slices.
type mirrored struct {
	groups  []group
	invalid int // addresses that are not IP addresses
	skipped int // addresses that are not mirrored, invalid ones included
}

// group is what one slice says: endpoints of one IP family with the same ports.
type group struct {
	family    discoveryv1.AddressType
	ports     []discoveryv1.EndpointPort
	endpoints []discoveryv1.Endpoint
}

// key tells groups and slices apart.
type key struct {
	family discoveryv1.AddressType
	ports  sliceutil.PortMapKey
}

func (g *group) key() key { return key{g.family, sliceutil.NewPortMapKey(g.ports)} }

// mirror splits the subsets of Endpoints by IP family.
func mirror(endpoints *corev1.Endpoints) mirrored {
	var out mirrored
	for _, s := range canonical(endpoints.Subsets) {
		ports := slicePorts(s.ports)
		v4 := group{family: discoveryv1.AddressTypeIPv4, ports: ports}
		v6 := group{family: discoveryv1.AddressTypeIPv6, ports: ports}
		added := 0
		for _, m := range s.members {
			if added == maxAddresses {
				break
			}
			ip := netutils.ParseIPSloppy(m.address.IP)
			if ip == nil {
				out.invalid++
				continue
			}
			added++
			in := &v4
			if ip.To4() == nil {
				in = &v6
			}
			in.endpoints = append(in.endpoints, sliceEndpoint(m, ip.String()))
		}
		out.skipped += len(s.members) - added
		for _, g := range []group{v4, v6} {
			if len(g.endpoints) > 0 {
				out.groups = append(out.groups, g)
			}
		}
	}
	return out
}

func slicePorts(ports []corev1.EndpointPort) []discoveryv1.EndpointPort {
	out := make([]discoveryv1.EndpointPort, len(ports))
	for i, p := range ports {
		out[i] = discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol}
	}
	return out
}

func sliceEndpoint(m member, ip string) discoveryv1.Endpoint {
	out := discoveryv1.Endpoint{
		Addresses:  []string{ip},
		Conditions: discoveryv1.EndpointConditions{Ready: &m.ready},
		TargetRef:  m.address.TargetRef,
		NodeName:   m.address.NodeName,
	}
	if m.address.Hostname != "" {
		out.Hostname = &m.address.Hostname
	}
	return out
}

// subset is a canonical EndpointSubset: no address is in two subsets with the same port, and no two subsets have
// the same addresses.
type subset struct {
	ports   []corev1.EndpointPort
	members []member // the ready ones first
}

type member struct {
	address corev1.EndpointAddress
	ready   bool
}

// identity is of an address; several pods may have the same IP.
type identity struct {
	ip  string
	uid types.UID
}

func (m *member) identity() identity {
	id := identity{ip: m.address.IP}
	if m.address.TargetRef != nil {
		id.uid = m.address.TargetRef.UID
	}
	return id
}

// canonical finds out which addresses each port has, then puts ports with the same addresses together. An address
// that is ready here and not ready there is not ready.
func canonical(subsets []corev1.EndpointSubset) []subset {
	ports := map[string][]corev1.EndpointPort{} // one port, or none if the subset has none
	members := map[string]map[identity]member{}
	add := func(port []corev1.EndpointPort, addresses []corev1.EndpointAddress, ready bool) {
		id := portID(port)
		if members[id] == nil {
			ports[id], members[id] = port, map[identity]member{}
		}
		for _, a := range addresses {
			m := member{a, ready}
			if have, ok := members[id][m.identity()]; ok {
				have.ready = have.ready && ready
				m = have
			}
			members[id][m.identity()] = m
		}
	}
	for _, s := range subsets {
		each := [][]corev1.EndpointPort{nil}
		if len(s.Ports) > 0 {
			each = slices.Collect(slices.Chunk(s.Ports, 1))
		}
		for _, port := range each {
			add(port, s.Addresses, true)
			add(port, s.NotReadyAddresses, false)
		}
	}
	var out []subset
	position := map[string]int{} // in out, by the members
	for _, id := range slices.Sorted(maps.Keys(ports)) {
		sorted := slices.SortedFunc(maps.Values(members[id]), compareMembers)
		sameAs := fmt.Sprint(identities(sorted))
		at, ok := position[sameAs]
		if !ok {
			at = len(out)
			position[sameAs] = at
			out = append(out, subset{members: sorted})
		}
		out[at].ports = append(out[at].ports, ports[id]...)
	}
	return out
}

func compareMembers(a, b member) int {
	if a.ready != b.ready {
		if a.ready {
			return -1
		}
		return 1
	}
	x, y := a.identity(), b.identity()
	return cmp.Or(cmp.Compare(x.ip, y.ip), cmp.Compare(x.uid, y.uid))
}

// identities are enough to compare members by, with the number of those that are ready.
func identities(members []member) ([]identity, int) {
	ids, ready := make([]identity, len(members)), 0
	for i := range members {
		ids[i] = members[i].identity()
		if members[i].ready {
			ready++
		}
	}
	return ids, ready
}

func portID(port []corev1.EndpointPort) string {
	if len(port) == 0 {
		return ""
	}
	app := ""
	if port[0].AppProtocol != nil {
		app = *port[0].AppProtocol
	}
	return fmt.Sprintf("%s/%d/%s/%s", port[0].Name, port[0].Port, port[0].Protocol, app)
}

// changes are what makes slices say what they must.
type changes struct{ create, update, remove []*discoveryv1.EndpointSlice }

// diff compares the slices that there are with the groups that there must be. A slice whose ports nobody has any
// more is used again for a group that has none yet.
func diff(endpoints *corev1.Endpoints, groups []group, existing []*discoveryv1.EndpointSlice) changes {
	var todo changes
	var missing []group
	free := slices.Clone(existing)
	slices.SortFunc(free, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	take := func(fits func(*discoveryv1.EndpointSlice) bool) *discoveryv1.EndpointSlice {
		i := slices.IndexFunc(free, fits)
		if i < 0 {
			return nil
		}
		found := free[i]
		free = slices.Delete(free, i, i+1)
		return found
	}
	set := func(old *discoveryv1.EndpointSlice, g *group) {
		if slice := build(endpoints, g, old); !same(old, slice) {
			todo.update = append(todo.update, slice)
		}
	}
	for _, g := range groups {
		old := take(func(s *discoveryv1.EndpointSlice) bool {
			return key{s.AddressType, sliceutil.NewPortMapKey(s.Ports)} == g.key()
		})
		if old == nil {
			missing = append(missing, g)
		} else {
			set(old, &g)
		}
	}
	for _, g := range missing {
		if old := take(func(s *discoveryv1.EndpointSlice) bool { return s.AddressType == g.family }); old != nil {
			set(old, &g)
		} else {
			todo.create = append(todo.create, build(endpoints, &g, nil))
		}
	}
	todo.remove = free
	return todo
}

// build returns the slice for a group: old as it must be, or a new one.
func build(endpoints *corev1.Endpoints, g *group, old *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: endpoints.Namespace, GenerateName: namePrefix(endpoints.Name)}}
	if old != nil {
		slice = old.DeepCopy()
	}
	slice.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(endpoints, corev1.SchemeGroupVersion.WithKind("Endpoints"))}
	slice.Labels = maps.Clone(endpoints.Labels)
	if slice.Labels == nil {
		slice.Labels = map[string]string{}
	}
	slice.Labels[discoveryv1.LabelServiceName] = endpoints.Name
	slice.Labels[discoveryv1.LabelManagedBy] = managedBy
	slice.Annotations = maps.Clone(endpoints.Annotations)
	delete(slice.Annotations, corev1.EndpointsLastChangeTriggerTime)
	delete(slice.Annotations, corev1.LastAppliedConfigAnnotation)
	slice.AddressType, slice.Ports, slice.Endpoints = g.family, g.ports, g.endpoints
	return slice
}

// namePrefix has a dash at its end, unless that makes it too long.
func namePrefix(name string) string {
	if prefix := name + "-"; len(apivalidation.NameIsDNSSubdomain(prefix, true)) == 0 {
		return prefix
	}
	return name
}

// same tells whether a slice needs no write. The order of its endpoints means nothing.
func same(old, new *discoveryv1.EndpointSlice) bool {
	if !equality.Semantic.DeepEqual(old.ObjectMeta, new.ObjectMeta) || len(old.Endpoints) != len(new.Endpoints) ||
		sliceutil.NewPortMapKey(old.Ports) != sliceutil.NewPortMapKey(new.Ports) {
		return false
	}
	had := sliceutil.EndpointSet{}
	for i := range old.Endpoints {
		had.Insert(old.Endpoints[i].DeepCopy())
	}
	for i := range new.Endpoints {
		e := had.Get(&new.Endpoints[i])
		if e == nil || !sliceutil.EndpointsEqualBeyondHash(e, &new.Endpoints[i]) {
			return false
		}
	}
	return true
}
