// SPDX-License-Identifier: Apache-2.0

package addons

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// AddOnLabel is on each object that an add-on has made, and on its inventory; its value is the add-on's name.
const AddOnLabel = "skiff.io/addon"

const (
	serverAnnotation = "skiff.io/server" // whose directory an add-on is in
	inventoryPrefix  = "addon-"
	objectsKey       = "objects"
)

// id is what identifies an object.
type id struct {
	Group     string `json:"group,omitempty"`
	Version   string `json:"version"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

func (i id) kind() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: i.Group, Version: i.Version, Kind: i.Kind}
}

// same tells whether two are the same object, of whatever version.
func (i id) same(other id) bool {
	i.Version = other.Version
	return i == other
}

func union(a, b []id) []id { return append(slices.Clone(a), without(b, a)...) }

// without returns those of a that are not in b.
func without(a, b []id) []id {
	return slices.DeleteFunc(slices.Clone(a), func(x id) bool { return slices.ContainsFunc(b, x.same) })
}

// inventory is what is written down of an add-on.
type inventory struct {
	configMap *corev1.ConfigMap
	objects   []id
}

func (i *inventory) server() string { return i.configMap.Annotations[serverAnnotation] }

// inventories returns the names of the add-ons that this server has applied.
func (c *controller) inventories(ctx context.Context) ([]string, error) {
	list, err := c.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: AddOnLabel})
	if err != nil {
		return nil, fmt.Errorf("list add-ons: %w", err)
	}
	var names []string
	for i := range list.Items {
		if list.Items[i].Annotations[serverAnnotation] == c.Server {
			names = append(names, list.Items[i].Labels[AddOnLabel])
		}
	}
	return names, nil
}

// find returns the inventory of an add-on, nil if it has none.
func (c *controller) find(ctx context.Context, name string) (*inventory, error) {
	configMap, err := c.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, inventoryPrefix+name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get the inventory of add-on %s: %w", name, err)
	}
	inv := &inventory{configMap: configMap}
	if raw := configMap.Data[objectsKey]; raw != "" {
		if err := json.Unmarshal([]byte(raw), &inv.objects); err != nil {
			return nil, fmt.Errorf("read the inventory of add-on %s: %w", name, err)
		}
	}
	return inv, nil
}

// begin returns the inventory of an add-on, which it makes if need be.
func (c *controller) begin(ctx context.Context, name string) (*inventory, error) {
	inv, err := c.find(ctx, name)
	if err != nil || inv != nil {
		return inv, err
	}
	configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name: inventoryPrefix + name, Namespace: metav1.NamespaceSystem,
		Labels: map[string]string{AddOnLabel: name}, Annotations: map[string]string{serverAnnotation: c.Server},
	}}
	configMap, err = c.Client.CoreV1().ConfigMaps(configMap.Namespace).Create(ctx, configMap, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("make the inventory of add-on %s: %w", name, err)
	}
	return &inventory{configMap: configMap}, nil
}

// record writes down what the add-on has made.
func (c *controller) record(ctx context.Context, inv *inventory, objects []id) error {
	raw, err := json.Marshal(objects)
	if err != nil {
		return err
	}
	changed := inv.configMap.DeepCopy()
	changed.Data = map[string]string{objectsKey: string(raw)}
	metav1.SetMetaDataAnnotation(&changed.ObjectMeta, serverAnnotation, c.Server)
	if maps.Equal(changed.Data, inv.configMap.Data) && inv.server() == c.Server {
		return nil
	}
	changed, err = c.Client.CoreV1().ConfigMaps(changed.Namespace).Update(ctx, changed, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("write the inventory %s: %w", inv.configMap.Name, err)
	}
	inv.configMap = changed
	return nil
}

func (c *controller) end(ctx context.Context, inv *inventory) error {
	err := c.Client.CoreV1().ConfigMaps(inv.configMap.Namespace).Delete(ctx, inv.configMap.Name, metav1.DeleteOptions{
		Preconditions: metav1.NewUIDPreconditions(string(inv.configMap.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete the inventory %s: %w", inv.configMap.Name, err)
	}
	return nil
}
