// SPDX-License-Identifier: Apache-2.0

package framework

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// chunk is how many pieces of work a goroutine takes at a time.
const chunk = 16

// Parallel calls work for the numbers below n, on all processors, and returns once all are done.
func Parallel(n int, work func(i int)) {
	var next atomic.Int64
	run := func() {
		for from := int(next.Add(chunk)) - chunk; from < n; from = int(next.Add(chunk)) - chunk {
			for i := from; i < min(from+chunk, n); i++ {
				work(i)
			}
		}
	}
	var others sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), (n+chunk-1)/chunk) - 1 {
		others.Go(run)
	}
	run()
	others.Wait()
}
