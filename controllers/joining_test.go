// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/util/cert"
	"k8s.io/cluster-bootstrap/token/jws"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/pki"
)

// joiners are what roles allow machines that join, and nodes.
type joiners struct{}

func (joiners) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	group := map[string]string{"nodeclient": "system:bootstrappers:skiff:nodes", "selfnodeclient": "system:nodes"}[a.GetSubresource()]
	if slices.Contains(a.GetUser().GetGroups(), group) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// ask makes a certificate request of somebody.
func (c *cluster) ask(name string, by user.Info, signer string, usage certificatesv1.KeyUsage, template x509.CertificateRequest) {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	request, err := cert.MakeCSRFromTemplate(key, &template)
	if err != nil {
		c.t.Fatal(err)
	}
	_, err = c.as(by).CertificatesV1().CertificateSigningRequests().Create(c.t.Context(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: request, SignerName: signer, ExpirationSeconds: ptr.To[int32](3600),
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
}

// answer waits for a certificate, or for the reason why there will be none.
func (c *cluster) answer(name string) (certificate *x509.Certificate, refused string) {
	c.t.Helper()
	c.eventually("the answer to "+name, func(ctx context.Context) error {
		request, err := c.CertificatesV1().CertificateSigningRequests().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range request.Status.Conditions {
			if condition.Type != certificatesv1.CertificateApproved {
				refused = condition.Reason + ": " + condition.Message
				return nil
			}
		}
		if len(request.Status.Certificate) == 0 {
			return fmt.Errorf("conditions: %v", request.Status.Conditions)
		}
		all, err := cert.ParseCertsPEM(request.Status.Certificate)
		if err == nil {
			certificate = all[0]
		}
		return err
	})
	return certificate, refused
}

func subject(node string) pkix.Name {
	return pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}
}

// A machine with a token becomes a node, a node gets what it needs for itself and for nothing else, and nobody
// becomes a node that there is.
func TestNodesGetCertificates(t *testing.T) {
	c := newCluster(t)
	joining := &user.DefaultInfo{Name: "system:bootstrap:abcdef", Groups: []string{"system:bootstrappers", "system:bootstrappers:skiff:nodes"}}
	self := &user.DefaultInfo{Name: "system:node:alpha", Groups: []string{"system:nodes"}}
	client, serving := certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName
	served := x509.CertificateRequest{Subject: subject("alpha"), DNSNames: []string{"alpha"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 7)}}

	c.ask("join", joining, client, certificatesv1.UsageClientAuth, x509.CertificateRequest{Subject: subject("alpha")})
	got, refused := c.answer("join")
	if got == nil {
		t.Fatalf("a joining machine was refused: %s", refused)
	}
	if life := got.NotAfter.Sub(got.NotBefore); got.Subject.CommonName != "system:node:alpha" || got.CheckSignatureFrom(c.keys.ClientCA.Certificate()) != nil || life != time.Hour+5*time.Minute {
		t.Errorf("certificate of %s, valid for %s, signed by %s", got.Subject.CommonName, life, got.Issuer)
	}

	// A kubelet may ask for its serving certificate before its Node has addresses.
	c.ask("serve", self, serving, certificatesv1.UsageServerAuth, served)
	if _, err := c.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "alpha"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	addresses := []byte(`{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.7"}]}}`) // a patch: controllers write to the Node too
	if _, err := c.CoreV1().Nodes().Patch(t.Context(), "alpha", types.StrategicMergePatchType, addresses, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	if got, refused = c.answer("serve"); got == nil || got.VerifyHostname("alpha") != nil || got.VerifyHostname("192.0.2.7") != nil || got.CheckSignatureFrom(c.keys.KubeletCA.Certificate()) != nil {
		t.Errorf("serving certificate: %v, refused: %s", got, refused)
	}

	c.ask("renew", self, client, certificatesv1.UsageClientAuth, x509.CertificateRequest{Subject: subject("alpha")})
	if got, refused = c.answer("renew"); got == nil {
		t.Errorf("a node that renews was refused: %s", refused)
	}
	c.ask("replace", joining, client, certificatesv1.UsageClientAuth, x509.CertificateRequest{Subject: subject("alpha")})
	if got, refused = c.answer("replace"); got != nil || !strings.HasPrefix(refused, "NodeExists: there is a node alpha already") {
		t.Errorf("a machine that joins as a node that there is: %v, %q", got, refused)
	}

	// None of these may be approved. The one that is asked for last is, so all have been looked at by then.
	other := served
	other.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 8)}
	c.ask("other-address", self, serving, certificatesv1.UsageServerAuth, other)
	other = served
	other.DNSNames = []string{"alpha", "kubernetes"}
	c.ask("other-name", self, serving, certificatesv1.UsageServerAuth, other)
	other = served
	other.Subject = subject("beta")
	c.ask("other-node", self, serving, certificatesv1.UsageServerAuth, other)
	c.ask("admin", joining, certificatesv1.KubeAPIServerClientSignerName, certificatesv1.UsageClientAuth, x509.CertificateRequest{Subject: pkix.Name{CommonName: "admin"}})
	c.ask("last", self, serving, certificatesv1.UsageServerAuth, served)
	c.answer("last")
	for _, name := range []string{"other-address", "other-name", "other-node", "admin"} {
		request, err := c.CertificatesV1().CertificateSigningRequests().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || len(request.Status.Conditions) > 0 || len(request.Status.Certificate) > 0 {
			t.Errorf("%s: %v, %v", name, request.Status.Conditions, err)
		}
	}
}

// Of two machines that join under one new name at the same moment one becomes the node, and the other is told why not.
func TestTwoJoinAsOne(t *testing.T) {
	c := newCluster(t)
	joining := &user.DefaultInfo{Name: "system:bootstrap:abcdef", Groups: []string{"system:bootstrappers", "system:bootstrappers:skiff:nodes"}}
	names := []string{"first", "second"}
	for _, name := range names {
		c.ask(name, joining, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth, x509.CertificateRequest{Subject: subject("alpha")})
	}
	joined := 0
	for _, name := range names {
		got, refused := c.answer(name)
		if got != nil {
			joined++
		} else if !strings.HasPrefix(refused, "NodeJoining: another machine is joining as node alpha") {
			t.Errorf("%s: %s", name, refused)
		}
	}
	if joined != 1 {
		t.Errorf("%d machines joined as one node, want 1", joined)
	}
}

// What an administrator approves is signed if the signer signs such things, and fails with upstream's words if not.
func TestApprovedRequestsAreSigned(t *testing.T) {
	c := newCluster(t)
	ann := &user.DefaultInfo{Name: "ann"}
	approve := func(name string) {
		t.Helper()
		requests := c.CertificatesV1().CertificateSigningRequests()
		request, err := requests.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		request.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "test"}}
		if _, err := requests.UpdateApproval(t.Context(), name, request, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name, signer string
		usage        certificatesv1.KeyUsage
		template     x509.CertificateRequest
		refused      string
	}{
		{"user", certificatesv1.KubeAPIServerClientSignerName, certificatesv1.UsageClientAuth, x509.CertificateRequest{Subject: pkix.Name{CommonName: "ann"}}, ""},
		{"server-auth", certificatesv1.KubeAPIServerClientSignerName, certificatesv1.UsageServerAuth, x509.CertificateRequest{Subject: pkix.Name{CommonName: "ann"}},
			"SignerValidationFailure: invalid usage for client certificate: server auth"},
		{"no-node", certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth, x509.CertificateRequest{Subject: pkix.Name{CommonName: "ann"}},
			"SignerValidationFailure: subject organization is not system:nodes"},
		{"no-names", certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth, x509.CertificateRequest{Subject: subject("x")},
			"SignerValidationFailure: DNS or IP subjectAltName is required"},
		{"usages", certificatesv1.KubeletServingSignerName, certificatesv1.UsageClientAuth, x509.CertificateRequest{Subject: subject("x"), DNSNames: []string{"x"}},
			"SignerValidationFailure: usages did not match [digital signature key encipherment server auth]"},
	} {
		c.ask(tc.name, ann, tc.signer, tc.usage, tc.template)
		approve(tc.name)
		if got, refused := c.answer(tc.name); refused != tc.refused || (got == nil) == (tc.refused == "") {
			t.Errorf("%s: %v, refused %q; want %q", tc.name, got, refused, tc.refused)
		}
	}
}

// Tokens sign cluster-info while they last, and are deleted when their time has passed.
func TestBootstrapTokens(t *testing.T) {
	c := newCluster(t)
	for _, ns := range []string{"kube-system", "kube-public"} {
		c.namespace(ns)
	}
	info := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cluster-info"}, Data: map[string]string{"kubeconfig": "where"}}
	if _, err := c.CoreV1().ConfigMaps("kube-public").Create(t.Context(), info, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const key = "0123456789abcdef"
	token := func(id string, data map[string]string) {
		t.Helper()
		data["token-id"], data["token-secret"] = id, key
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id}, Type: corev1.SecretTypeBootstrapToken, StringData: data}
		if _, err := c.CoreV1().Secrets("kube-system").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	token("aaaaaa", map[string]string{"usage-bootstrap-signing": "true"})
	token("bbbbbb", map[string]string{"usage-bootstrap-authentication": "true"}) // does not sign
	token("cccccc", map[string]string{"usage-bootstrap-signing": "true", "expiration": time.Now().Add(3 * time.Second).UTC().Format(time.RFC3339)})
	signatures := func(ctx context.Context) (map[string]string, error) {
		info, err := c.CoreV1().ConfigMaps("kube-public").Get(ctx, "cluster-info", metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return info.Data, nil
	}
	c.eventually("signed by the one that stays", func(ctx context.Context) error {
		data, err := signatures(ctx)
		if err == nil && !jws.DetachedTokenIsValid(data["jws-kubeconfig-aaaaaa"], data["kubeconfig"], "aaaaaa", key) {
			err = fmt.Errorf("cluster-info: %v", data)
		}
		return err
	})
	c.eventually("the expired token is gone, and its signature", func(ctx context.Context) error {
		if _, err := c.CoreV1().Secrets("kube-system").Get(ctx, "bootstrap-token-cccccc", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("it is there"), err)
		}
		data, err := signatures(ctx)
		if err == nil && len(data) != 2 {
			err = fmt.Errorf("cluster-info: %v", data)
		}
		return err
	})
	if _, err := c.CoreV1().Secrets("kube-system").Get(t.Context(), "bootstrap-token-bbbbbb", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

// A machine's clock may be behind: certificates are valid from a little earlier on, and an authority's end is theirs.
func TestSignRequestDurations(t *testing.T) {
	keys, err := pki.New(pki.Config{Dir: t.TempDir(), NodeName: "n"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	data, err := cert.MakeCSRFromTemplate(key, &x509.CertificateRequest{Subject: subject("n")})
	if err != nil {
		t.Fatal(err)
	}
	request, err := pki.ParseRequest(data)
	if err != nil {
		t.Fatal(err)
	}
	const year, backdate = 365 * 24 * time.Hour, 5 * time.Minute
	for _, tc := range []struct {
		life    time.Duration
		seconds *int32
		want    time.Duration // from NotBefore
	}{
		{year, nil, year},
		{year, ptr.To[int32](3600), time.Hour + backdate},                              // short: as long as was asked for, from now
		{year, ptr.To[int32](24 * 3600), 24 * time.Hour},                               // long: the backdating counts
		{year, ptr.To[int32](60), 10*time.Minute + backdate},                           // no shorter than that
		{time.Hour, ptr.To[int32](7200), time.Hour + backdate},                         // no longer than the signer's
		{100 * year, nil, time.Until(keys.ClientCA.Certificate().NotAfter) + backdate}, // nor than the authority's
	} {
		out, err := keys.ClientCA.SignRequest(request, []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}, tc.life, tc.seconds)
		if err != nil {
			t.Fatal(err)
		}
		got, err := cert.ParseCertsPEM(out)
		if err != nil {
			t.Fatal(err)
		}
		if life := got[0].NotAfter.Sub(got[0].NotBefore); (life - tc.want).Abs() > time.Minute {
			t.Errorf("life %s, asked for %v: valid for %s, want %s", tc.life, ptr.Deref(tc.seconds, 0), life, tc.want)
		}
	}
}
