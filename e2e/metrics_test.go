// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// What dashboards ask a node for is there, for a pod that really runs.
func TestNodeTells(t *testing.T) {
	n := newNode(t)
	n.kubectl("run", "teller", "--image=busybox:stable", "--image-pull-policy=IfNotPresent", "--", "sh", "-c", "while true; do :; done")
	n.kubectl("wait", "--for=condition=Ready", "pod/teller", "--timeout=60s")
	const owner = `namespace="default",pod="teller"`
	for _, c := range []struct {
		path   string
		series []string // the beginnings of what has to be there
	}{
		{"metrics/resource", []string{
			`node_cpu_usage_seconds_total`, `node_memory_working_set_bytes`, `container_cpu_usage_seconds_total{container="teller",` + owner, `pod_memory_working_set_bytes{` + owner, `resource_scrape_error 0`,
		}},
		{"metrics/cadvisor", []string{
			`container_cpu_usage_seconds_total{container="teller",cpu="total",id=`, `container_memory_working_set_bytes{container="teller",id=`, `container_network_receive_bytes_total{container="",id=`,
			`container_processes{container="teller",id=`, `container_scrape_error 0`, `machine_cpu_cores{`,
		}},
		{"metrics", []string{
			`kubelet_node_name{node="alpha"} 1`, `kubelet_running_pods `, `kubelet_runtime_operations_total{operation_type="run_podsandbox"}`, `kubelet_pod_start_duration_seconds_count `, `process_resident_memory_bytes `,
		}},
		{"stats/summary", []string{`"name": "teller"`, `"usageNanoCores"`, `"logs"`}},
		{"configz", []string{`"evictionHard"`, `"clusterDomain": "cluster.local"`}},
		{"flagz", []string{"node-name", "kubelet-port"}},
		{"statusz", []string{"Binary version", "/configz /debug /flagz"}},
		{"healthz?verbose", []string{"[+]ping ok", "[+]syncloop ok"}},
		{"metrics/slis", []string{`kubernetes_healthcheck{name="syncloop",type="healthz"} 1`}},
		{"debug/pprof/goroutine?debug=1", []string{"goroutine profile: total"}},
	} {
		n.eventually(30*time.Second, c.path+" tells all", func() error {
			out, err := n.try("get", "--raw", "/api/v1/nodes/alpha/proxy/"+c.path)
			if err != nil {
				return err
			}
			if strings.HasPrefix(out, "{") {
				out = strings.ReplaceAll(out, `":"`, `": "`)
			}
			for _, s := range c.series {
				if !strings.Contains(out, s) {
					return errors.New("there is no " + s)
				}
			}
			return nil
		})
	}
	if out := n.inside("curl", "-s", "http://127.0.0.1:10248/healthz"); out != "ok" {
		t.Errorf("healthz on the machine itself = %q", out)
	}
	// There is no CRIU on a test host; all up to it is there.
	_, err := n.try("create", "--raw", "/api/v1/nodes/alpha/proxy/checkpoint/default/teller/teller", "-f", "/dev/null")
	if err == nil || !strings.Contains(err.Error(), "checkpointing of default/teller/teller failed (rpc error") || !strings.Contains(err.Error(), "criu") {
		t.Errorf("checkpoint without CRIU: %v", err)
	}
}
