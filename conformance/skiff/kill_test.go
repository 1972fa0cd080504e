// SPDX-License-Identifier: Apache-2.0

package skiff

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// What the API has acknowledged MUST be there after a kill -9 in the middle of writes, unchanged and once; what it has
// acknowledged to be deleted MUST stay deleted.
func TestKillLosesNothing(t *testing.T) {
	const writers, kills = 4, 3
	b := ownCluster(t, nil)
	acknowledged := map[string]string{} // resource versions by name
	for kill := range kills {
		writing, stop := context.WithTimeout(t.Context(), 30*time.Second)
		var mu sync.Mutex
		var wg sync.WaitGroup
		enough := make(chan struct{})
		before := len(acknowledged)
		for w := range writers {
			wg.Go(func() {
				for i := range 1000 {
					name := fmt.Sprintf("settings-%d-%d-%d", kill, w, i)
					version, err := b.try(writing, "", "create", "configmap", name, "--from-literal=name="+name, "-o", "jsonpath={.metadata.resourceVersion}")
					if err != nil {
						return // the server is gone
					}
					mu.Lock()
					acknowledged[name] = version
					if len(acknowledged) == before+20 {
						close(enough)
					}
					mu.Unlock()
				}
			})
		}
		select {
		case <-enough:
		case <-writing.Done():
			t.Fatalf("only %d writes in half a minute", len(acknowledged)-before)
		}
		if err := b.own.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop()
		wg.Wait()
		if err := b.own.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		found := b.settings()
		for name, version := range acknowledged {
			if found[name] != version+" "+name {
				t.Errorf("after kill %d, %s is %q, want version and data %q", kill+1, name, found[name], version+" "+name)
			}
		}
		gone := fmt.Sprintf("settings-%d-0-0", kill)
		b.kubectl("", "delete", "configmap", gone)
		delete(acknowledged, gone)
		if err := b.own.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := b.own.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if now, ok := b.settings()[gone]; ok {
			t.Errorf("%s was deleted, and is back after a kill -9: %s", gone, now)
		}
	}
	t.Logf("%d writes were acknowledged, and none was lost in %d kills", len(acknowledged), 2*kills)
}

// settings are the resource version and data of each ConfigMap of the test.
func (b *bench) settings() map[string]string {
	b.t.Helper()
	found := map[string]string{}
	const each = "jsonpath={range .items[*]}{.metadata.name}={.metadata.resourceVersion} {.data.name}{\"\\n\"}{end}"
	for line := range strings.Lines(b.kubectl("", "get", "configmaps", "-o", each)) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), "=")
		if strings.HasPrefix(name, "settings-") {
			found[name] = rest
		}
	}
	return found
}
