// SPDX-License-Identifier: Apache-2.0

package join

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"k8s.io/client-go/util/cert"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
)

// Token is what a person carries from a server to a machine that joins: "id.secret.hash".
type Token struct {
	ID, Secret string // of a bootstrap token
	CAHash     string // of the cluster's certificate authority, see HashCA
}

// ParseToken reads one as it was printed.
func ParseToken(text string) (Token, error) {
	parts := strings.Split(text, ".")
	if len(parts) == 2 && bootstraputil.IsValidBootstrapToken(text) {
		return Token{}, errors.New("the token lacks the hash of the cluster's certificate (skiff token create, on a server, prints whole ones)")
	}
	if len(parts) != 3 || !bootstraputil.IsValidBootstrapToken(parts[0]+"."+parts[1]) || len(parts[2]) != 2*sha256.Size {
		return Token{}, errors.New("the token is not one of Skiff (skiff token create, on a server, prints one)")
	}
	return Token{ID: parts[0], Secret: parts[1], CAHash: parts[2]}, nil
}

func (t Token) String() string { return t.ID + "." + t.Secret + "." + t.CAHash }

// bearer is the part that the API server is shown.
func (t Token) bearer() string { return bootstraputil.TokenFromIDAndSecret(t.ID, t.Secret) }

// HashCA is the SHA-256 of the public key of the first certificate in a PEM bundle.
func HashCA(bundle []byte) (string, error) {
	certificates, err := cert.ParseCertsPEM(bundle)
	if err != nil {
		return "", fmt.Errorf("read the cluster's certificate authority: %w", err)
	}
	return hashKey(certificates[0]), nil
}

func hashKey(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}
