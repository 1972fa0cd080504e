// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/util/cert"
	"sigs.k8s.io/yaml"
)

// WebhookServer is what a webhook server in the test process has to know.
type WebhookServer struct {
	Host    string // it listens there
	Port    int
	CertDir string // has the files tls.crt and tls.key, for Host
}

// servesSoon bounds the wait for definitions.
const servesSoon = 30 * time.Second

// install makes the objects that options name.
func (e *Env) install(t testing.TB, s settings) error {
	if err := e.define(t.Context(), s.crds); err != nil {
		return err
	}
	if len(s.webhooks) == 0 {
		return nil
	}
	ca, err := e.prepareWebhooks(t)
	if err != nil {
		return fmt.Errorf("prepare a webhook server: %w", err)
	}
	return e.configureWebhooks(t.Context(), s.webhooks, ca)
}

// define makes CustomResourceDefinitions and waits until their resources are served.
func (e *Env) define(ctx context.Context, paths []string) error {
	client, err := apiextensions.NewForConfig(e.Config)
	if err != nil {
		return err
	}
	var served []string // paths of the API
	if err := documents(paths, func(kind string, raw []byte) error {
		if kind != "CustomResourceDefinition" {
			return nil
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(raw, &crd); err != nil {
			return err
		}
		for _, v := range crd.Spec.Versions {
			if v.Served {
				served = append(served, "/apis/"+crd.Spec.Group+"/"+v.Name+"/"+crd.Spec.Names.Plural)
			}
		}
		_, err := client.CustomResourceDefinitions().Create(ctx, &crd, metav1.CreateOptions{})
		return err
	}); err != nil {
		return err
	}
	for _, path := range served {
		var last error
		if err := wait.PollUntilContextTimeout(ctx, 5*time.Millisecond, servesSoon, true, func(ctx context.Context) (bool, error) {
			last = e.Client.CoreV1().RESTClient().Get().AbsPath(path).Param("limit", "1").Do(ctx).Error()
			return last == nil, nil
		}); err != nil {
			return fmt.Errorf("wait for %s: %w", path, errors.Join(err, last))
		}
	}
	return nil
}

// prepareWebhooks finds a free port and makes a certificate, which is its own authority.
func (e *Env) prepareWebhooks(t testing.TB) (ca []byte, err error) {
	const host = "127.0.0.1"
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	e.Webhooks = WebhookServer{Host: host, Port: listener.Addr().(*net.TCPAddr).Port, CertDir: t.TempDir()}
	if err := listener.Close(); err != nil {
		return nil, err
	}
	certPEM, keyPEM, err := cert.GenerateSelfSignedCertKey(host, nil, nil)
	if err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{"tls.crt": certPEM, "tls.key": keyPEM} {
		if err := os.WriteFile(filepath.Join(e.Webhooks.CertDir, name), content, 0o600); err != nil {
			return nil, err
		}
	}
	return certPEM, nil
}

// configureWebhooks makes the configurations, which find the test's own server wherever they say it is.
func (e *Env) configureWebhooks(ctx context.Context, paths []string, ca []byte) error {
	redirect := func(c *admissionregistrationv1.WebhookClientConfig) {
		target := url.URL{Scheme: "https", Host: net.JoinHostPort(e.Webhooks.Host, strconv.Itoa(e.Webhooks.Port))}
		if c.Service != nil && c.Service.Path != nil {
			target.Path = *c.Service.Path
		}
		address := target.String()
		*c = admissionregistrationv1.WebhookClientConfig{URL: &address, CABundle: ca}
	}
	client := e.Client.AdmissionregistrationV1()
	return documents(paths, func(kind string, raw []byte) error {
		switch kind {
		case "MutatingWebhookConfiguration":
			var config admissionregistrationv1.MutatingWebhookConfiguration
			if err := yaml.UnmarshalStrict(raw, &config); err != nil {
				return err
			}
			for i := range config.Webhooks {
				redirect(&config.Webhooks[i].ClientConfig)
			}
			_, err := client.MutatingWebhookConfigurations().Create(ctx, &config, metav1.CreateOptions{})
			return err
		case "ValidatingWebhookConfiguration":
			var config admissionregistrationv1.ValidatingWebhookConfiguration
			if err := yaml.UnmarshalStrict(raw, &config); err != nil {
				return err
			}
			for i := range config.Webhooks {
				redirect(&config.Webhooks[i].ClientConfig)
			}
			_, err := client.ValidatingWebhookConfigurations().Create(ctx, &config, metav1.CreateOptions{})
			return err
		}
		return nil
	})
}

// documents hands each YAML document in the files, and in the files of folders, to visit, with its kind.
func documents(paths []string, visit func(kind string, raw []byte) error) error {
	for _, path := range paths {
		if err := filepath.WalkDir(path, func(file string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			if ext := filepath.Ext(file); ext != ".yaml" && ext != ".yml" && ext != ".json" {
				return nil
			}
			if err := eachDocument(file, visit); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func eachDocument(file string, visit func(kind string, raw []byte) error) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content))); ; {
		raw, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal(raw, &meta); err != nil {
			return err
		}
		if err := visit(meta.Kind, raw); err != nil {
			return err
		}
	}
}
