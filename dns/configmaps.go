// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// The ConfigMaps that people know from other clusters, in kube-system.
const (
	// configMap has a Corefile that replaces the default one, and files that it names.
	configMap = "coredns"
	// customConfigMap adds to a Corefile that imports it, as the default one does: *.override in the block of all names,
	// *.server beside it.
	customConfigMap = "coredns-custom"
)

// waitForConfigMaps is how long DNS waits for them before it starts without.
const waitForConfigMaps = 5 * time.Second

// configMaps follows the two.
type configMaps struct {
	main, custom cache.SharedIndexInformer
	changed      chan struct{} // capacity 1
}

// followConfigMaps starts to, until ctx ends.
func followConfigMaps(ctx context.Context, client clientset.Interface) (*configMaps, error) {
	c := &configMaps{changed: make(chan struct{}, 1)}
	note := func() {
		select {
		case c.changed <- struct{}{}:
		default:
		}
	}
	for name, to := range map[string]*cache.SharedIndexInformer{configMap: &c.main, customConfigMap: &c.custom} {
		only := func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
		}
		informer := coreinformers.NewFilteredConfigMapInformer(client, serviceNamespace, 0, nil, only)
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { note() }, UpdateFunc: func(any, any) { note() }, DeleteFunc: func(any) { note() },
		})
		if err != nil {
			return nil, err
		}
		go informer.RunWithContext(ctx)
		*to = informer
	}
	wait, cancel := context.WithTimeout(ctx, waitForConfigMaps)
	defer cancel()
	cache.WaitFor(wait, "", c.main.HasSyncedChecker(), c.custom.HasSyncedChecker())
	return c, nil
}

// get returns one of them, or nil.
func get(informer cache.SharedIndexInformer, name string) *corev1.ConfigMap {
	obj, there, err := informer.GetStore().GetByKey(serviceNamespace + "/" + name)
	if err != nil || !there {
		return nil
	}
	return obj.(*corev1.ConfigMap)
}

// files returns the Corefile that the ConfigMaps ask for, and what belongs to it.
func (c *configMaps) files(domain string) files {
	return filesOf(get(c.main, configMap), get(c.custom, customConfigMap), domain)
}

// filesOf makes a Corefile of two ConfigMaps. Either may be nil.
func filesOf(main, custom *corev1.ConfigMap, domain string) files {
	f := files{}
	if main != nil {
		for key, text := range main.Data {
			f[key] = text
		}
	}
	var overrides, servers bool
	if custom != nil {
		for key, text := range custom.Data {
			f[path.Join(customDir, key)] = text
			overrides = overrides || strings.HasSuffix(key, ".override")
			servers = servers || strings.HasSuffix(key, ".server")
		}
	}
	if f[mainFile] != "" {
		return f
	}
	text := fmt.Sprintf(defaultCorefile, domain)
	if overrides {
		text += "    import " + customDir + "/*.override\n"
	}
	text += "}\n"
	if servers {
		text += "import " + customDir + "/*.server\n"
	}
	f[mainFile] = text
	return f
}

// report tells people about a Corefile that does not work, where they will look for it.
func (s *Server) report(ctx context.Context, problem error) error {
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta:          metav1.ObjectMeta{GenerateName: configMap + "-", Namespace: serviceNamespace},
		InvolvedObject:      corev1.ObjectReference{Kind: "ConfigMap", APIVersion: "v1", Namespace: serviceNamespace, Name: configMap},
		Reason:              "CorefileRefused",
		Message:             problem.Error(),
		Type:                corev1.EventTypeWarning,
		Source:              corev1.EventSource{Component: managedBy, Host: s.cfg.NodeName},
		ReportingController: managedBy,
		ReportingInstance:   s.cfg.NodeName,
		FirstTimestamp:      now,
		LastTimestamp:       now,
		Count:               1,
	}
	_, err := s.client.CoreV1().Events(serviceNamespace).Create(ctx, event, metav1.CreateOptions{})
	return err
}
