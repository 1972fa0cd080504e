// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/skiff-k8s/skiff/conformance/programs"
)

// gatewayImages are those of the Gateway API's suite: a program each.
var gatewayImages = map[string]string{
	"registry.k8s.io/gateway-api/echo-basic:v1.5.1":       "echo-basic",
	"registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.2": "echo-basic",
	"registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.3": "echo-basic",
	"registry.k8s.io/coredns/coredns:v1.12.2":             "coredns",
}

// GatewayArchive is Archive for the suite of the Gateway API. built has its programs.
func GatewayArchive(_ context.Context, cache string, built map[string]string) (string, error) {
	digest := sha256.New()
	for _, ref := range slices.Sorted(maps.Keys(gatewayImages)) {
		content, err := programs.Digest(built[gatewayImages[ref]])
		if err != nil {
			return "", err
		}
		fmt.Fprintln(digest, ref, content)
	}
	archive := filepath.Join(cache, "images", "gateway-"+hex.EncodeToString(digest.Sum(nil))[:16]+".tar")
	if _, err := os.Stat(archive); err == nil {
		return archive, nil
	}
	all := map[name.Reference]v1.Image{}
	for ref, p := range gatewayImages {
		tag, err := name.NewTag(ref)
		if err != nil {
			return "", err
		}
		l, err := layer([]entry{program("/"+p, built[p])})
		if err != nil {
			return "", err
		}
		if all[tag], err = assemble(v1.Config{Entrypoint: []string{"/" + p}}, l); err != nil {
			return "", fmt.Errorf("make image %s: %w", ref, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		return "", err
	}
	if err := tarball.MultiRefWriteToFile(archive+".unfinished", all); err != nil {
		return "", fmt.Errorf("write the archive of test images: %w", err)
	}
	return archive, os.Rename(archive+".unfinished", archive)
}
