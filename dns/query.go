// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
)

// The second label of the schema.
const (
	kindService = "svc"
	kindPod     = "pod"
)

// query is a name below the cluster's domain, taken apart:
//
//	[_port._protocol.|endpoint.]name.namespace.svc
//	a-b-c-d.namespace.pod
//
// What is missing on the left is empty.
type query struct {
	port, protocol string // both or none
	endpoint       string
	name           string
	namespace      string
	kind           string // kindService or kindPod
}

// parse takes base apart, which is in lower case and has no zone.
func parse(base string) (query, error) {
	var q query
	labels := dns.SplitDomainName(base)
	take := func() (label string) {
		if n := len(labels); n > 0 {
			label, labels = labels[n-1], labels[:n-1]
		}
		return label
	}
	q.kind = take()
	if q.kind != "" && q.kind != kindService && q.kind != kindPod {
		return q, errNoName
	}
	q.namespace, q.name = take(), take()
	switch len(labels) {
	case 0:
	case 1:
		q.endpoint = labels[0]
	case 2:
		q.port, q.protocol = strings.TrimPrefix(labels[0], "_"), strings.TrimPrefix(labels[1], "_")
	default:
		return q, errNoName
	}
	return q, nil
}

// wants tells whether a port is asked for. Without a port in the name all are.
func (q query) wants(port string, protocol corev1.Protocol) bool {
	if protocol == "" {
		protocol = corev1.ProtocolTCP
	}
	return q.port == "" && q.protocol == "" || strings.EqualFold(q.port, port) && strings.EqualFold(q.protocol, string(protocol))
}
