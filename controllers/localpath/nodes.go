// SPDX-License-Identifier: Apache-2.0

package localpath

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/internal/simulatednode"
)

// makeDirectory makes a volume's. On a node that exists in the API only, it does so, too.
func (p *provisioner) makeDirectory(ctx context.Context, node *corev1.Node, volume string) (path string, err error) {
	if node.Labels[simulatednode.Label] != "" {
		return "/simulated/" + volume, nil
	}
	return p.nodes.Make(ctx, node.Name, volume)
}

func (p *provisioner) removeDirectory(ctx context.Context, node *corev1.Node, volume string) error {
	if node.Labels[simulatednode.Label] != "" {
		return nil
	}
	return p.nodes.Remove(ctx, node.Name, volume)
}

// kubelets asks the nodes' kubelets, through the API server, which knows the way to each.
type kubelets struct{ client kubernetes.Interface }

// Kubelets returns the way to the nodes by a client, whose user must have access to nodes/proxy.
func Kubelets(client kubernetes.Interface) Nodes { return kubelets{client} }

// Directory is what a kubelet answers about a volume's directory.
type Directory struct {
	Path string `json:"path"`
}

// Path is where a kubelet serves the directory of a volume. PUT makes it and DELETE removes it.
const Path = "/localVolumes/"

func (k kubelets) Make(ctx context.Context, node, volume string) (string, error) {
	raw, err := k.client.CoreV1().RESTClient().Put().AbsPath(url(node, volume)).DoRaw(ctx)
	if err != nil {
		return "", err
	}
	var d Directory
	if err := json.Unmarshal(raw, &d); err != nil || d.Path == "" {
		return "", fmt.Errorf("node %s did not say where the directory is: %q", node, raw)
	}
	return d.Path, nil
}

func (k kubelets) Remove(ctx context.Context, node, volume string) error {
	return k.client.CoreV1().RESTClient().Delete().AbsPath(url(node, volume)).Do(ctx).Error()
}

func url(node, volume string) string {
	return "/api/v1/nodes/" + node + "/proxy" + Path + volume
}
