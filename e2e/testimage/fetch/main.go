// SPDX-License-Identifier: Apache-2.0

// Command fetch prints what an HTTP URL answers. It finds names as pods do, by the resolv.conf that they are
// given; busybox's wget, linked statically, cannot.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: fetch URL")
		os.Exit(2)
	}
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Get(os.Args[1])
	if err == nil {
		defer response.Body.Close()
		_, err = io.Copy(os.Stdout, response.Body)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fetch:", err)
		os.Exit(1)
	}
}
