// SPDX-License-Identifier: Apache-2.0

package addresspool

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, c := range []struct{ text, want, err string }{
		{text: "192.0.2.200-192.0.2.202", want: "192.0.2.200 192.0.2.201 192.0.2.202"},
		{text: "192.0.2.252/30", want: "192.0.2.252 192.0.2.253 192.0.2.254 192.0.2.255"},
		{text: "192.0.2.7", want: "192.0.2.7"},
		{text: "255.255.255.254/31", want: "255.255.255.254 255.255.255.255"},
		{text: "2001:db8::fffe - 2001:db8::1:0,192.0.2.1", want: "192.0.2.1 2001:db8::fffe 2001:db8::ffff 2001:db8::1:0"},
		{text: "192.0.2.9-192.0.2.1", err: "its end must come after its start"},
		{text: "192.0.2.9-2001:db8::1", err: "its end must come after its start"},
		{text: "some", err: "neither a range"},
		{text: "192.0.2.0/24,192.0.2.9", err: "192.0.2.9 overlaps another one"},
	} {
		pool, err := Parse(strings.Split(c.text, ","))
		if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", c.text, err, c.err)
			continue
		}
		all := append(slices.Collect(pool.All(true)), slices.Collect(pool.All(false))...)
		if got := strings.Trim(fmt.Sprint(all), "[]"); got != c.want {
			t.Errorf("%s = %s, want %s", c.text, got, c.want)
		}
		for _, addr := range all {
			if !pool.Contains(addr) {
				t.Errorf("%s does not contain %s", c.text, addr)
			}
		}
	}
}

func TestOverlaps(t *testing.T) {
	pool, err := Parse([]string{"192.0.2.200-192.0.2.220"})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"192.0.2.0/24": true, "192.0.2.208/30": true, "192.0.2.0/25": false, "0.0.0.0/0": true, "::/0": false,
	} {
		if got := pool.Overlaps(netip.MustParsePrefix(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	if pool.Contains(netip.MustParseAddr("192.0.2.221")) || pool.Contains(netip.MustParseAddr("2001:db8::1")) {
		t.Error("it contains what it should not")
	}
}
