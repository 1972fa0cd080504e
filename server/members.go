// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/datastore"
	"github.com/skiff-k8s/skiff/version"
)

// MembersPath is where servers ask to be one of the cluster's (POST), and where administrators list them (GET) and
// remove one (DELETE, with its name).
const MembersPath = "/skiff/v1/members"

// application is what a server says that wants to be one of the cluster's.
type application struct {
	Name    string `json:"name"`
	PeerURL string `json:"peerURL"`
	Version string `json:"version"` // of Kubernetes
}

// welcome is what it gets.
type welcome struct {
	Settings   clusterSettings    `json:"settings"`
	Keys       map[string][]byte  `json:"keys"`                 // pki.Shared
	Encryption []byte             `json:"encryption,omitempty"` // the EncryptionConfiguration
	Members    []datastore.Member `json:"members"`              // with the new one
}

const maxApplication = 64 << 10

// members serves MembersPath.
type members struct {
	cfg    Config
	plane  *controlPlane
	growth *growth
	ready  <-chan struct{} // closed when the API has what every cluster has
}

func (m *members) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.Trim(strings.TrimPrefix(r.URL.Path, MembersPath), "/")
	var answer any
	var err error
	switch {
	case r.Method == http.MethodGet && name == "":
		answer = m.plane.store.Members()
	case r.Method == http.MethodPost && name == "":
		answer, err = m.apply(w, r)
	case r.Method == http.MethodDelete && name != "":
		answer, err = struct{}{}, m.plane.store.Remove(r.Context(), name)
	default:
		http.NotFound(w, r)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // who asked may be gone
}

func (m *members) apply(w http.ResponseWriter, r *http.Request) (*welcome, error) {
	var a application
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxApplication)).Decode(&a); err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	ctx := r.Context()
	select {
	case <-m.ready:
	case <-ctx.Done():
		return nil, errors.New("the server has only just started (try again)")
	}
	if err := m.check(ctx, a); err != nil {
		return nil, err
	}
	answer := &welcome{Settings: m.cfg.clusterSettings()}
	var err error
	if answer.Keys, err = m.plane.pki.Shared(); err != nil {
		return nil, err
	}
	if file := m.cfg.API.EncryptionConfig; file != "" {
		if answer.Encryption, err = os.ReadFile(file); err != nil {
			return nil, fmt.Errorf("read the encryption configuration: %w", err)
		}
	}
	if err := m.growth.grow(ctx); err != nil {
		return nil, err
	}
	if err := m.cfg.noteSeveral(); err != nil {
		return nil, err
	}
	if answer.Members, err = m.plane.store.Invite(ctx, a.Name, a.PeerURL); err != nil {
		return nil, err
	}
	klog.FromContext(ctx).Info("Invited a server", "server", a.Name, "url", a.PeerURL)
	return answer, nil
}

// check refuses who cannot be a server of this cluster.
func (m *members) check(ctx context.Context, a application) error {
	if why := validation.IsDNS1123Subdomain(a.Name); len(why) > 0 {
		return fmt.Errorf("%q cannot be the name of a server: %s", a.Name, why[0])
	}
	if err := checkServerVersion(a.Version, version.Kubernetes); err != nil {
		return err
	}
	_, err := m.plane.admin.CoreV1().Nodes().Get(ctx, a.Name, metav1.GetOptions{})
	if err == nil {
		return fmt.Errorf("there is a node of that name already (set another --node-name, or delete the Node: skiff kubectl delete node %s)", a.Name)
	}
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("look for a node of that name: %w", err)
	}
	return nil
}

// checkServerVersion wants servers not more than one minor version apart, as Kubernetes does of API servers.
func checkServerVersion(theirs, ours string) error {
	a, errA := utilversion.ParseGeneric(theirs)
	b, errB := utilversion.ParseGeneric(ours)
	if errA != nil || errB != nil {
		return nil // a build of somebody's own, who knows
	}
	if a.Major() != b.Major() || max(a.Minor(), b.Minor())-min(a.Minor(), b.Minor()) > 1 {
		return fmt.Errorf("a server of Kubernetes v%s cannot be beside one of v%s: they may be one minor version apart (upgrade the older one)", a, b)
	}
	return nil
}
