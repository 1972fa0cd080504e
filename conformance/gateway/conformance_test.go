// SPDX-License-Identifier: Apache-2.0

// Package gateway runs the conformance suite of the Gateway API against the cluster of $KUBECONFIG. Command rungateway of the
// module above makes the cluster, and runs this in it with the suite's own flags.
package gateway

import (
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance"
)

// TestConformance runs the suite. What is tested beyond the core is what the GatewayClass says that is supported.
func TestConformance(t *testing.T) {
	options := conformance.DefaultOptions(t)
	awaitClass(t, options.Client, options.GatewayClassName)
	conformance.RunConformanceWithOptions(t, options)
}

// awaitClass waits for the GatewayClass. To ask for it is what brings the Gateway API into the cluster.
func awaitClass(t *testing.T, c client.Client, name string) {
	deadline := time.Now().Add(time.Minute)
	for {
		var class gatewayv1.GatewayClass
		err := c.Get(t.Context(), client.ObjectKey{Name: name}, &class)
		if err == nil && len(class.Status.SupportedFeatures) > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("GatewayClass %s does not say what is supported: %v", name, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
