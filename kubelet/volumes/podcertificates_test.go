// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
)

// A certificate is requested, written when it is issued, and requested again when it is time.
func TestPodCertificateIsKeptFresh(t *testing.T) {
	s := &signed{}
	s.test(t, func() {
		if _, err := s.get(t); err == nil || err.Error() != "credential bundle is not issued yet" {
			t.Fatalf("before it is issued: %v", err)
		}
		first := s.pending(t)
		if spec := first.Spec; spec.SignerName != "example.org/s" || spec.PodName != "web" || spec.PodUID != "uid-1" || spec.ServiceAccountName != "default" ||
			spec.ServiceAccountUID != "account-uid" || spec.NodeName != "n1" || spec.NodeUID != "node-uid" || *spec.MaxExpirationSeconds != 3600 ||
			spec.UnverifiedUserAnnotations["example.org/a"] != "b" || first.OwnerReferences[0].UID != "uid-1" {
			t.Errorf("requested %+v", spec)
		}
		s.issue(t, first)
		s.hears(t, time.Second)
		one, err := s.get(t)
		must(t, err)
		if _, err := tls.X509KeyPair(one.chain, one.key); err != nil {
			t.Errorf("key and certificate: %v", err)
		}
		if _, err := s.get(t); err != nil || len(s.open(t)) > 0 {
			t.Errorf("asked again before it was time: %v", err)
		}

		s.hears(t, 31*time.Minute+certificateJitter) // a refresh
		if again, err := s.get(t); err != nil || string(again.key) != string(one.key) {
			t.Errorf("while it is being refreshed: %v", err)
		}
		s.issue(t, s.pending(t))
		s.hears(t, time.Second)
		if two, err := s.get(t); err != nil || string(two.key) == string(one.key) {
			t.Errorf("after the refresh: the same key, or %v", err)
		}
	})
}

// A signer that does not answer is told about, once each for late and too late. What there is stays.
func TestPodCertificateOverdue(t *testing.T) {
	s := &signed{}
	s.test(t, func() {
		_, _ = s.get(t)
		s.issue(t, s.pending(t))
		s.hears(t, time.Second)
		for end := time.Now().Add(3 * time.Hour); time.Now().Before(end); {
			if _, err := s.get(t); err != nil {
				t.Fatal(err)
			}
			select {
			case <-s.changed:
			case <-time.After(time.Until(end)):
			}
		}
		if got, want := strings.Join(s.events, "\n"), "Warning CertificateOverdueForRefresh PodCertificate refresh overdue\nWarning CertificateExpired PodCertificate expired"; got != want {
			t.Errorf("events:\n%s\nwant\n%s", got, want)
		}
		if n := len(s.open(t)); n != 1 {
			t.Errorf("%d requests are open, want 1", n)
		}
	})
}

// The times in a certificate are by the signer's clock. One that differs makes no certificate too old at once, nor lets it get so.
func TestPodCertificateByAnotherClock(t *testing.T) {
	for _, ahead := range []time.Duration{2 * time.Hour, -2 * time.Hour} {
		s := &signed{ahead: ahead}
		s.test(t, func() {
			_, _ = s.get(t)
			s.issue(t, s.pending(t))
			s.hears(t, time.Second)
			issued := time.Now()
			if _, err := s.get(t); err != nil || len(s.open(t)) > 0 {
				t.Errorf("%s ahead of the server: asked again at once, or %v", ahead, err)
			}
			s.hears(t, 31*time.Minute+certificateJitter)
			if age := time.Since(issued); age < 29*time.Minute {
				t.Errorf("%s ahead of the server: refreshed after %s", ahead, age)
			}
			_, _ = s.get(t)
			s.pending(t)
			if len(s.events) > 0 {
				t.Errorf("%s ahead of the server: %q", ahead, s.events)
			}
		})
	}
}

// A refusal is final; a request that somebody deleted is made again.
func TestPodCertificateRefusedOrLost(t *testing.T) {
	for _, kind := range []string{certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed} {
		s := &signed{}
		s.test(t, func() {
			_, _ = s.get(t)
			s.pending(t)
			s.remove(t) // before we saw it: it may just not have come to us yet
			_, _ = s.get(t)
			if n := len(s.open(t)); n != 0 {
				t.Fatalf("%d requests are open, want none yet", n)
			}
			s.hears(t, certificateLost+certificateJitter+time.Minute)
			_, _ = s.get(t)
			s.pending(t)
			_, _ = s.get(t) // sees it
			s.remove(t)
			_, _ = s.get(t)
			next := s.pending(t)
			next.Status.Conditions = []metav1.Condition{{Type: kind, Status: "True", Reason: "Unknown", Message: "who is that"}}
			_, err := s.client.CertificatesV1().PodCertificateRequests("default").UpdateStatus(t.Context(), next, metav1.UpdateOptions{})
			must(t, err)
			s.hears(t, time.Second)
			for range 2 {
				if _, err := s.get(t); err == nil || !strings.Contains(err.Error(), `reason="Unknown" message="who is that"`) {
					t.Errorf("%s: %v", kind, err)
				}
			}
			if len(s.events) != 1 || !strings.HasPrefix(s.events[0], "Warning "+kind+" PodCertificateRequest default/") {
				t.Errorf("events %q", s.events)
			}
		})
	}
}

// Each kind of key can prove itself.
func TestKeys(t *testing.T) {
	for _, kind := range []string{"RSA3072", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"} {
		_, proof, err := makeKey(kind)
		must(t, err)
		request, err := x509.ParseCertificateRequest(proof)
		must(t, err)
		if err := request.CheckSignature(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if _, _, err := makeKey("DSA"); err == nil {
		t.Error("an unknown kind of key was made")
	}
}

// The files of a certificate are where the source wants them, and only the pod's user may read them.
func TestPodCertificateFiles(t *testing.T) {
	has := &issued{key: []byte("key"), chain: []byte("chain")}
	v := &volume{pod: newPod()}
	v.pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr(int64(1000))}
	for _, c := range []struct {
		source corev1.PodCertificateProjection
		want   map[string]string
	}{
		{corev1.PodCertificateProjection{CredentialBundlePath: "both"}, map[string]string{"both": "keychain"}},
		{corev1.PodCertificateProjection{KeyPath: "a", CertificateChainPath: "b"}, map[string]string{"a": "key", "b": "chain"}},
	} {
		got := certificateFiles(v, &c.source, has, 0o644)
		if len(got) != len(c.want) {
			t.Errorf("files %v, want %v", got, c.want)
		}
		for path, data := range c.want {
			if f := got[path]; string(f.data) != data || f.mode != 0o600 || f.uid == nil || *f.uid != 1000 {
				t.Errorf("%s: %+v", path, f)
			}
		}
	}
}

// signed is a pod with a certificate, and the API and the signer that it needs.
type signed struct {
	*podCertificates
	client  *fake.Clientset
	pod     *corev1.Pod
	changed chan types.UID
	events  []string
	made    int
	ahead   time.Duration // the node's clock, of the server's and the signer's
}

// test runs in virtual time.
func (s *signed) test(t *testing.T, run func()) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s.client = fake.NewClientset(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default", UID: "account-uid"}})
		s.client.PrependReactor("create", "podcertificaterequests", s.name)
		s.changed = make(chan types.UID, 100)
		s.podCertificates = newPodCertificates(Config{
			Client:  s.client,
			Changed: func(uid types.UID) { s.changed <- uid },
			Event: func(_ runtime.Object, kind, reason, message string) {
				s.events = append(s.events, kind+" "+reason+" "+message)
			},
			Node: func() (*corev1.Node, error) {
				return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-uid"}}, nil
			},
		})
		ctx, cancel := context.WithCancel(context.Background())
		s.run(ctx)
		defer s.stop()
		defer cancel()
		s.pod = newPod()
		s.pod.Spec.ServiceAccountName = "default"
		run()
	})
}

// name does what the API server does about generateName and creationTimestamp.
func (s *signed) name(action ktesting.Action) (bool, runtime.Object, error) {
	s.made++
	r := action.(ktesting.CreateAction).GetObject().(*certificatesv1.PodCertificateRequest)
	r.Name = fmt.Sprintf("%s%d", r.GenerateName, s.made)
	r.CreationTimestamp = metav1.NewTime(time.Now().Add(-s.ahead))
	return false, nil, nil
}

func (s *signed) get(t *testing.T) (*issued, error) {
	t.Helper()
	return s.podCertificates.get(t.Context(), s.pod, certificateKey{s.pod.UID, "tls", 0}, &corev1.PodCertificateProjection{
		SignerName: "example.org/s", KeyType: "ED25519", MaxExpirationSeconds: ptr(int32(3600)), UserAnnotations: map[string]string{"example.org/a": "b"},
	})
}

// hears waits for the pod to be woken within a while, and drains what else came.
func (s *signed) hears(t *testing.T, within time.Duration) {
	t.Helper()
	synctest.Wait()
	select {
	case <-s.changed:
	case <-time.After(within):
		t.Fatalf("nothing changed within %v", within)
	}
	synctest.Wait()
	for len(s.changed) > 0 {
		<-s.changed
	}
}

func (s *signed) open(t *testing.T) (open []*certificatesv1.PodCertificateRequest) {
	t.Helper()
	all, err := s.client.CertificatesV1().PodCertificateRequests("default").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for i := range all.Items {
		if len(all.Items[i].Status.Conditions) == 0 {
			open = append(open, &all.Items[i])
		}
	}
	return open
}

// pending is the one open request. It drains the news of its creation.
func (s *signed) pending(t *testing.T) *certificatesv1.PodCertificateRequest {
	t.Helper()
	open := s.open(t)
	if len(open) != 1 {
		t.Fatalf("%d requests are open, want 1", len(open))
	}
	s.hears(t, time.Second)
	return open[0]
}

// remove deletes the one open request.
func (s *signed) remove(t *testing.T) {
	t.Helper()
	must(t, s.client.CertificatesV1().PodCertificateRequests("default").Delete(t.Context(), s.open(t)[0].Name, metav1.DeleteOptions{}))
	s.hears(t, time.Second)
}

// issue signs for an hour, to be refreshed after half of it.
func (s *signed) issue(t *testing.T, r *certificatesv1.PodCertificateRequest) {
	t.Helper()
	request, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
	must(t, err)
	private, err := generate("ED25519")
	must(t, err)
	now := time.Now().Add(-s.ahead)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now, NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, request.PublicKey, private)
	must(t, err)
	begin, end, from := metav1.NewTime(now.Add(30*time.Minute)), metav1.NewTime(template.NotAfter), metav1.NewTime(template.NotBefore)
	r.Status = certificatesv1.PodCertificateRequestStatus{
		CertificateChain: "a comment\n" + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der, Headers: map[string]string{"a": "b"}})),
		NotBefore:        &from, BeginRefreshAt: &begin, NotAfter: &end,
		Conditions: []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: "True", Reason: "Issued"}},
	}
	_, err = s.client.CertificatesV1().PodCertificateRequests("default").UpdateStatus(t.Context(), r, metav1.UpdateOptions{})
	must(t, err)
}
