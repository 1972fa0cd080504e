// SPDX-License-Identifier: Apache-2.0

// Package images makes the container images that the conformance suite uses, under the names that it has for
// them, with no registry: from Debian packages and Go programs. Registry serves them to those tests that pull.
package images

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/skiff-k8s/skiff/conformance/debian"
	"github.com/skiff-k8s/skiff/conformance/programs"
)

const architecture = runtime.GOARCH

// How images are made decides what is in them, as much as the ingredients do.
var (
	//go:embed recipes.go
	recipesSource string
	//go:embed layer.go
	layerSource string
)

// Archive makes an archive of all images, for a runtime to import, and returns where it is. One that was
// made from the same ingredients before is used again. dir is where this module lies. With storage, what CSI drivers
// run with is among them.
func Archive(ctx context.Context, dir, cache string, storage bool, say func(format string, args ...any)) (string, error) {
	chosen := maps.Clone(recipes)
	if storage {
		maps.Copy(chosen, storageRecipes)
	}
	in, key, err := gather(ctx, dir, cache, storage, say)
	if err != nil {
		return "", err
	}
	archive := filepath.Join(cache, "images", key+".tar")
	if _, err := os.Stat(archive); err == nil {
		return archive, nil
	}
	say("making %d test images", len(chosen))
	all, err := cook(ctx, chosen, in)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		return "", err
	}
	if err := tarball.MultiRefWriteToFile(archive+".unfinished", all); err != nil {
		return "", fmt.Errorf("write the archive of test images: %w", err)
	}
	return archive, os.Rename(archive+".unfinished", archive)
}

// gather collects what the images are made from, and a digest of it.
func gather(ctx context.Context, dir, cache string, storage bool, say func(format string, args ...any)) (in ingredients, key string, err error) {
	if in.programs, err = programs.Build(ctx, dir, cache, programs.Images, say); err != nil {
		return in, "", err
	}
	others := []struct {
		module string
		set    []programs.Program
	}{{programs.SampleAPIServerModule, programs.SampleAPIServer}, {programs.CSIModule, programs.CSIDriver}}
	if storage {
		others[1].set = slices.Concat(programs.CSIDriver, programs.CSISidecars)
	}
	for _, other := range others {
		built, err := programs.Build(ctx, filepath.Join(dir, other.module), cache, other.set, say)
		if err != nil {
			return in, "", err
		}
		maps.Copy(in.programs, built)
	}
	if in.upstream, err = programs.ModuleDir(ctx, dir, "k8s.io/kubernetes"); err != nil {
		return in, "", err
	}
	if in.tree, err = debian.Unpack(ctx, cache, packages, say); err != nil {
		return in, "", err
	}
	digest := sha256.New()
	fmt.Fprintln(digest, recipesSource, layerSource, programs.Upstream, in.tree.Key)
	for _, program := range slices.Sorted(maps.Keys(in.programs)) {
		content, err := programs.Digest(in.programs[program])
		if err != nil {
			return in, "", err
		}
		fmt.Fprintln(digest, program, content)
	}
	return in, hex.EncodeToString(digest.Sum(nil))[:16], nil
}

func cook(ctx context.Context, recipes map[string]image, in ingredients) (map[name.Reference]v1.Image, error) {
	made, all := map[string]v1.Layer{}, map[name.Reference]v1.Image{}
	for ref, recipe := range recipes {
		tag, err := name.NewTag(ref)
		if err != nil {
			return nil, err
		}
		var parts []v1.Layer
		for _, l := range recipe.layers {
			if made[l] == nil {
				entries, err := layers[l](ctx, in)
				if err == nil {
					made[l], err = layer(entries)
				}
				if err != nil {
					return nil, fmt.Errorf("make layer %s: %w", l, err)
				}
			}
			parts = append(parts, made[l])
		}
		if all[tag], err = assemble(recipe.config, parts...); err != nil {
			return nil, fmt.Errorf("make image %s: %w", ref, err)
		}
	}
	return all, nil
}

func compressed(l v1.Layer) ([]byte, error) {
	r, err := l.Compressed()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
