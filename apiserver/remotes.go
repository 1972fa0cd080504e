// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistrationhelper "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	apiregistrationlisters "k8s.io/kube-aggregator/pkg/client/listers/apiregistration/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/openapi"
)

// aggregatorUser is who asks remote servers to describe themselves; the name is upstream's.
const aggregatorUser = "system:aggregator"

// remoteAPIs finds the servers behind APIServices, for the description of the API.
type remoteAPIs struct {
	services apiregistrationlisters.APIServiceLister
	resolver webhook.ServiceResolver
	cert     CertFiles
}

// list returns those that are available.
func (a remoteAPIs) list() ([]openapi.Remote, error) {
	services, err := a.services.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var out []openapi.Remote
	for _, s := range services {
		if s.Spec.Service == nil || !apiregistrationhelper.IsAPIServiceConditionTrue(s, apiregistrationv1.Available) {
			continue
		}
		out = append(out, openapi.Remote{
			Path:  "apis/" + s.Spec.Group + "/" + s.Spec.Version,
			State: fmt.Sprintf("%s/%d/%v", s.UID, s.Generation, s.Spec.Service),
			Get: func(ctx context.Context, path string, header http.Header) (*http.Response, error) {
				return a.get(ctx, &s.Spec, path, header)
			},
		})
	}
	return out, nil
}

func (a remoteAPIs) get(ctx context.Context, s *apiregistrationv1.APIServiceSpec, path string, header http.Header) (*http.Response, error) {
	address, err := a.resolver.ResolveEndpoint(s.Service.Namespace, s.Service.Name, ptr.Deref(s.Service.Port, 443))
	if err != nil {
		return nil, err
	}
	target, err := address.Parse(path)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header = header.Clone()
	transport.SetAuthProxyHeaders(request, aggregatorUser, "", nil, nil)
	tlsConfig := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: s.Service.Name + "." + s.Service.Namespace + ".svc",
		InsecureSkipVerify: s.InsecureSkipTLSVerify, //nolint:gosec // as the APIService says
	}
	if len(s.CABundle) > 0 {
		tlsConfig.RootCAs = x509.NewCertPool()
		tlsConfig.RootCAs.AppendCertsFromPEM(s.CABundle)
	}
	if a.cert.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(a.cert.CertFile, a.cert.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the proxy's certificate: %w", err)
		}
		tlsConfig.Certificates = []tls.Certificate{pair}
	}
	// It is seldom used, so no connection is kept.
	return (&http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true}).RoundTrip(request)
}
