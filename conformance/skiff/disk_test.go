// SPDX-License-Identifier: Apache-2.0

package skiff

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/testhost"
)

// On a full disk a write MUST be refused or stay unanswered, and not be acknowledged and lost; with room again, a start
// MUST find all that was acknowledged.
func TestFullDisk(t *testing.T) {
	const data, filler = "/var/lib/skiff/server", "/var/lib/skiff/server/filler"
	b := ownCluster(t, func(h *testhost.Host) error {
		if err := os.MkdirAll(h.Path(data), 0o755); err != nil {
			return err
		}
		_, err := h.Output(context.Background(), "mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", data)
		return err
	})
	host := b.own.Host()
	if _, err := host.Output(t.Context(), "sh", "-c", "dd if=/dev/zero bs=1M of="+filler); err == nil || !strings.Contains(err.Error(), "No space left") {
		t.Fatalf("fill the disk: %v, want no space left", err)
	}
	acknowledged := map[string]string{} // resource versions by name
	refused := ""
	for i := 0; refused == ""; i++ {
		if i == 400 {
			t.Fatalf("the disk is full, and %d writes of 400 kB went well", i)
		}
		name := fmt.Sprintf("settings-%d", i)
		object := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q},"data":{"name":%q,"much":%q}}`, name, name, strings.Repeat("x", 400_000))
		version, err := b.try(t.Context(), object, "create", "-f", "-", "--request-timeout=20s", "-o", "jsonpath={.metadata.resourceVersion}")
		if err != nil {
			refused = err.Error()
		} else {
			acknowledged[name] = version
		}
	}
	t.Logf("after %d writes: %s", len(acknowledged), refused)
	if _, err := host.Output(t.Context(), "rm", filler); err != nil {
		t.Fatal(err)
	}
	select {
	case <-b.own.Done():
	case <-time.After(10 * time.Second): // it may go on without writing
		if err := b.own.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.own.Restart(t.Context()); err != nil {
		t.Fatalf("start with room again: %v", err)
	}
	found := b.settings()
	for name, version := range acknowledged {
		if found[name] != version+" "+name {
			t.Errorf("%s is %q, want version and data %q", name, found[name], version+" "+name)
		}
	}
	b.kubectl("", "create", "configmap", "after")
}
