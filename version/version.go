// SPDX-License-Identifier: Apache-2.0

// Package version says which Skiff this is and which Kubernetes it behaves as.
package version

import (
	"runtime"
	"strings"

	apimachineryversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/component-base/compatibility"
)

// These are set by the linker.
var (
	// Kubernetes is the version of Kubernetes whose behaviour is served.
	Kubernetes = "1.37.2"
	// Skiff is the release, a semantic version.
	Skiff = "0.1.0-dev"
	// Commit is the source's.
	Commit = ""
)

// GitVersion is what /version, kubelets and kubectl say: the Kubernetes version with Skiff's as build metadata.
func GitVersion() string { return "v" + Kubernetes + "+skiff." + Skiff }

// Info is the answer of /version.
func Info() apimachineryversion.Info {
	major, minor := minorVersion()
	return apimachineryversion.Info{
		Major: major, Minor: minor, GitVersion: GitVersion(), GitCommit: Commit, GitTreeState: "clean",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}

// Effective is the version for the API machinery's feature gates.
func Effective() compatibility.EffectiveVersion {
	major, minor := minorVersion()
	return effective{compatibility.NewEffectiveVersionFromString(Kubernetes, major+"."+minor, major+"."+minor)}
}

// minorVersion is the version of Kubernetes without its patches, in two parts.
func minorVersion() (major, minor string) {
	major, rest, _ := strings.Cut(Kubernetes, ".")
	minor, _, _ = strings.Cut(rest, ".")
	return major, minor
}

type effective struct{ compatibility.EffectiveVersion }

func (effective) Info() *apimachineryversion.Info {
	info := Info()
	return &info
}
