// SPDX-License-Identifier: Apache-2.0

// Package csrapproving approves the certificate requests of nodes, so that a machine becomes a node, and stays
// one, without hands.
//
// A client certificate is approved, as upstream does, for who may create the subresource `nodeclient` (a machine that
// joins) or, for a certificate of the requester's own, `selfnodeclient` (a node that renews). But a machine that joins
// by a token cannot become a node that there is already: that is denied until the Node has been deleted; and of two that
// join under one new name the first gets it. Serving certificates
// upstream leaves to administrators. Here a node gets one for its own name and for the addresses that its Node has:
// they are signed by an authority that nobody but the API server trusts, which asks for the node by its name.
// Everything else is for a person to decide.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/
package csrapproving

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/pki"
)

// Name is the controller's identity, shared with those that sign and clean up.
const Name = "certificate-controller"

// Reasons of the conditions.
const (
	ReasonNodeExists  = "NodeExists"
	reasonNodeJoining = "NodeJoining" // likewise as one that another machine is becoming
	reasonApproved    = "AutoApproved"
)

// lookAgain is when the rights of a requester who has not enough of them are looked at again.
const lookAgain = time.Minute

type controller struct {
	client   kubernetes.Interface
	requests certificateslisters.CertificateSigningRequestLister
	nodes    corelisters.NodeLister

	mu sync.Mutex
	// joining are the machines that were let join and have no Node yet, by its name. The informers would tell too late.
	joining map[string]joiner
}

// joiner is a machine that joins: whose request was approved, and when.
type joiner struct {
	request types.UID
	since   time.Time
}

// joinWindow is how long a machine may take from its approval to its Node; afterwards another one may have the name.
const joinWindow = 5 * time.Minute

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory) reconcile.Controller {
	requests := factory.Certificates().V1().CertificateSigningRequests()
	nodes := factory.Core().V1().Nodes()
	c := &controller{client: client, requests: requests.Lister(), nodes: nodes.Lister(), joining: map[string]joiner{}}
	return reconcile.Controller{
		Name:       "csrapproving",
		Reconcile:  c.Reconcile,
		MinBackoff: 200 * time.Millisecond,
		Watches: []reconcile.Watch{
			reconcile.OnSelf[*certificatesv1.CertificateSigningRequest](requests.Informer()),
			reconcile.On(nodes.Informer(), func(q reconcile.Queue, old, new *corev1.Node) {
				if old == nil {
					c.hasJoined(new.Name)
				}
				if new != nil && (old == nil || !equality.Semantic.DeepEqual(old.Status.Addresses, new.Status.Addresses)) {
					c.queueRequestsOf(q, new.Name)
				}
			}),
		},
	}
}

// queueRequestsOf queues what a node asked for before its Node had the addresses.
func (c *controller) queueRequestsOf(q reconcile.Queue, node string) {
	all, _ := c.requests.List(labels.Everything()) // a lister fails for selectors only
	for _, r := range all {
		if r.Spec.Username == pki.NodeUser+node && r.Spec.SignerName == certificatesv1.KubeletServingSignerName {
			q.Add(types.NamespacedName{Name: r.Name})
		}
	}
}

// Reconcile approves a request of a kind that it knows.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	request, err := c.requests.Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil || decided(request) {
		return reconcile.Result{}, err
	}
	parsed, err := pki.ParseRequest(request.Spec.Request)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("parse the request: %w", err)
	}
	switch request.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		if node := strings.TrimPrefix(parsed.Subject.CommonName, pki.NodeUser); c.wouldReplace(request, node) {
			return reconcile.Result{}, c.decide(ctx, request, certificatesv1.CertificateDenied, ReasonNodeExists,
				fmt.Sprintf("there is a node %s already (join under another name, or delete that Node first)", node))
		}
		return c.approveClient(ctx, request, parsed)
	case certificatesv1.KubeletServingSignerName:
		return reconcile.Result{}, c.approveServing(ctx, request, parsed)
	}
	return reconcile.Result{}, nil
}

// wouldReplace tells whether a machine that joins by a token asks for the certificate of a node that there is.
func (c *controller) wouldReplace(request *certificatesv1.CertificateSigningRequest, node string) bool {
	if !slices.Contains(request.Spec.Groups, bootstrapapi.BootstrapDefaultGroup) {
		return false
	}
	_, err := c.nodes.Get(node)
	return err == nil
}

// takesName tells whether a machine that joins by a token may have a name: the first that asks. Two that ask at the same
// moment would be one Node with two kubelets.
func (c *controller) takesName(request *certificatesv1.CertificateSigningRequest, node string) bool {
	if !slices.Contains(request.Spec.Groups, bootstrapapi.BootstrapDefaultGroup) {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(c.joining, func(_ string, j joiner) bool { return now.Sub(j.since) > joinWindow })
	if other, taken := c.joining[node]; taken {
		return other.request == request.UID
	}
	c.joining[node] = joiner{request: request.UID, since: now}
	return true
}

// hasJoined forgets a machine that has a Node: from now on that is what others may not take.
func (c *controller) hasJoined(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.joining, node)
}

func decided(request *certificatesv1.CertificateSigningRequest) bool {
	return len(request.Status.Certificate) > 0 ||
		slices.ContainsFunc(request.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
			return c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied
		})
}

func (c *controller) approveClient(ctx context.Context, request *certificatesv1.CertificateSigningRequest, parsed *x509.CertificateRequest) (reconcile.Result, error) {
	if pki.CheckKubeletClient(parsed, request.Spec.Usages) != nil {
		return reconcile.Result{}, nil
	}
	for _, right := range []struct {
		subresource, message string
		applies              bool
	}{
		{"selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.", request.Spec.Username == parsed.Subject.CommonName},
		{"nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.", true},
	} {
		if !right.applies {
			continue
		}
		allowed, err := c.mayCreate(ctx, request, right.subresource)
		if err != nil {
			return reconcile.Result{}, err
		}
		node := strings.TrimPrefix(parsed.Subject.CommonName, pki.NodeUser)
		if allowed && !c.takesName(request, node) {
			return reconcile.Result{}, c.decide(ctx, request, certificatesv1.CertificateDenied, reasonNodeJoining,
				fmt.Sprintf("another machine is joining as node %s (join under another name; or again in %s, if that one has given up)", node, joinWindow))
		}
		if allowed {
			return reconcile.Result{}, c.decide(ctx, request, certificatesv1.CertificateApproved, reasonApproved, right.message)
		}
	}
	return reconcile.Result{RequeueAfter: lookAgain}, nil // it may get the right, or a person decides
}

func (c *controller) mayCreate(ctx context.Context, request *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range request.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review, err := c.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: request.Spec.Username, UID: request.Spec.UID, Groups: request.Spec.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: certificatesv1.GroupName, Version: "*", Resource: "certificatesigningrequests", Subresource: subresource, Verb: "create",
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("ask what %s may do: %w", request.Spec.Username, err)
	}
	return review.Status.Allowed, nil
}

// approveServing approves what a node asks for itself. Its Node may still be on its way, with its addresses: they
// bring the request here again.
func (c *controller) approveServing(ctx context.Context, request *certificatesv1.CertificateSigningRequest, parsed *x509.CertificateRequest) error {
	if pki.CheckKubeletServing(parsed, request.Spec.Usages) != nil || request.Spec.Username != parsed.Subject.CommonName ||
		!slices.Contains(request.Spec.Groups, "system:nodes") {
		return nil
	}
	node, err := c.nodes.Get(strings.TrimPrefix(request.Spec.Username, pki.NodeUser))
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil || !isAbout(parsed, node) {
		return err
	}
	return c.decide(ctx, request, certificatesv1.CertificateApproved, reasonApproved, "Auto approving kubelet serving certificate for the node's own name and addresses.")
}

// isAbout tells whether a request names nothing but the node and addresses that it has.
func isAbout(request *x509.CertificateRequest, node *corev1.Node) bool {
	foreignName := slices.ContainsFunc(request.DNSNames, func(name string) bool { return name != node.Name })
	foreignAddress := slices.ContainsFunc(request.IPAddresses, func(ip net.IP) bool {
		return !slices.ContainsFunc(node.Status.Addresses, func(a corev1.NodeAddress) bool { return ip.Equal(net.ParseIP(a.Address)) })
	})
	return !foreignName && !foreignAddress
}

func (c *controller) decide(ctx context.Context, request *certificatesv1.CertificateSigningRequest, verdict certificatesv1.RequestConditionType, reason, message string) error {
	decided := request.DeepCopy()
	decided.Status.Conditions = append(decided.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: verdict, Status: corev1.ConditionTrue, Reason: reason, Message: message,
	})
	if _, err := c.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, decided.Name, decided, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("decide on the request: %w", err)
	}
	return nil
}
