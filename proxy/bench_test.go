// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/network/iptables"
	"github.com/skiff-k8s/skiff/network/nettest"
)

// BenchmarkSync measures the proxy's work in a real kernel, for Services with five endpoints each: writing all of
// them, one of their endpoints more or less, and one Service more or less. cpu-ms is what the proxy and its commands take
// together, kernel-ms the part of it in the kernel: nf_tables follows all jumps of a table whenever a rule with one comes.
//
//	go test ./proxy -run '^$' -bench Sync -benchtime 5x
func BenchmarkSync(b *testing.B) {
	for _, services := range []int{100, 1000, 10000} {
		all := named(services, nil)
		name := types.NamespacedName{Namespace: "ns", Name: fmt.Sprintf("svc-%05d", services/2)}
		for mode, newBackend := range benchBackends {
			for what, change := range map[string]func(i int) []servicePort{
				"endpoint": func(i int) []servicePort { return numbered(services/2, 4+i%2, nil) },
				"service": func(i int) []servicePort {
					if i%2 == 0 {
						return nil
					}
					return numbered(services/2, 5, nil)
				},
			} {
				b.Run(fmt.Sprintf("%s/%d/%s", mode, services, what), func(b *testing.B) {
					backend, in := newBackend(), machineOf(b)
					if err := in(func() error { return backend.replace(b.Context(), all, testSettings) }); err != nil {
						b.Fatal(err)
					}
					measure(b, func(i int) error {
						return in(func() error {
							return backend.update(b.Context(), map[types.NamespacedName][]servicePort{name: change(i)})
						})
					})
				})
			}
			b.Run(fmt.Sprintf("%s/%d/full", mode, services), func(b *testing.B) {
				backend, in := newBackend(), machineOf(b)
				measure(b, func(int) error { return in(func() error { return backend.replace(b.Context(), all, testSettings) }) })
			})
		}
	}
}

// machineOf returns what runs something on a machine of its own: it is gone at once with its rules, where a command would
// have to remove them one by one.
func machineOf(b *testing.B) (in func(func() error) error) {
	namespace := nettest.NewNetns(b, "bench")
	return func(f func() error) error { return nettest.In(b, namespace, f) }
}

var benchBackends = map[string]func() backend{
	"iptables": func() backend {
		return newIPTablesBackend(iptables.New(iptables.IPv4), settings{family: corev1.IPv4Protocol})
	},
	"nftables": func() backend { return newNFTablesBackend(corev1.IPv4Protocol) },
}

func measure(b *testing.B, f func(i int) error) {
	before, kernelBefore := cpuTime()
	n := 0
	for b.Loop() {
		if err := f(n); err != nil {
			b.Fatal(err)
		}
		n++
	}
	total, kernel := cpuTime()
	b.ReportMetric(float64(total-before)/float64(n)/1000, "cpu-ms/op")
	b.ReportMetric(float64(kernel-kernelBefore)/float64(n)/1000, "kernel-ms/op")
}

// cpuTime returns what this process and its ended children have used, and how much of it in the kernel, in microseconds.
func cpuTime() (total, kernel int64) {
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var usage syscall.Rusage
		if syscall.Getrusage(who, &usage) == nil {
			total += usage.Utime.Nano() + usage.Stime.Nano()
			kernel += usage.Stime.Nano()
		}
	}
	return total / 1000, kernel / 1000
}
