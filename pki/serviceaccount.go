// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"k8s.io/client-go/util/keyutil"
)

// ServiceAccountKey signs the tokens of service accounts. It is not renewed: tokens outlive a
// restart. To change it, put a new sa.key in place and leave the old public key in sa.pub.
type ServiceAccountKey struct {
	Private crypto.Signer
	// Public holds every key whose tokens are accepted: the one of Private first, then what else is in sa.pub.
	Public []crypto.PublicKey
}

// loadServiceAccountKey reads file.key and file.pub and makes what is missing.
func loadServiceAccountKey(file string) (*ServiceAccountKey, error) {
	private, err := readKey(file + ".key")
	if errors.Is(err, fs.ErrNotExist) {
		private, err = newKey(file + ".key")
	}
	if err != nil {
		return nil, fmt.Errorf("load service account key: %w", err)
	}
	k := &ServiceAccountKey{Private: private, Public: []crypto.PublicKey{private.Public()}}
	more, err := os.ReadFile(file + ".pub")
	if err == nil {
		return k, k.accept(more)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("load service account key: %w", err)
	}
	public, err := encodePublicKey(private.Public())
	if err != nil {
		return nil, err
	}
	return k, writeFile(file+".pub", public, 0o644)
}

func (k *ServiceAccountKey) accept(publicPEM []byte) error {
	if len(bytes.TrimSpace(publicPEM)) == 0 {
		return nil
	}
	keys, err := keyutil.ParsePublicKeysPEM(publicPEM)
	if err != nil {
		return fmt.Errorf("read sa.pub: %w", err)
	}
	for _, key := range keys {
		if !samePublicKey(key, k.Private.Public()) {
			k.Public = append(k.Public, key)
		}
	}
	return nil
}
