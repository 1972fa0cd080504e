// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/etcd/msg"
	"github.com/coredns/coredns/plugin/pkg/dnsutil"
	"github.com/coredns/coredns/plugin/pkg/fall"
	"github.com/coredns/coredns/plugin/pkg/upstream"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// kubernetes is the plugin of that name, as plugin.Handler and plugin.ServiceBackend.
type kubernetes struct {
	next     plugin.Handler
	records  *records
	upstream *upstream.Upstream // for targets of ExternalName Services
	fall     fall.F

	zones      []string
	primary    string // the first zone that is no reverse one
	ttl        uint32
	pods       podMode
	podIndex   cache.Indexer   // only with podsVerified
	search     []string        // domains of the node, for AutoPath
	namespaces map[string]bool // the only ones to serve; empty means all

	podNames    bool // endpoints without a hostname have their pod's name
	noEndpoints bool // nothing has endpoints
	ignoreEmpty bool // Services without a ready endpoint have no name
}

// podMode says whether a-b-c-d.<namespace>.pod has an answer.
type podMode string

const (
	podsDisabled podMode = "disabled"
	podsInsecure podMode = "insecure" // without looking for the pod
	podsVerified podMode = "verified"
)

const (
	defaultTTL    = 5
	schemaVersion = "1.1.0"
	schemaTTL     = 28800
)

// errNoName says that a name does not exist, which is not the same as having no records.
var errNoName = errors.New("no such name")

func (k *kubernetes) Name() string { return "kubernetes" }

// ServeDNS answers what is in our zones.
func (k *kubernetes) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	state := request.Request{W: w, Req: r}
	qname := state.QName()
	zone := plugin.Zones(k.zones).Matches(qname)
	if zone == "" {
		return plugin.NextOrFailure(k.Name(), k.next, ctx, w, r)
	}
	zone = qname[len(qname)-len(zone):] // in the case of the question
	state.Zone = zone
	if state.QType() == dns.TypeAXFR || state.QType() == dns.TypeIXFR {
		return dns.RcodeRefused, nil
	}
	answer, extra, truncated, err := k.answer(ctx, zone, state)
	switch {
	case k.IsNameError(err) && k.fall.Through(state.Name()):
		return plugin.NextOrFailure(k.Name(), k.next, ctx, w, r)
	case k.IsNameError(err):
		return plugin.BackendError(ctx, k, zone, dns.RcodeNameError, state, nil, plugin.Options{})
	case err != nil:
		return dns.RcodeServerFailure, err
	case len(answer) == 0:
		return plugin.BackendError(ctx, k, zone, dns.RcodeSuccess, state, nil, plugin.Options{})
	}
	m := new(dns.Msg)
	m.SetReply(r)
	m.Truncated, m.Authoritative = truncated, true
	m.Answer, m.Extra = answer, extra
	return dns.RcodeSuccess, w.WriteMsg(m)
}

// answer makes the records that are asked for. None and no error is NODATA.
func (k *kubernetes) answer(ctx context.Context, zone string, state request.Request) (answer, extra []dns.RR, truncated bool, err error) {
	var opts plugin.Options
	switch state.QType() {
	case dns.TypeA:
		answer, truncated, err = plugin.A(ctx, k, zone, state, nil, opts)
	case dns.TypeAAAA:
		answer, truncated, err = plugin.AAAA(ctx, k, zone, state, nil, opts)
	case dns.TypeTXT:
		answer, truncated, err = plugin.TXT(ctx, k, zone, state, nil, opts)
	case dns.TypeCNAME:
		answer, err = plugin.CNAME(ctx, k, zone, state, opts)
	case dns.TypePTR:
		answer, err = plugin.PTR(ctx, k, zone, state, opts)
	case dns.TypeSRV:
		answer, extra, err = plugin.SRV(ctx, k, zone, state, opts)
	case dns.TypeSOA, dns.TypeNS:
		if state.QName() != zone {
			err = k.exists(ctx, zone, state)
		} else if state.QType() == dns.TypeSOA {
			answer, err = plugin.SOA(ctx, k, zone, state, opts)
		} else {
			answer, extra, err = plugin.NS(ctx, k, zone, state, opts)
		}
	default:
		err = k.exists(ctx, zone, state)
	}
	return answer, extra, truncated, err
}

// exists tells NXDOMAIN from NODATA for types that we never have.
func (k *kubernetes) exists(ctx context.Context, zone string, state request.Request) error {
	asA := state.NewWithQuestion(state.QName(), dns.TypeA)
	asA.Zone = zone
	_, _, err := plugin.A(ctx, k, zone, asA, nil, plugin.Options{})
	return err
}

// Services finds the records of a name, for all types but PTR.
func (k *kubernetes) Services(_ context.Context, state request.Request, _ bool, _ plugin.Options) ([]msg.Service, error) {
	if dnsutil.IsReverse(state.Name()) > 0 {
		return nil, k.existsReverse(state.Name())
	}
	base, _ := dnsutil.TrimZone(state.Name(), state.Zone) // fails for the zone itself, which is ""
	switch {
	case state.QType() == dns.TypeNS || base == "ns.dns": // of the zone itself, see answer
		return k.nameServer(state), nil
	case base == "dns-version" && state.QType() == dns.TypeTXT:
		return []msg.Service{{Text: schemaVersion, TTL: schemaTTL, Key: msg.Path(state.QName(), "coredns")}}, nil
	case base == "dns-version":
		return nil, nil
	}
	found, err := k.find(base, state.Zone)
	switch state.QType() {
	case dns.TypeTXT:
		return nil, err
	case dns.TypeSRV:
		return withPort(found), err
	}
	return found, err
}

// nameServer is this server, at the addresses of its Service.
func (k *kubernetes) nameServer(state request.Request) []msg.Service {
	var found []msg.Service
	for _, ip := range k.records.clusterIPs {
		found = append(found, msg.Service{Host: ip, TTL: k.ttl, Key: msg.Path("ns.dns."+state.Zone, "coredns")})
	}
	return found
}

// withPort drops what has no SRV record: external names, and endpoints without a port.
func withPort(found []msg.Service) []msg.Service {
	var ports []msg.Service
	for _, s := range found {
		if s.Port != 0 {
			ports = append(ports, s)
		}
	}
	return ports
}

// find returns the addresses, or the external name, of base.<zone>. A name that exists but has
// nothing below it yet is no error.
func (k *kubernetes) find(base, zone string) ([]msg.Service, error) {
	q, err := parse(base)
	if err != nil {
		return nil, err
	}
	switch {
	case q.kind == "" || q.namespace == "":
		return nil, nil
	case !k.serves(q.namespace):
		return nil, errNoName
	case q.name == "":
		return nil, nil
	case q.kind == kindPod:
		return k.findPod(q, zone)
	}
	svc := k.records.service(q.namespace, q.name)
	switch {
	case svc == nil:
		return nil, errNoName
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		return k.findExternal(q, svc, zone)
	case svc.Spec.ClusterIP == corev1.ClusterIPNone || q.endpoint != "":
		return k.findEndpoints(q, zone)
	}
	return k.findClusterIP(q, svc, zone)
}

func (k *kubernetes) serves(namespace string) bool {
	if len(k.namespaces) > 0 && !k.namespaces[namespace] {
		return false
	}
	return k.records.namespaceExists(namespace)
}

func (k *kubernetes) findExternal(q query, svc *corev1.Service, zone string) ([]msg.Service, error) {
	s := msg.Service{Host: svc.Spec.ExternalName, TTL: k.ttl, Key: key(zone, kindService, q.namespace, q.name)}
	if what, _ := s.HostType(); q.endpoint != "" || q.port != "" || what != dns.TypeCNAME {
		return nil, errNoName
	}
	return []msg.Service{s}, nil
}

func (k *kubernetes) findEndpoints(q query, zone string) ([]msg.Service, error) {
	if k.noEndpoints {
		return nil, errNoName
	}
	var found []msg.Service
	k.records.endpoints(q.namespace, q.name, k.podNames, func(address, hostname string, port *discoveryv1.EndpointPort) {
		if q.endpoint != "" && !strings.EqualFold(q.endpoint, hostname) || !q.wants(value(port.Name), value(port.Protocol)) {
			return
		}
		s := msg.Service{Host: address, TTL: k.ttl, Key: key(zone, kindService, q.namespace, q.name, hostname)}
		if port.Port != nil {
			s.Port = int(*port.Port)
		}
		found = append(found, s)
	})
	if len(found) == 0 {
		return nil, errNoName
	}
	return found, nil
}

func (k *kubernetes) findClusterIP(q query, svc *corev1.Service, zone string) ([]msg.Service, error) {
	if k.ignoreEmpty && !k.records.hasEndpoints(q.namespace, q.name) {
		return nil, errNoName
	}
	var found []msg.Service
	ips, _ := clusterIPs(svc) // never fails
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if !q.wants(p.Name, p.Protocol) {
			continue
		}
		for _, ip := range ips {
			found = append(found, msg.Service{Host: ip, Port: int(p.Port), TTL: k.ttl, Key: key(zone, kindService, q.namespace, q.name)})
		}
	}
	if len(found) == 0 {
		return nil, errNoName
	}
	return found, nil
}

func (k *kubernetes) findPod(q query, zone string) ([]msg.Service, error) {
	ip, ok := addressIn(q.name)
	if !ok || q.endpoint != "" || q.port != "" || k.pods == podsDisabled || k.pods == podsVerified && !k.podAt(ip, q.namespace) {
		return nil, errNoName
	}
	return []msg.Service{{Host: ip, TTL: k.ttl, Key: key(zone, kindPod, q.namespace, q.name)}}, nil
}

func (k *kubernetes) podAt(ip, namespace string) bool {
	found, err := k.podIndex.ByIndex(byPodIP, ip)
	if err != nil {
		return false
	}
	for _, obj := range found {
		if obj.(*corev1.Pod).Namespace == namespace {
			return true
		}
	}
	return false
}

// AutoPath returns where the pod that asks looks names up, one after the other. Nothing if it is not known.
func (k *kubernetes) AutoPath(state request.Request) []string {
	zone := plugin.Zones(k.zones).Matches(state.Name())
	if zone == "" || k.podIndex == nil {
		return nil
	}
	pods, err := k.podIndex.ByIndex(byPodIP, state.IP())
	if err != nil || len(pods) == 0 {
		return nil
	}
	namespace := pods[0].(*corev1.Pod).Namespace
	search := []string{dnsutil.Join(namespace, kindService, zone), dnsutil.Join(kindService, zone), zone}
	return slices.Concat(search, k.search, []string{""}) // at last the name as it is
}

// Reverse finds the names of an address.
func (k *kubernetes) Reverse(ctx context.Context, state request.Request, _ bool, opts plugin.Options) ([]msg.Service, error) {
	ip := dnsutil.ExtractAddressFromReverse(state.Name())
	if ip == "" {
		_, err := k.Services(ctx, state, false, opts)
		return nil, err
	}
	found := k.namesOf(ip)
	if len(found) == 0 {
		return nil, errNoName
	}
	return found, nil
}

func (k *kubernetes) namesOf(ip string) []msg.Service {
	if svc := k.records.serviceAt(ip); svc != nil && k.serves(svc.Namespace) {
		return []msg.Service{{Host: dnsutil.Join(svc.Name, svc.Namespace, kindService, k.primary), TTL: k.ttl}}
	}
	if k.noEndpoints {
		return nil
	}
	var found []msg.Service
	k.records.namesAt(ip, k.podNames, func(hostname, service, namespace string) {
		if k.serves(namespace) {
			found = append(found, msg.Service{Host: dnsutil.Join(hostname, service, namespace, kindService, k.primary), TTL: k.ttl})
		}
	})
	return found
}

// existsReverse tells NXDOMAIN from NODATA for a reverse name that is asked for something else.
func (k *kubernetes) existsReverse(name string) error {
	if ip := dnsutil.ExtractAddressFromReverse(name); ip == "" || len(k.namesOf(ip)) == 0 {
		return errNoName
	}
	return nil
}

// Records is Services without regard to types.
func (k *kubernetes) Records(ctx context.Context, state request.Request, exact bool) ([]msg.Service, error) {
	return k.Services(ctx, state, exact, plugin.Options{})
}

// Lookup resolves names that are not ours, through the whole server.
func (k *kubernetes) Lookup(ctx context.Context, state request.Request, name string, typ uint16) (*dns.Msg, error) {
	return k.upstream.Lookup(ctx, state, name, typ)
}

// IsNameError tells whether err says that a name does not exist.
func (k *kubernetes) IsNameError(err error) bool { return errors.Is(err, errNoName) }

// Serial is the zone's, for SOA records. Nobody transfers the zone, so time will do.
func (k *kubernetes) Serial(request.Request) uint32 { return uint32(time.Now().Unix()) }

// MinTTL is how long a negative answer may be kept.
func (k *kubernetes) MinTTL(request.Request) uint32 { return k.ttl }

// key is the path that package msg makes an SRV target of.
func key(zone string, labels ...string) string {
	return msg.Path(zone, "coredns") + "/" + strings.Join(labels, "/")
}

// value is *p, or nothing.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
