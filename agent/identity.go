// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Identify finds out the name and the address of this machine as a node, where they were left open, and refuses what
// cannot be.
func Identify(name *string, ip *net.IP) error {
	if *name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find the host name: %w (set --node-name)", err)
		}
		*name = strings.ToLower(strings.TrimSpace(host))
	}
	if why := validation.IsDNS1123Subdomain(*name); len(why) > 0 {
		return fmt.Errorf("%q cannot be the name of a Node: %s (set --node-name)", *name, why[0])
	}
	if *ip == nil {
		address, err := defaultAddress()
		if err != nil {
			return err
		}
		*ip = address
	}
	if !ip.IsGlobalUnicast() {
		return fmt.Errorf("node address %s is not one by which other machines could reach this one (change --node-ip)", *ip)
	}
	return nil
}

// CheckFamilies refuses a second address of a machine that is no good: it has to be of the other family than the first.
func CheckFamilies(ip, second net.IP) error {
	switch {
	case second == nil:
		return nil
	case !second.IsGlobalUnicast():
		return fmt.Errorf("node address %s is not one by which other machines could reach this one (change --node-ip)", second)
	case (ip.To4() == nil) == (second.To4() == nil):
		return fmt.Errorf("node addresses %s and %s are of the same family (change --node-ip)", ip, second)
	}
	return nil
}

// defaultAddress is the machine's address towards the outside. No packet is sent to find it.
func defaultAddress() (net.IP, error) {
	conn, err := net.Dial("udp", "192.0.2.1:9")
	if err == nil {
		defer conn.Close()
		return conn.LocalAddr().(*net.UDPAddr).IP, nil
	}
	addrs, ifErr := net.InterfaceAddrs()
	if ifErr != nil {
		return nil, fmt.Errorf("find the node's address: %w (set --node-ip)", ifErr)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			return n.IP, nil
		}
	}
	return nil, fmt.Errorf("find the node's address: no default route and no address but loopback (set --node-ip)")
}
