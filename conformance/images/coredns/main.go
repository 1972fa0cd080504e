// SPDX-License-Identifier: Apache-2.0

// Command coredns is the CoreDNS of agnhost's image, with the plugins that upstream's tests configure there.
package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/log"
)

func main() { coremain.Run() }
