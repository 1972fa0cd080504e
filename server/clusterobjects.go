// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/localpath"
	"github.com/skiff-k8s/skiff/controllers/serviceaccounttoken"
	"github.com/skiff-k8s/skiff/gateway/ingress"
)

// clusterObjects are what every cluster has before its users bring anything: the system namespaces, the
// priority classes of system pods, the range of Service addresses, and the Service by which pods reach the
// API.
type clusterObjects struct {
	client    kubernetes.Interface
	cfg       Config
	rootCA    []byte
	endpoints func(context.Context) error // says where the API is
}

// ensure creates what is missing. Several servers may do so at the same time.
func (o clusterObjects) ensure(ctx context.Context) error {
	for _, step := range []func(context.Context) error{o.namespaces, o.priorities, o.serviceCIDR, o.apiService, o.endpoints, o.clusterInfo, o.localPath, o.ingress, o.tokenTracking} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (o clusterObjects) namespaces(ctx context.Context) error {
	for _, name := range []string{metav1.NamespaceSystem, metav1.NamespaceDefault, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := o.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create namespace %s: %w", name, err)
		}
	}
	return nil
}

func (o clusterObjects) priorities(ctx context.Context) error {
	for _, class := range []schedulingv1.PriorityClass{
		{
			ObjectMeta:  metav1.ObjectMeta{Name: "system-node-critical"},
			Value:       2000001000,
			Description: "Used for system critical pods that must not be moved from their current node.",
		},
		{
			ObjectMeta:  metav1.ObjectMeta{Name: "system-cluster-critical"},
			Value:       2000000000,
			Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
		},
	} {
		class.PreemptionPolicy = ptr.To(corev1.PreemptLowerPriority)
		if _, err := o.client.SchedulingV1().PriorityClasses().Create(ctx, &class, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create priority class %s: %w", class.Name, err)
		}
	}
	return nil
}

// tokenTracking notes the day from which on the API server labels token Secrets with the day of their use.
func (o clusterObjects) tokenTracking(ctx context.Context) error {
	tracking := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: serviceaccounttoken.TrackingConfigMap, Namespace: metav1.NamespaceSystem},
		Data:       map[string]string{serviceaccounttoken.TrackingKey: time.Now().UTC().Format(time.DateOnly)},
	}
	_, err := o.client.CoreV1().ConfigMaps(tracking.Namespace).Create(ctx, tracking, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create ConfigMap %s: %w", tracking.Name, err)
	}
	return nil
}

// defaultServiceCIDR is the name that upstream gives to the range of the command line.
const defaultServiceCIDR = "kubernetes"

// serviceCIDR makes the range of the command line known. Its controller says that it is ready.
func (o clusterObjects) serviceCIDR(ctx context.Context) error {
	cidr := &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: defaultServiceCIDR},
	}
	for _, prefix := range o.cfg.ServiceCIDRs {
		cidr.Spec.CIDRs = append(cidr.Spec.CIDRs, prefix.String())
	}
	_, err := o.client.NetworkingV1().ServiceCIDRs().Create(ctx, cidr, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create ServiceCIDR %s: %w", defaultServiceCIDR, err)
	}
	return nil
}

// apiService is the name of the Service by which pods reach the API.
const apiService = "kubernetes"

func (o clusterObjects) apiService(ctx context.Context) error {
	// Asked first: a second create would be refused for its address, not for its name.
	_, err := o.client.CoreV1().Services(metav1.NamespaceDefault).Get(ctx, apiService, metav1.GetOptions{})
	if err == nil {
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("look for the kubernetes Service: %w", err)
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: apiService, Namespace: metav1.NamespaceDefault, Labels: map[string]string{"provider": "kubernetes", "component": "apiserver"}},
		Spec: corev1.ServiceSpec{
			Type:            corev1.ServiceTypeClusterIP,
			ClusterIP:       o.cfg.apiServiceIP().String(),
			ClusterIPs:      []string{o.cfg.apiServiceIP().String()},
			IPFamilyPolicy:  ptr.To(corev1.IPFamilyPolicySingleStack),
			SessionAffinity: corev1.ServiceAffinityNone,
			Ports:           []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt(o.cfg.SecurePort)}},
		},
	}
	if _, err := o.client.CoreV1().Services(metav1.NamespaceDefault).Create(ctx, service, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create the kubernetes Service: %w", err)
	}
	return nil
}

// clusterInfo publishes what a machine reads before it joins: where the API is, and the certificate to know it by.
// Who signs it leaves signatures in it.
func (o clusterObjects) clusterInfo(ctx context.Context) error {
	config := clientcmdapi.NewConfig()
	config.Clusters[""] = &clientcmdapi.Cluster{
		Server: "https://" + net.JoinHostPort(o.cfg.NodeIP.String(), strconv.Itoa(o.cfg.SecurePort)), CertificateAuthorityData: o.rootCA,
	}
	text, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("write cluster-info: %w", err)
	}
	configMaps := o.client.CoreV1().ConfigMaps(metav1.NamespacePublic)
	old, err := configMaps.Get(ctx, bootstrapapi.ConfigMapClusterInfo, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = configMaps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: bootstrapapi.ConfigMapClusterInfo},
			Data:       map[string]string{bootstrapapi.KubeConfigKey: string(text)},
		}, metav1.CreateOptions{})
	case err == nil && old.Data[bootstrapapi.KubeConfigKey] != string(text):
		old.Data = map[string]string{bootstrapapi.KubeConfigKey: string(text)}
		_, err = configMaps.Update(ctx, old, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("publish cluster-info: %w", err)
	}
	return nil
}

// localPath makes the default StorageClass, and lets its provisioner do what it does. What is there stays as it is.
func (o clusterObjects) localPath(ctx context.Context) error {
	if slices.Contains(o.cfg.Disable, localpath.Class().Name) {
		return nil
	}
	if _, err := o.client.StorageV1().StorageClasses().Create(ctx, localpath.Class(), metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create StorageClass: %w", err)
	}
	return o.role(ctx, localpath.Role)
}

// ingress makes the IngressClass, and lets its controller do what it does. It is the default unless another one is.
func (o clusterObjects) ingress(ctx context.Context) error {
	if !o.cfg.servesIngresses() {
		return nil
	}
	classes := o.client.NetworkingV1().IngressClasses()
	list, err := classes.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list IngressClasses: %w", err)
	}
	other := slices.ContainsFunc(list.Items, func(c networkingv1.IngressClass) bool {
		return c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true"
	})
	if _, err := classes.Create(ctx, ingress.Class(!other), metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create IngressClass: %w", err)
	}
	return o.role(ctx, ingress.Role)
}

// role makes what a controller of ours may do. What is there stays as it is.
func (o clusterObjects) role(ctx context.Context, of func() (*rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding)) error {
	role, binding := of()
	if _, err := o.client.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create ClusterRole %s: %w", role.Name, err)
	}
	if _, err := o.client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create ClusterRoleBinding %s: %w", binding.Name, err)
	}
	return nil
}
