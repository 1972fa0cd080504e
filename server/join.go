// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	restclient "k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/agent"
	"github.com/skiff-k8s/skiff/agent/join"
	"github.com/skiff-k8s/skiff/datastore"
	"github.com/skiff-k8s/skiff/pki"
	"github.com/skiff-k8s/skiff/version"
)

// severalFile says of a server that there are others beside it, or that it was restored. Without its database it must not begin a
// cluster of its own then: it would have the keys of the old one.
func (c *Config) severalFile() string { return filepath.Join(c.DataDir, "server", "cluster.json") }

// encryptionCopy is the configuration that a server got from the one that it joined.
func (c *Config) encryptionCopy() string {
	return filepath.Join(c.DataDir, "server", "encryption-config.yaml")
}

// note is what is in severalFile.
type note struct {
	Joined   bool            `json:"joined"` // the settings are those of the servers that were there
	Settings clusterSettings `json:"settings"`
}

func (c *Config) readNote() (*note, error) {
	data, err := os.ReadFile(c.severalFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var n note
	if err == nil {
		err = json.Unmarshal(data, &n)
	}
	if err != nil {
		return nil, fmt.Errorf("read what this server knows of others: %w", err)
	}
	return &n, nil
}

func (c *Config) writeNote(n note) error { return n.write(c.severalFile()) }

func (n note) write(file string) error {
	data, err := json.MarshalIndent(n, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o755)
	}
	if err == nil {
		err = os.WriteFile(file, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note that there are other servers: %w (set --data-dir)", err)
	}
	return nil
}

// noteSeveral notes that there are other servers, if it is not known yet.
func (c *Config) noteSeveral() error {
	n, err := c.readNote()
	if n != nil || err != nil {
		return err
	}
	return c.writeNote(note{Settings: c.clusterSettings()})
}

// enter makes this server one of the cluster that --server names, if it is not one already. Then there are
// members to join for its database. The settings of the cluster become the server's.
func (c *Config) enter(ctx context.Context) ([]datastore.Member, error) {
	n, err := c.readNote()
	if err != nil {
		return nil, err
	}
	hasData, err := datastore.HasData(c.dbDir())
	if err != nil {
		return nil, err
	}
	var members []datastore.Member
	switch {
	case hasData && n == nil && c.Server != "":
		return nil, fmt.Errorf("this machine has a cluster of its own in %s (skiff uninstall removes it; then it can join another)", c.DataDir)
	case !hasData && n != nil && c.Server == "":
		return nil, fmt.Errorf("this was one of several servers, and its database is gone (join again with --server and --token, or put the database back to %s)", c.dbDir())
	case !hasData && c.Server != "":
		if members, err = c.apply(ctx); err != nil {
			return nil, fmt.Errorf("join the servers: %w", err)
		}
	case n != nil && n.Joined:
		if err := c.adopt(n.Settings, false); err != nil {
			return nil, err
		}
	}
	if file := c.encryptionCopy(); c.API.EncryptionConfig == "" && exists(file) {
		c.API.EncryptionConfig = file
	}
	return members, c.Complete()
}

// ResetMembers makes this server the only one of its cluster, with the data that it has. No server may run here.
func (c *Config) ResetMembers(ctx context.Context) error {
	claim, err := agent.TakeClaim(c.StateDir)
	if err != nil {
		return err
	}
	defer claim.Release()
	hasData, err := datastore.HasData(c.dbDir())
	if err != nil {
		return err
	}
	if !hasData {
		return fmt.Errorf("there is no database in %s (set --data-dir)", c.dbDir())
	}
	store, err := datastore.Open(ctx, datastore.Config{Dir: c.dbDir(), Name: c.NodeName, Reset: true})
	if err != nil {
		return fmt.Errorf("forget the other servers: %w", err)
	}
	return store.Close()
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// apply asks to become a server of the cluster, and takes what it gets.
func (c *Config) apply(ctx context.Context) ([]datastore.Member, error) {
	if c.Token == "" {
		return nil, errors.New("this needs a token (skiff token create --server, on a server, prints one; give it with --token)")
	}
	config, err := join.Introduce(ctx, c.Server, c.Token)
	if err != nil {
		return nil, err
	}
	answer, err := ask(ctx, config, application{Name: c.NodeName, PeerURL: "https://" + c.peerAddress(), Version: version.Kubernetes})
	if err != nil {
		return nil, err
	}
	if err := c.adopt(answer.Settings, true); err != nil {
		return nil, err
	}
	// The note first: what comes after must not look like a cluster of its own.
	if err := c.writeNote(note{Joined: true, Settings: answer.Settings}); err != nil {
		return nil, err
	}
	if err := pki.Adopt(c.tlsDir(), answer.Keys); err != nil {
		return nil, err
	}
	if len(answer.Encryption) > 0 {
		if err := os.WriteFile(c.encryptionCopy(), answer.Encryption, 0o600); err != nil {
			return nil, fmt.Errorf("keep the encryption configuration: %w", err)
		}
	}
	return answer.Members, nil
}

const (
	applyPatience = 2 * time.Minute // with other servers that join, too
	maxWelcome    = 16 << 20
)

func ask(ctx context.Context, config *restclient.Config, a application) (*welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, applyPatience)
	defer cancel()
	body, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	client, err := restclient.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, config.Host+MembersPath, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("call the server: %w", err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxWelcome))
	if err != nil {
		return nil, fmt.Errorf("read the server's answer: %w", err)
	}
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized:
		return nil, errors.New("the server does not know the token: it is wrong, or has expired (skiff token create --server, on a server, makes a new one)")
	case http.StatusForbidden:
		return nil, errors.New("the token does not let servers join (skiff token create --server, on a server, makes one that does)")
	default:
		return nil, fmt.Errorf("the server says: %s", strings.TrimSpace(string(data)))
	}
	var answer welcome
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, fmt.Errorf("read the server's answer: %w", err)
	}
	return &answer, nil
}

// peerAddress is where other servers reach this one's database.
func (c *Config) peerAddress() string {
	return net.JoinHostPort(c.NodeIP.String(), strconv.Itoa(c.PeerPort))
}
