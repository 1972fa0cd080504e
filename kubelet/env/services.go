// SPDX-License-Identifier: Apache-2.0

package env

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// Services is the shared informer of Services.
type Services struct {
	Lister corelisters.ServiceLister
	Synced func() bool
}

// apiService is the Service in the default namespace that every pod gets variables for.
const apiService = "kubernetes"

// serviceVariables returns the variables that tell pod where the Services of its namespace are.
func (b *Builder) serviceVariables(pod *corev1.Pod) (map[string]string, error) {
	if !b.services.Synced() {
		return nil, errors.New("services have not yet been read at least once, cannot construct envvars")
	}
	vars := map[string]string{}
	if api, err := b.services.Lister.Services(metav1.NamespaceDefault).Get(apiService); err == nil {
		addService(vars, api)
	}
	if pod.Spec.EnableServiceLinks != nil && !*pod.Spec.EnableServiceLinks {
		return vars, nil
	}
	services, err := b.services.Lister.Services(pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("failed to list services when setting up env vars")
	}
	for _, s := range services {
		addService(vars, s)
	}
	return vars, nil
}

// addService adds {SVC}_SERVICE_HOST, {SVC}_SERVICE_PORT and the forms that Docker links had.
func addService(vars map[string]string, s *corev1.Service) {
	ip := s.Spec.ClusterIP
	if ip == "" || ip == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
		return
	}
	prefix := variableName(s.Name)
	vars[prefix+"_SERVICE_HOST"] = ip
	vars[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
	for i, p := range s.Spec.Ports {
		port := strconv.Itoa(int(p.Port))
		if p.Name != "" {
			vars[prefix+"_SERVICE_PORT_"+variableName(p.Name)] = port
		}
		protocol := string(p.Protocol)
		if protocol == "" {
			protocol = string(corev1.ProtocolTCP)
		}
		url := strings.ToLower(protocol) + "://" + net.JoinHostPort(ip, port)
		if i == 0 {
			vars[prefix+"_PORT"] = url
		}
		link := prefix + "_PORT_" + port + "_" + strings.ToUpper(protocol)
		vars[link] = url
		vars[link+"_PROTO"] = strings.ToLower(protocol)
		vars[link+"_PORT"] = port
		vars[link+"_ADDR"] = ip
	}
}

func variableName(s string) string {
	return strings.ToUpper(strings.ReplaceAll(s, "-", "_"))
}
