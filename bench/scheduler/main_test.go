// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
)

// What go test prints becomes tables that say which aims are met.
func TestTables(t *testing.T) {
	var progress bytes.Buffer
	r, err := read(strings.NewReader(`goos: linux
I1128 16:40:39.475448   21110 handler.go:309] Adding GroupVersion v1 to ResourceManager
BenchmarkAlone/Basic/nodes=1000-2         1   104.4 cpu-µs/pod   25.04 p99-ms   14951 pods/s
BenchmarkAlone/Basic/nodes=5000-2         1   154.5 cpu-µs/pod   48.24 p99-ms   1400 pods/s
BenchmarkAlone/Slow/nodes=1000-2          1   100 cpu-µs/pod     1 p99-ms       1 pods/s
BenchmarkAlone/Slow/nodes=5000-2          1   500 cpu-µs/pod     1 p99-ms       1 pods/s
BenchmarkThroughAPI/Basic/nodes=1000-2    1   900 creates/s      1 p99-ms       400 pods/s
BenchmarkThroughAPI/Preemption/nodes=1000 1   900 creates/s      1 p99-ms       4 pods/s
PASS`), &progress)
	if err != nil {
		t.Fatal(err)
	}
	if text := progress.String(); strings.Contains(text, "handler.go") || !strings.HasPrefix(text, "goos: linux\nBenchmark") || !strings.HasSuffix(text, "PASS\n") {
		t.Errorf("progress is:\n%s", text)
	}
	var out bytes.Buffer
	r.print(&out)
	for _, want := range []string{
		"| shape | 1000 nodes | 5000 nodes | aim |\n| --- | --: | --: | --- |\n| Basic | 104 | 154 | met |\n| Slow | 100 | 500 | missed |",
		"| Basic | 14951 | 1400 | missed |\n| Slow | 1 | 1 |  |",
		"| shape | 1000 nodes | aim |\n| --- | --: | --- |\n| Basic | 400 | met |\n| Preemption | 4 |  |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("printed:\n%s\nwant in it:\n%s", out.String(), want)
		}
	}
}
