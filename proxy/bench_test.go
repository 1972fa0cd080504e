// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/network/iptables"
)

// BenchmarkSync measures the proxy's work in a real kernel, for Services with five endpoints each: writing all of
// them, and one of their endpoints more or less. cpu-ms is what the proxy and its commands take together.
//
//	go test ./proxy -run '^$' -bench Sync -benchtime 5x
func BenchmarkSync(b *testing.B) {
	for _, services := range []int{100, 1000, 10000} {
		all := named(services, nil)
		name := types.NamespacedName{Namespace: "ns", Name: fmt.Sprintf("svc-%05d", services/2)}
		for mode, newBackend := range benchBackends {
			b.Run(fmt.Sprintf("%s/%d/full", mode, services), func(b *testing.B) {
				backend := newBackend()
				b.Cleanup(func() { cleanUp(b, backend) })
				measure(b, func(int) error { return backend.replace(b.Context(), all, testSettings) })
			})
			b.Run(fmt.Sprintf("%s/%d/endpoint", mode, services), func(b *testing.B) {
				backend := newBackend()
				b.Cleanup(func() { cleanUp(b, backend) })
				if err := backend.replace(b.Context(), all, testSettings); err != nil {
					b.Fatal(err)
				}
				measure(b, func(i int) error {
					return backend.update(b.Context(), map[types.NamespacedName][]servicePort{name: numbered(services/2, 4+i%2, nil)})
				})
			})
			b.Run(fmt.Sprintf("%s/%d/service", mode, services), func(b *testing.B) {
				backend := newBackend()
				b.Cleanup(func() { cleanUp(b, backend) })
				if err := backend.replace(b.Context(), all, testSettings); err != nil {
					b.Fatal(err)
				}
				measure(b, func(i int) error {
					ports := numbered(services/2, 5, nil)
					if i%2 == 0 {
						ports = nil
					}
					return backend.update(b.Context(), map[types.NamespacedName][]servicePort{name: ports})
				})
			})
		}
	}
}

var benchBackends = map[string]func() backend{
	"iptables": func() backend {
		return newIPTablesBackend(iptables.New(iptables.IPv4), settings{family: corev1.IPv4Protocol})
	},
}

func cleanUp(b *testing.B, backend backend) {
	if err := backend.cleanup(context.Background()); err != nil {
		b.Error(err)
	}
}

func measure(b *testing.B, f func(i int) error) {
	before := cpuTime()
	b.ResetTimer()
	for i := range b.N {
		if err := f(i); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuTime()-before)/float64(b.N)/1000, "cpu-ms/op")
}

// cpuTime returns what this process and its ended children have used, in microseconds.
func cpuTime() int64 {
	total := int64(0)
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var usage syscall.Rusage
		if syscall.Getrusage(who, &usage) == nil {
			total += usage.Utime.Nano() + usage.Stime.Nano()
		}
	}
	return total / 1000
}
