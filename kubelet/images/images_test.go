// SPDX-License-Identifier: Apache-2.0

package images

import "testing"

func TestMatchesImage(t *testing.T) {
	for _, c := range []struct {
		registry, image string
		want            bool
	}{
		{"https://index.docker.io/v1/", "busybox", true},
		{"docker.io", "library/busybox:1", true},
		{"registry.example.com", "registry.example.com/a/b:1", true},
		{"registry.example.com/a", "registry.example.com/b:1", false},
		{"*.example.com", "registry.example.com/b:1", true},
		{"*.example.com", "a.registry.example.com/b:1", false},
		{"registry.example.com:5000", "registry.example.com/b:1", false},
	} {
		if got := matchesImage(c.registry, c.image); got != c.want {
			t.Errorf("matchesImage(%q, %q) = %t", c.registry, c.image, got)
		}
	}
}

func TestWithTag(t *testing.T) {
	for image, want := range map[string]string{
		"busybox": "busybox:latest", "a.io/b:1": "a.io/b:1", "localhost:5000/x": "localhost:5000/x:latest", "Not An Image": "",
	} {
		if got, err := withTag(image); got != want || (err != nil) != (want == "") {
			t.Errorf("withTag(%q) = %q, %v; want %q", image, got, err, want)
		}
	}
}
