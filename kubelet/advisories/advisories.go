// SPDX-License-Identifier: Apache-2.0

// Package advisories knows versions of container runtimes out of which containers are known to escape.
//
// It decides without I/O. The table grows when a way out becomes known: one line with the first version of each line of
// releases that has it closed.
package advisories

import (
	"fmt"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"
)

// advisory is one or more ways out of containers.
type advisory struct {
	ids    string
	what   string
	since  string   // the first version that has it; empty: the first of all
	closed []string // the first versions without it, one for each line of releases that got one, oldest first
}

// known is by the name under which a runtime goes.
var known = map[string][]advisory{
	"runc": {
		{ids: "CVE-2024-21626", what: "a leaked file descriptor is a way to the host's files", closed: []string{"1.1.12"}},
		{ids: "CVE-2025-31133, CVE-2025-52565, CVE-2025-52881", what: "masked paths and the console can be turned into mounts of the host's /proc", closed: []string{"1.2.8", "1.3.3", "1.4.0-rc.3"}},
	},
	"containerd": {
		{ids: "CVE-2022-23648", what: "an image can have files of the host copied into a volume", closed: []string{"1.4.13", "1.5.10", "1.6.1"}},
		{ids: "CVE-2024-40635", what: "a large user ID of an image becomes root", closed: []string{"1.6.38", "1.7.27", "2.0.4"}},
		{ids: "CVE-2025-47290", what: "an image can write to the host's files while it is unpacked", since: "2.1.0", closed: []string{"2.1.1"}},
		{ids: "CVE-2024-25621", what: "users of the host can write to containerd's folders", closed: []string{"1.7.29", "2.0.7", "2.1.5"}},
		{ids: "CVE-2026-53488", what: "a label of an image can be run as a command on the host", closed: []string{"1.7.33", "2.0.10", "2.1.9", "2.2.5", "2.3.2"}},
		{ids: "CVE-2026-53489, CVE-2026-53492", what: "an image of a checkpoint can read the host's files, and bring devices and mounts of its own", since: "2.1.0", closed: []string{"2.1.9", "2.2.5", "2.3.2"}},
	},
	"cri-o": {
		{ids: "CVE-2022-0811", what: "a sysctl of a pod sets any kernel parameter", since: "1.19.0", closed: []string{"1.19.6", "1.20.7", "1.21.6", "1.22.3", "1.23.2"}},
		{ids: "CVE-2024-3154", what: "an annotation of a pod sets properties of systemd's units", closed: []string{"1.27.6", "1.28.6", "1.29.4"}},
		{ids: "CVE-2024-5154", what: "an image can make links in the host's file system", closed: []string{"1.28.7", "1.29.5", "1.30.1"}},
		{ids: "CVE-2024-8676", what: "the archive of a checkpoint can bring mounts of the host's files", closed: []string{"1.29.8", "1.30.6", "1.31.1"}},
	},
}

var leading = regexp.MustCompile(`^v?\d+\.\d+\.\d+(-(alpha|beta|rc)\.?\d+)?`)

// Check lists what is known against a version of a runtime, each as a sentence for the operator. A version that does not
// begin like one, such as that of somebody's own build, is taken for good: nothing is known of it.
func Check(runtime, v string) []string {
	is, err := version.ParseSemantic(leading.FindString(v))
	if err != nil {
		return nil
	}
	var warnings []string
	for _, a := range known[strings.ToLower(runtime)] {
		if a.concerns(is) {
			warnings = append(warnings, fmt.Sprintf("%s %s has known escapes: %s (%s); use %s or later", runtime, is, a.what, a.ids, a.remedy(is)))
		}
	}
	return warnings
}

func (a advisory) concerns(is *version.Version) bool {
	if a.since != "" && is.LessThan(version.MustParseSemantic(a.since)) {
		return false
	}
	return is.LessThan(version.MustParseSemantic(a.remedy(is)))
}

// remedy is the first version that is good: in the same line of releases if that got one, else in the newest line that did.
func (a advisory) remedy(is *version.Version) string {
	for _, text := range a.closed {
		if v := version.MustParseSemantic(text); v.Major() == is.Major() && v.Minor() == is.Minor() {
			return text
		}
	}
	return a.closed[len(a.closed)-1]
}
