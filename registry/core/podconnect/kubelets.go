// SPDX-License-Identifier: Apache-2.0

package podconnect

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// addressTypes are the kinds of node addresses in the order in which they are tried.
var addressTypes = []corev1.NodeAddressType{
	corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeInternalDNS, corev1.NodeExternalDNS, corev1.NodeHostName,
}

// NodeKubelets finds kubelets by what their Node objects say.
type NodeKubelets struct {
	Nodes Getter
	// DefaultPort is the kubelet's port for nodes that do not tell theirs.
	DefaultPort int
	// ByName says that the transports find nodes by their names.
	ByName bool
	// Transport and Insecure are as in Connection.
	Transport, Insecure http.RoundTripper
}

var _ Kubelets = NodeKubelets{}

// Connection returns how to reach the kubelet at the node's first address of the most preferred kind.
func (k NodeKubelets) Connection(ctx context.Context, nodeName string) (Connection, error) {
	obj, err := k.Nodes.Get(ctx, nodeName, &metav1.GetOptions{})
	if err != nil {
		return Connection{}, err
	}
	node, ok := obj.(*corev1.Node)
	if !ok {
		return Connection{}, fmt.Errorf("unexpected object type: %#v", obj)
	}
	host, err := preferredAddress(node)
	if err != nil {
		return Connection{}, apierrors.NewServiceUnavailable(err.Error())
	}
	port := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port == 0 {
		port = k.DefaultPort
	}
	c := Connection{Scheme: "https", Host: host, Address: host, Port: strconv.Itoa(port), Transport: k.Transport, Insecure: k.Insecure}
	if k.ByName {
		c.Host = node.Name
	}
	return c, nil
}

func preferredAddress(node *corev1.Node) (string, error) {
	for _, kind := range addressTypes {
		for _, a := range node.Status.Addresses {
			if a.Type == kind && a.Address != "" {
				return a.Address, nil
			}
		}
	}
	return "", fmt.Errorf("no preferred addresses found; known addresses: %v", node.Status.Addresses)
}
