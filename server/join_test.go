// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/skiff-k8s/skiff/datastore"
	"github.com/skiff-k8s/skiff/version"
)

func config(t *testing.T, said ...string) Config {
	t.Helper()
	c := Default()
	c.DataDir, c.NodeName, c.NodeIP = t.TempDir(), "beta", net.ParseIP("192.0.2.2")
	c.Said = func(flag string) bool {
		for _, s := range said {
			if s == flag {
				return true
			}
		}
		return false
	}
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	return c
}

// A server takes over what it has not been told, and refuses to be told something else.
func TestAdoptSettings(t *testing.T) {
	first := config(t)
	first.ServiceCIDRs, first.ClusterDNS, first.ClusterDomain = []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}, netip.MustParseAddr("10.99.0.10"), "example.org"
	first.LoadBalancerPool, first.Disable = []string{"192.0.2.200-192.0.2.220"}, []string{"gateway"}
	c := config(t)
	if err := c.adopt(first.clusterSettings(), true); err != nil {
		t.Fatal(err)
	}
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	if c.ServiceCIDRs[0] != first.ServiceCIDRs[0] || c.ClusterDNS != first.ClusterDNS || c.ClusterDomain != "example.org" || len(c.LoadBalancerPool) != 1 || c.Disable[0] != "gateway" {
		t.Errorf("it has %+v", c.clusterSettings())
	}
	c = config(t, "cluster-domain")
	if err := c.adopt(first.clusterSettings(), true); err == nil || err.Error() != "--cluster-domain is cluster.local here and example.org in the cluster (leave it out, or say the same)" {
		t.Errorf("adopt = %v", err)
	}
	if err := c.adopt(first.clusterSettings(), false); err != nil || c.ClusterDomain != "cluster.local" {
		t.Errorf("later a flag wins: %q, %v", c.ClusterDomain, err)
	}
}

func TestServerVersions(t *testing.T) {
	for _, tc := range []struct {
		theirs, ours string
		ok           bool
	}{
		{"1.37.2", "1.37.0", true}, {"1.38.0", "1.37.2", true}, {"1.36.9", "1.37.2", true},
		{"1.35.0", "1.37.2", false}, {"1.39.0", "1.37.2", false}, {"2.37.2", "1.37.2", false}, {"of my own", "1.37.2", true},
	} {
		if err := checkServerVersion(tc.theirs, tc.ours); (err == nil) != tc.ok {
			t.Errorf("%s beside %s: %v", tc.theirs, tc.ours, err)
		}
	}
}

// Who cannot be a server of the cluster is told why, and what to do.
func TestMembersCheck(t *testing.T) {
	m := &members{plane: &controlPlane{admin: fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "alpha"}})}}
	for _, tc := range []struct {
		application
		want string
	}{
		{application{Name: "beta", Version: version.Kubernetes}, ""},
		{application{Name: "alpha", Version: version.Kubernetes}, "there is a node of that name already (set another --node-name, or delete the Node: skiff kubectl delete node alpha)"},
		{application{Name: "Beta!", Version: version.Kubernetes}, `"Beta!" cannot be the name of a server: `},
		{application{Name: "beta", Version: "1.20.0"}, "a server of Kubernetes v1.20.0 cannot be beside one of v" + version.Kubernetes + ": they may be one minor version apart (upgrade the older one)"},
	} {
		err := m.check(t.Context(), tc.application)
		if (err == nil) != (tc.want == "") || err != nil && !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.application, err, tc.want)
		}
	}
}

// A server that starts beside others waits for what passes, and says at once what does not.
func TestPasses(t *testing.T) {
	for err, want := range map[error]bool{
		fmt.Errorf("put roles in place: %w", apierrors.NewInternalError(errors.New("etcdserver: request timed out"))): true,
		apierrors.NewTimeoutError("later", 1):                                                     true,
		apierrors.NewTooManyRequests("later", 1):                                                  true,
		apierrors.NewConflict(schema.GroupResource{}, "x", errors.New("changed")):                 true,
		errors.New("etcdserver: leader changed"):                                                  true,
		apierrors.NewForbidden(schema.GroupResource{}, "x", errors.New("no")):                     false,
		apierrors.NewInvalid(schema.GroupKind{}, "x", nil):                                        false,
		fmt.Errorf("x: %w", apierrors.NewRequestEntityTooLargeError("the encryption has no key")): false,
	} {
		if got := passes(err); got != want {
			t.Errorf("passes(%v) = %v", err, got)
		}
	}
}

// What a start does depends on what an earlier one has left.
func TestEnter(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	withData := func(c *Config) {
		store, err := datastore.Open(ctx, datastore.Config{Dir: c.dbDir(), UnsafeNoFsync: true})
		if err != nil {
			t.Fatal(err)
		}
		store.Close()
	}
	other := config(t)
	settings := other.clusterSettings()
	settings.ClusterDomain = "example.org"
	joined := func(c *Config) {
		if err := c.writeNote(note{Joined: true, Settings: settings}); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		prepare []func(*Config)
		server  string
		want    string // of the error
		domain  string
	}{
		"a new cluster":                {domain: "cluster.local"},
		"again":                        {prepare: []func(*Config){withData}, domain: "cluster.local"},
		"one that has joined":          {prepare: []func(*Config){withData, joined}, domain: "example.org"},
		"the same, told where it did":  {prepare: []func(*Config){withData, joined}, server: "https://192.0.2.1:6443", domain: "example.org"},
		"one that has a cluster":       {prepare: []func(*Config){withData}, server: "https://192.0.2.1:6443", want: "this machine has a cluster of its own"},
		"one that has lost its data":   {prepare: []func(*Config){joined}, want: "this was one of several servers, and its database is gone"},
		"one that has not got a token": {server: "https://192.0.2.1:6443", want: "join the servers: this needs a token (skiff token create --server"},
	} {
		c := config(t)
		for _, prepare := range tc.prepare {
			prepare(&c)
		}
		c.Server = tc.server
		members, err := c.enter(ctx)
		switch {
		case tc.want == "" && (err != nil || len(members) > 0 || c.ClusterDomain != tc.domain):
			t.Errorf("%s: %v, %v, domain %s", name, members, err, c.ClusterDomain)
		case tc.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tc.want)):
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
	}
}

// The first of several servers does not begin anew when its data is gone, and its own settings stay its own.
func TestNoteSeveral(t *testing.T) {
	c := config(t)
	for range 2 {
		if err := c.noteSeveral(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.enter(t.Context()); err == nil || !strings.Contains(err.Error(), "its database is gone") {
		t.Errorf("enter = %v", err)
	}
	if n, err := c.readNote(); err != nil || n.Joined {
		t.Errorf("note = %+v, %v", n, err)
	}
	if err := os.WriteFile(c.severalFile(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.enter(t.Context()); err == nil {
		t.Error("a broken note is taken for none")
	}
}
