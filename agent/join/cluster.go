// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Cluster is what a node has to know of its cluster. Servers publish it for nodes to read.
type Cluster struct {
	ClusterCIDR  netip.Prefix   `json:"clusterCIDR"` // the first of ClusterCIDRs, which older agents look for; likewise
	ServiceCIDR  netip.Prefix   `json:"serviceCIDR"`
	ClusterCIDRs []netip.Prefix `json:"clusterCIDRs"`
	ServiceCIDRs []netip.Prefix `json:"serviceCIDRs"`
	DNS          netip.Addr     `json:"dns"`
	Domain       string         `json:"domain"`
	Network      string         `json:"network"`  // see agent.Settings
	ClientCA     string         `json:"clientCA"` // PEM: of those who may call kubelets

	LoadBalancerPool []string `json:"loadBalancerPool,omitempty"` // ranges that nodes announce addresses of
}

// The ConfigMap that it lies in, in kube-system.
const (
	clusterName = "skiff-cluster"
	clusterKey  = "cluster.json"
)

// Publish puts a Cluster where nodes find it.
func (c Cluster) Publish(ctx context.Context, client kubernetes.Interface) error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("write what nodes have to know: %w", err)
	}
	data := map[string]string{clusterKey: string(text)}
	configMaps := client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	old, err := configMaps.Get(ctx, clusterName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = configMaps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: clusterName}, Data: data}, metav1.CreateOptions{})
	case err == nil && !reflect.DeepEqual(old.Data, data):
		old.Data = data
		_, err = configMaps.Update(ctx, old, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("publish what nodes have to know: %w", err)
	}
	return nil
}

func readCluster(ctx context.Context, client kubernetes.Interface) (Cluster, error) {
	configMap, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, clusterName, metav1.GetOptions{})
	if err != nil {
		return Cluster{}, fmt.Errorf("read what the servers tell nodes: %w", err)
	}
	var c Cluster
	if err := json.Unmarshal([]byte(configMap.Data[clusterKey]), &c); err != nil {
		return Cluster{}, fmt.Errorf("read what the servers tell nodes: %w", err)
	}
	if len(c.ClusterCIDRs) == 0 { // from an older server
		c.ClusterCIDRs, c.ServiceCIDRs = []netip.Prefix{c.ClusterCIDR}, []netip.Prefix{c.ServiceCIDR}
	}
	return c, nil
}
