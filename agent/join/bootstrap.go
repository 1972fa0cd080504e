// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate/csr"
	"k8s.io/client-go/util/keyutil"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/version"
)

const (
	// apiName is the name that every API server's certificate has, whatever address it is called at.
	apiName = "kubernetes"

	maxSkew          = 5 * time.Minute // of clocks: upstream backdates certificates by as much
	maxAnswer        = 1 << 20
	joinPatience     = 2 * time.Minute // with the approval of a certificate
	maxMinorsBehind  = 3               // of a kubelet, by Kubernetes' version skew policy
	clusterInfoPath  = "/api/v1/namespaces/kube-public/configmaps/" + bootstrapapi.ConfigMapClusterInfo
	newTokenAdvice   = "skiff token create, on a server, makes a new one"
	otherNameOrClean = "set another --node-name, or delete the Node on the server: skiff kubectl delete node %s"
)

// fetchCA asks a server that is not known yet for the cluster's certificate authority, and takes it if its hash is that
// in the token: then it is the right one, whoever sent it.
func fetchCA(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), hash string) ([]byte, error) {
	transport := &http.Transport{
		DialContext:       dial,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, ServerName: apiName, InsecureSkipVerify: true}, //nolint:gosec // the hash is what is checked
		DisableKeepAlives: true,
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+apiName+clusterInfoPath, nil)
	if err != nil {
		return nil, err
	}
	response, err := (&http.Client{Transport: transport, Timeout: 30 * time.Second}).Do(request)
	if err != nil {
		return nil, fmt.Errorf("call the server: %w (is it running, and does this machine reach it?)", bare(err))
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the server's answer: %w", err)
	}
	if response.StatusCode != http.StatusOK { // one that starts for the first time has none yet
		return nil, notYet{fmt.Errorf("ask the server for its cluster-info: %s (is it a server of Skiff?)", response.Status)}
	}
	if err := checkClock(response.Header.Get("Date"), time.Now()); err != nil {
		return nil, err
	}
	var info corev1.ConfigMap
	if err := json.Unmarshal(body, &info); err != nil {
		return nil, fmt.Errorf("read the server's cluster-info: %w", err)
	}
	config, err := clientcmd.Load([]byte(info.Data[bootstrapapi.KubeConfigKey]))
	if err != nil || config.Clusters[""] == nil {
		return nil, fmt.Errorf("read the server's cluster-info: %w", errors.Join(err, errors.New("it names no cluster")))
	}
	certificates, err := cert.ParseCertsPEM(config.Clusters[""].CertificateAuthorityData)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's certificate authority: %w", err)
	}
	if hashKey(certificates[0]) != hash {
		return nil, fmt.Errorf("the server is not of the cluster that the token is for: its certificate authority has another hash (check --server, or the token: %s)", newTokenAdvice)
	}
	return cert.EncodeCertificates(certificates[0]) // the others nobody vouches for
}

// Introduce makes sure that a server, like https://192.0.2.1:6443, is of the cluster that a token is for, and returns the
// way to it for who has the token.
func Introduce(ctx context.Context, server, token string) (*restclient.Config, error) {
	address, err := parseServer(server)
	if err != nil {
		return nil, err
	}
	parsed, err := ParseToken(token)
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	var ca []byte
	err = untilThen(ctx, func(Step) {}, func() error {
		ca, err = fetchCA(ctx, dial, parsed.CAHash)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &restclient.Config{
		Host: "https://" + address, BearerToken: parsed.bearer(), TLSClientConfig: restclient.TLSClientConfig{ServerName: apiName, CAData: ca},
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }, UserAgent: "skiff/" + version.Skiff,
	}, nil
}

// notYet is an error that waiting may mend: the server starts, stops, or has no majority.
type notYet struct{ error }

func (n notYet) Unwrap() error { return n.error }

// wrongClock is an error that ends when a clock is set, as that of a machine often is some time after its start.
type wrongClock struct{ error }

func (w wrongClock) Unwrap() error { return w.error }

// untilThen tries something for as long as a clock is wrong, and while its error is notYet for joinPatience. waiting is told when it
// begins to wait, and for what.
func untilThen(ctx context.Context, waiting func(Step), try func() error) error {
	end := time.Now().Add(joinPatience)
	var told Step
	for {
		err := try()
		now := waitsFor(err)
		switch {
		case now == StepClock:
			end = time.Now().Add(joinPatience)
		case !errors.As(err, &notYet{}) || time.Now().After(end):
			return err
		}
		if now != told {
			klog.FromContext(ctx).Error(err, "Cannot join yet, trying again")
			waiting(now)
			told = now
		}
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// waitsFor tells what has to come before what failed can succeed.
func waitsFor(err error) Step {
	if errors.As(err, &wrongClock{}) {
		return StepClock
	}
	return StepWaiting
}

// bare is an error of net/http without the URL, which says nothing here.
func bare(err error) error {
	var wrapped interface{ Unwrap() error }
	if errors.As(err, &wrapped) && strings.HasPrefix(err.Error(), "Get ") {
		return wrapped.Unwrap()
	}
	return err
}

// checkClock compares this machine's clock with the server's: with hours between them no certificate is valid.
func checkClock(date string, now time.Time) error {
	server, err := http.ParseTime(date)
	if err != nil {
		return nil // it says nothing
	}
	switch skew := now.Sub(server); {
	case skew > maxSkew:
		return wrongClock{fmt.Errorf("this machine's clock is %s ahead of the server's (set the time of one of them)", skew.Round(time.Minute))}
	case skew < -maxSkew:
		return wrongClock{fmt.Errorf("this machine's clock is %s behind the server's (set the time of one of them)", (-skew).Round(time.Minute))}
	}
	return nil
}

// misfit says that this version cannot be a node of the server's.
type misfit struct{ error }

// checkVersion tells whether a kubelet of a version can be a node of a server.
func checkVersion(own string, server *apimachineryversion.Info) error {
	a, errA := utilversion.ParseGeneric(own)
	b, errB := utilversion.ParseGeneric(server.GitVersion)
	if errA != nil || errB != nil {
		return nil // a build of somebody's own, who knows
	}
	switch {
	case a.Major() != b.Major() || a.Minor() > b.Minor():
		return misfit{fmt.Errorf("this agent (Kubernetes v%s) is newer than the server (v%s) (upgrade the servers first)", a, b)}
	case a.Minor()+maxMinorsBehind < b.Minor():
		return misfit{fmt.Errorf("this agent (Kubernetes v%s) is more than %d minor versions older than the server (v%s) (upgrade the agent)", a, maxMinorsBehind, b)}
	}
	return nil
}

// pair is a certificate with its key, in PEM form.
type pair struct{ cert, key []byte }

// requestCertificate shows the token and asks to become the node.
func requestCertificate(ctx context.Context, config *restclient.Config, nodeName string) (pair, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return pair{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, fmt.Errorf("make a key: %w", err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return pair{}, fmt.Errorf("make a key: %w", err)
	}
	request, err := cert.MakeCSRFromTemplate(key, &x509.CertificateRequest{Subject: nodeSubject(nodeName)})
	if err != nil {
		return pair{}, fmt.Errorf("make a certificate request: %w", err)
	}
	name, uid, err := csr.RequestCertificateWithContext(ctx, client, request, "", certificatesv1.KubeAPIServerClientKubeletSignerName, nil, clientUsages, key)
	if err != nil {
		return pair{}, err
	}
	waiting, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	certPEM, err := csr.WaitForCertificate(waiting, client, name, uid)
	if err == nil {
		return pair{cert: certPEM, key: keyPEM}, nil
	}
	if ctx.Err() != nil {
		return pair{}, ctx.Err()
	}
	if made, getErr := client.CertificatesV1().CertificateSigningRequests().Get(ctx, name, metav1.GetOptions{}); getErr == nil {
		err = errors.Join(verdict(made, nodeName), waiting.Err())
	}
	return pair{}, refused{fmt.Errorf("become node %s: %w", nodeName, err)}
}

// refused says that the server has decided.
type refused struct{ error }

// verdict says why there is no certificate.
func verdict(request *certificatesv1.CertificateSigningRequest, nodeName string) error {
	for _, c := range request.Status.Conditions {
		switch {
		case c.Reason == "NodeExists":
			return fmt.Errorf("there is a node of that name already ("+otherNameOrClean+")", nodeName)
		case c.Type == certificatesv1.CertificateDenied, c.Type == certificatesv1.CertificateFailed:
			return fmt.Errorf("the server says %s: %s", c.Reason, c.Message)
		}
	}
	return fmt.Errorf("nobody has approved its certificate (see skiff kubectl get csr %s)", request.Name)
}

// explain says what errors of the first requests mean to a person, and which of them waiting may mend. ready asks the server whether it is.
func explain(err error, ready func() error) error {
	var status apierrors.APIStatus
	var clock wrongClock
	switch {
	case err == nil, errors.As(err, &misfit{}), errors.As(err, &refused{}):
		return err
	case errors.As(err, &clock):
		return clock
	case errors.As(err, &status) && (status.Status().Code >= http.StatusInternalServerError || apierrors.IsTooManyRequests(err)):
		return notYet{fmt.Errorf("ask to become a node: %w", err)}
	case (apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err)) && ready() != nil: // it may not know yet
		return notYet{fmt.Errorf("ask to become a node: %w", err)}
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the server does not know the token: it is wrong, or has expired (%s)", newTokenAdvice)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("the token does not let machines join: %w (%s)", err, newTokenAdvice)
	}
	return fmt.Errorf("ask to become a node: %w", err)
}

// namesClock says of an error of TLS that a clock is wrong, if it is because of the time that the server's certificate is not valid.
func namesClock(err error) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return wrongClock{fmt.Errorf("the server's certificate is not valid at this machine's time: %w (set the time of one of them)", err)}
	}
	return err
}

// refusal is an error that waiting does not mend, if it lasts: a server answers, and does not know this node any more. It is nil for
// all others.
func refusal(err error) error {
	if apierrors.IsUnauthorized(err) {
		return errors.New("the server does not know this node's certificate (is it the same cluster? skiff uninstall removes the old one, then join anew)")
	}
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("the server refuses this node: %w", err)
	}
	if errors.As(err, &misfit{}) {
		return err
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("the server is not of the cluster that this machine has joined: %w (check --server; skiff uninstall removes the old one, then join anew)", err)
	}
	return nil
}

func nodeSubject(nodeName string) pkix.Name {
	return pkix.Name{CommonName: "system:node:" + nodeName, Organization: []string{"system:nodes"}}
}

var (
	clientUsages  = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	servingUsages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
)
