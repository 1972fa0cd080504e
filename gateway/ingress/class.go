// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/controllers/role"
)

const (
	// ControllerName is what IngressClasses of ours name.
	ControllerName = "skiff.io/ingress-controller"
	// ClassName is the IngressClass that every cluster has.
	ClassName = "skiff"

	// classAnnotation named the class before spec.ingressClassName did.
	classAnnotation = "kubernetes.io/ingress.class"
)

// Class is the IngressClass that every cluster has. isDefault makes it the one of Ingresses that name none.
func Class(isDefault bool) *networkingv1.IngressClass {
	class := &networkingv1.IngressClass{
		ObjectMeta: metav1.ObjectMeta{Name: ClassName},
		Spec:       networkingv1.IngressClassSpec{Controller: ControllerName},
	}
	if isDefault {
		class.Annotations = map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}
	}
	return class
}

// Role is what the controller may do, and that it is the one who may. It does not include Secrets: see Config.Secrets.
func Role() (*rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding) {
	return role.New(Name,
		role.Rule("update", networkingv1.GroupName, "ingresses/status"),
		role.Rule("create patch update", "", "events"),
	)
}

// isOurs says whether an Ingress is of a class that names our controller. One without a class is nobody's: the API server
// gives new ones the default class.
func (c *Controller) isOurs(in *networkingv1.Ingress) bool {
	if in == nil {
		return false
	}
	name := in.Annotations[classAnnotation]
	if in.Spec.IngressClassName != nil {
		name = *in.Spec.IngressClassName
	}
	if name == "" {
		return false
	}
	class, err := c.classes.Get(name)
	return err == nil && class.Spec.Controller == ControllerName
}

// ours returns our Ingresses, the oldest first: what two of them claim is the first one's.
func (c *Controller) ours() ([]*networkingv1.Ingress, error) {
	ingresses, err := c.ingresses.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	ingresses = slices.DeleteFunc(ingresses, func(in *networkingv1.Ingress) bool { return !c.isOurs(in) || in.DeletionTimestamp != nil })
	slices.SortFunc(ingresses, reconcile.OlderFirst)
	return ingresses, nil
}
