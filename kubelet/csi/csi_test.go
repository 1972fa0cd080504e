// SPDX-License-Identifier: Apache-2.0

package csi_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/skiff-k8s/skiff/kubelet/csi"
	"github.com/skiff-k8s/skiff/kubelet/csi/csitest"
	"github.com/skiff-k8s/skiff/kubelet/plugins"
	"github.com/skiff-k8s/skiff/testenv"
)

func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not in 30s: %v", what, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// drivers checks what the API says about this node's drivers.
func drivers(client kubernetes.Interface, nodeID, want string) func(context.Context) error {
	return func(ctx context.Context) error {
		node, err := client.CoreV1().Nodes().Get(ctx, "node", metav1.GetOptions{})
		if err != nil {
			return err
		}
		csiNode, err := client.StorageV1().CSINodes().Get(ctx, "node", metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		got := ""
		for _, d := range csiNode.Spec.Drivers {
			got += fmt.Sprintf("%s=%s%v", d.Name, d.NodeID, d.TopologyKeys)
			if d.Allocatable != nil {
				got += fmt.Sprintf("*%d", *d.Allocatable.Count)
			}
		}
		if id := node.Annotations["csi.volume.kubernetes.io/nodeid"]; id != nodeID || got != want {
			return fmt.Errorf("node says %q, CSINode says %q", id, got)
		}
		return nil
	}
}

// A driver registers by a socket, is published, survives a restart of the kubelet, fails at first, and goes.
func TestRegistration(t *testing.T) {
	env := testenv.Start(t)
	ctx := t.Context()
	if _, err := env.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	registry := filepath.Join(t.TempDir(), "plugins_registry")
	var known *csi.Drivers
	var calls sync.Map // by driver, method and how they ended
	run := func() (stop func()) {
		known = csi.New(env.Client, "node")
		known.Measured = func(driver, method, code string, _ time.Duration) { calls.Store(driver+method+" "+code, true) }
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() {
			done <- plugins.New(registry, map[string]plugins.Handler{registration.CSIPlugin: known}).Run(ctx)
		}()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	stop := run()
	eventually(t, "the folder is there", func(context.Context) error { _, err := os.Stat(registry); return err })
	if _, err := known.Get("x.io"); err == nil || err.Error() != "driver name x.io not found in the list of registered CSI drivers" {
		t.Errorf("Get without a driver: %v", err)
	}

	driver := &csitest.Driver{Name: "x.io", NodeID: "n-1", MaxVolumes: 9, Topology: map[string]string{"x.io/zone": "z"}, Dir: t.TempDir()}
	driver.Fail("NodeGetInfo", errors.New("not yet"))
	stopDriver, err := driver.Serve(registry)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the driver hears that it failed", func(context.Context) error {
		if s := driver.Statuses(); len(s) == 0 || s[0].PluginRegistered || s[0].Error == "" {
			return fmt.Errorf("%v", s)
		}
		return nil
	})
	driver.Fail("NodeGetInfo", nil)
	published := drivers(env.Client, `{"x.io":"n-1"}`, "x.io=n-1[x.io/zone]*9")
	eventually(t, "the driver is published", published)
	eventually(t, "the driver can be had", func(context.Context) error { _, err := known.Get("x.io"); return err })
	node, err := env.Client.CoreV1().Nodes().Get(ctx, "node", metav1.GetOptions{})
	if err != nil || node.Labels["x.io/zone"] != "z" {
		t.Errorf("labels are %v, %v", node.Labels, err)
	}
	for _, code := range []string{"Unknown", "OK"} {
		if _, measured := calls.Load("x.io/csi.v1.Node/NodeGetInfo " + code); !measured {
			t.Errorf("no call was measured that ended with %s", code)
		}
	}
	driver.Limit(4)
	if err := known.Refresh(ctx, "x.io"); err != nil {
		t.Error(err)
	}
	if err := drivers(env.Client, `{"x.io":"n-1"}`, "x.io=n-1[x.io/zone]*4")(ctx); err != nil {
		t.Errorf("after the driver was asked again: %v", err)
	}
	driver.Limit(9)

	stop()
	if err := drivers(env.Client, `{"x.io":"n-1"}`, "x.io=n-1[x.io/zone]*4")(ctx); err != nil {
		t.Errorf("after a stop: %v", err)
	}
	stop = run()
	defer func() { stop() }()
	eventually(t, "the driver is found again", func(context.Context) error { _, err := known.Get("x.io"); return err })
	eventually(t, "its new limit is published", published)

	stopDriver() // and another one takes its place at once
	driver.NodeID = "n-2"
	if stopDriver, err = driver.Serve(registry); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the driver is replaced", drivers(env.Client, `{"x.io":"n-2"}`, "x.io=n-2[x.io/zone]*9"))
	eventually(t, "the new driver can be had", func(context.Context) error { _, err := known.Get("x.io"); return err })

	stopDriver()
	if err := os.Remove(filepath.Join(registry, "x.io-reg.sock")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	eventually(t, "the driver is gone", drivers(env.Client, "", ""))
	if _, err := known.Get("x.io"); err == nil {
		t.Error("Get finds a driver that is gone")
	}
}

// A driver that comes back before it was seen to go may call the node something else.
func TestDriverIsReplacedUnseen(t *testing.T) {
	env := testenv.Start(t)
	if _, err := env.Client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	registry := t.TempDir()
	driver := &csitest.Driver{Name: "x.io", Dir: t.TempDir()}
	known := csi.New(env.Client, "node")
	for _, id := range []string{"n-1", "n-2"} {
		driver.NodeID = id
		stop, err := driver.Serve(registry)
		if err != nil {
			t.Fatal(err)
		}
		if err := known.Register(t.Context(), "x.io", filepath.Join(driver.Dir, "csi.sock"), []string{"1.0.0"}); err != nil {
			t.Error(err)
		}
		if err := drivers(env.Client, fmt.Sprintf(`{"x.io":%q}`, id), "x.io="+id+"[]")(t.Context()); err != nil {
			t.Error(err)
		}
		stop()
	}
}
