// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// caKey is where a ConfigMap has certificates of authorities.
const caKey = "ca.crt"

// secure finds the certificates of a listener, and what it asks of clients.
func (d *decision) secure(l *listener) {
	if !l.needsTLS() || !l.accepted.is() && !l.conflicted.is() {
		return
	}
	if l.passthrough() {
		l.tls = &table.ServerTLS{Passthrough: true}
		return
	}
	t := &table.ServerTLS{}
	if l.spec.TLS != nil {
		for _, ref := range l.spec.TLS.CertificateRefs {
			certificate, v := d.certificate(ref, l.kind, l.owner.GetNamespace())
			if certificate == nil {
				l.unresolved(v)
				continue
			}
			t.Certificates = append(t.Certificates, certificate)
		}
	}
	if len(t.Certificates) == 0 {
		l.unresolved(no(gatewayv1.ListenerReasonInvalidCertificateRef, "there is no certificate"))
		return
	}
	if d.validateClients(l, t) {
		l.tls = t
	}
}

// certificate reads one from a Secret.
func (d *decision) certificate(ref gatewayv1.SecretObjectReference, fromKind, fromNamespace string) (*tls.Certificate, verdict) {
	group, kind := string(ptr.Deref(ref.Group, "")), string(ptr.Deref(ref.Kind, "Secret"))
	if group != "" || kind != "Secret" {
		return nil, no(gatewayv1.ListenerReasonInvalidCertificateRef, fmt.Sprintf("a certificate must be in a Secret, not in a %s", kind))
	}
	name := types.NamespacedName{Namespace: string(ptr.Deref(ref.Namespace, gatewayv1.Namespace(fromNamespace))), Name: string(ref.Name)}
	if !permitted(d.world.Grants, reference{gatewayv1.GroupName, fromKind, fromNamespace, "", "Secret", name.Namespace, name.Name}) {
		return nil, no(gatewayv1.ListenerReasonRefNotPermitted, fmt.Sprintf("no ReferenceGrant in namespace %s permits Secret %s", name.Namespace, name.Name))
	}
	secret := d.world.Objects.Secret(name)
	if secret == nil {
		return nil, no(gatewayv1.ListenerReasonInvalidCertificateRef, fmt.Sprintf("Secret %s does not exist", name))
	}
	certificate, err := d.memo.certificate(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, no(gatewayv1.ListenerReasonInvalidCertificateRef, fmt.Sprintf("Secret %s has no valid certificate with its key: %v", name, err))
	}
	return certificate, verdict{}
}

// validateClients applies what the Gateway says of client certificates on the listener's port. False: nothing may be served.
func (d *decision) validateClients(l *listener, t *table.ServerTLS) bool {
	validation := frontendValidation(l.gateway.object, l.spec.Port)
	if validation == nil {
		return true
	}
	var pems []byte
	for _, ref := range validation.CACertificateRefs {
		found, v := d.authorities(ref, l.gateway.object.Namespace)
		if found == nil {
			l.unresolved(v)
			continue
		}
		pems = append(append(pems, found...), '\n')
	}
	t.AllowInsecureClients = validation.Mode == gatewayv1.AllowInsecureFallback
	if len(pems) == 0 {
		l.accepted = no(gatewayv1.ListenerReasonNoValidCACertificate, "there is no authority whose client certificates could be believed")
		return false
	}
	t.ClientCAs, _ = d.memo.pool(pems)
	return true
}

// frontendValidation is what holds for a port, nil if clients need no certificates.
func frontendValidation(gw *gatewayv1.Gateway, port int32) *gatewayv1.FrontendTLSValidation {
	if gw.Spec.TLS == nil || gw.Spec.TLS.Frontend == nil {
		return nil
	}
	frontend := gw.Spec.TLS.Frontend
	for _, p := range frontend.PerPort {
		if p.Port == port {
			return p.TLS.Validation
		}
	}
	return frontend.Default.Validation
}

// authorities reads certificates of authorities from a ConfigMap.
func (d *decision) authorities(ref gatewayv1.ObjectReference, fromNamespace string) ([]byte, verdict) {
	if ref.Group != "" || ref.Kind != "ConfigMap" {
		return nil, no(gatewayv1.ListenerReasonInvalidCACertificateKind, fmt.Sprintf("authorities must be in a ConfigMap, not in a %s", ref.Kind))
	}
	name := types.NamespacedName{Namespace: string(ptr.Deref(ref.Namespace, gatewayv1.Namespace(fromNamespace))), Name: string(ref.Name)}
	if !permitted(d.world.Grants, reference{gatewayv1.GroupName, gatewayKind, fromNamespace, "", "ConfigMap", name.Namespace, name.Name}) {
		return nil, no(gatewayv1.ListenerReasonRefNotPermitted, fmt.Sprintf("no ReferenceGrant in namespace %s permits ConfigMap %s", name.Namespace, name.Name))
	}
	pems, err := d.configuredAuthorities(name)
	if err != nil {
		return nil, no(gatewayv1.ListenerReasonInvalidCACertificateRef, err.Error())
	}
	return pems, verdict{}
}

func (d *decision) configuredAuthorities(name types.NamespacedName) ([]byte, error) {
	configMap := d.world.Objects.ConfigMap(name)
	if configMap == nil {
		return nil, fmt.Errorf("ConfigMap %s does not exist", name)
	}
	pems := []byte(configMap.Data[caKey])
	if len(pems) == 0 {
		pems = configMap.BinaryData[caKey]
	}
	if _, err := d.memo.pool(pems); err != nil {
		return nil, fmt.Errorf("ConfigMap %s has no valid certificates in %s", name, caKey)
	}
	return pems, nil
}

// memo keeps what is costly to make from text, and makes equal text equal pointers, so that the data plane sees what has not
// changed. What one decision did not ask for is forgotten with the next.
type memo struct {
	now, before map[memoKey]any
}

type memoKey struct{ kind, text, more string }

// next begins a decision.
func (m *memo) next() { m.before, m.now = m.now, map[memoKey]any{} }

func remember[T any](m *memo, key memoKey, make func() (T, error)) (T, error) {
	for _, known := range []map[memoKey]any{m.now, m.before} {
		if value, ok := known[key]; ok {
			m.now[key] = value
			return value.(T), nil
		}
	}
	value, err := make()
	if err == nil {
		m.now[key] = value
	}
	return value, err
}

func (m *memo) certificate(cert, key []byte) (*tls.Certificate, error) {
	return remember(m, memoKey{"certificate", string(cert), string(key)}, func() (*tls.Certificate, error) {
		pair, err := tls.X509KeyPair(cert, key)
		return &pair, err
	})
}

// pool reads certificates of authorities; all of them must be valid.
func (m *memo) pool(pems []byte) (*x509.CertPool, error) {
	return remember(m, memoKey{"pool", string(pems), ""}, func() (*x509.CertPool, error) {
		pool, n := x509.NewCertPool(), 0
		for rest := pems; ; n++ {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			certificate, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, err
			}
			pool.AddCert(certificate)
		}
		if n == 0 {
			return nil, fmt.Errorf("no certificates")
		}
		return pool, nil
	})
}

// policy is a BackendTLSPolicy that holds for a port of a Service.
type policy struct {
	object             *gatewayv1.BackendTLSPolicy
	accepted, resolved verdict
	tls                *table.ClientTLS // nil if it cannot be used
	key                memoKey          // of tls
	ancestors          []gatewayv1.ParentReference
}

// target is what policies are attached to: a Service, or one named port of it.
type target struct {
	service types.NamespacedName
	port    string
}

// findPolicies reads the BackendTLSPolicies and sees which of them apply where: for each target the oldest one.
func (d *decision) findPolicies() {
	d.policies = map[target]*policy{}
	for _, object := range byAge(d.world.Policies) {
		p := &policy{object: object}
		d.allPolicies = append(d.allPolicies, p)
		d.readPolicy(p)
		won := 0
		for _, ref := range object.Spec.TargetRefs {
			if ref.Group != "" || ref.Kind != "Service" {
				continue
			}
			t := target{types.NamespacedName{Namespace: object.Namespace, Name: string(ref.Name)}, string(ptr.Deref(ref.SectionName, ""))}
			if d.policies[t] == nil {
				d.policies[t] = p
				won++
			} else {
				d.contenders = append(d.contenders, contender{t, p})
			}
		}
		if won == 0 {
			p.accepted = no(gatewayv1.PolicyReasonConflicted, "an older BackendTLSPolicy has the same target")
		}
	}
}

// contender is a policy that came too late.
type contender struct {
	target target
	policy *policy
}

func (d *decision) readPolicy(p *policy) {
	p.accepted = yes(gatewayv1.PolicyReasonAccepted, "The policy is in force")
	p.resolved = yes(gatewayv1.BackendTLSPolicyReasonResolvedRefs, "All references are resolved")
	validation := p.object.Spec.Validation
	client := table.ClientTLS{ServerName: string(validation.Hostname)}
	for _, san := range validation.SubjectAltNames {
		client.SubjectAltNames = append(client.SubjectAltNames, cmp.Or(string(san.Hostname), string(san.URI)))
	}
	var pems []byte
	for _, ref := range validation.CACertificateRefs {
		if ref.Group != "" || ref.Kind != "ConfigMap" {
			p.resolved = no(gatewayv1.BackendTLSPolicyReasonInvalidKind, fmt.Sprintf("authorities must be in a ConfigMap, not in a %s", ref.Kind))
			continue
		}
		found, err := d.configuredAuthorities(types.NamespacedName{Namespace: p.object.Namespace, Name: string(ref.Name)})
		if err != nil {
			p.resolved = no(gatewayv1.BackendTLSPolicyReasonInvalidCACertificateRef, err.Error())
			continue
		}
		pems = append(append(pems, found...), '\n')
	}
	system := ptr.Deref(validation.WellKnownCACertificates, "")
	switch {
	case len(validation.CACertificateRefs) > 0 && len(pems) == 0:
		p.accepted = no(gatewayv1.BackendTLSPolicyReasonNoValidCACertificate, p.resolved.message)
		return
	case len(pems) > 0:
		client.Roots, _ = d.memo.pool(pems)
	case system != gatewayv1.WellKnownCACertificatesSystem:
		p.accepted = no(gatewayv1.PolicyReasonInvalid, fmt.Sprintf("well-known authorities %q are not supported", system))
		return
	}
	p.key = memoKey{"client", fmt.Sprint(client.ServerName, client.SubjectAltNames), string(pems)}
	p.tls, _ = remember(d.memo, p.key, func() (*table.ClientTLS, error) { return &client, nil })
}

// policyFor finds the policy for a port of a Service: one for the port before one for the Service. The parent is noted as one that
// the policy has an effect on.
func (d *decision) policyFor(service types.NamespacedName, port string, parent gatewayv1.ParentReference) *policy {
	for _, name := range []string{port, ""} {
		t := target{service, name}
		found := d.policies[t]
		if found == nil {
			continue
		}
		for _, p := range append([]*policy{found}, d.losers(t)...) {
			if !slices.ContainsFunc(p.ancestors, func(a gatewayv1.ParentReference) bool {
				return a.Name == parent.Name && *a.Namespace == *parent.Namespace
			}) {
				p.ancestors = append(p.ancestors, parent)
			}
		}
		return found
	}
	return nil
}

func (d *decision) losers(t target) []*policy {
	var out []*policy
	for _, c := range d.contenders {
		if c.target == t {
			out = append(out, c.policy)
		}
	}
	return out
}
