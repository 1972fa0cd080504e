// SPDX-License-Identifier: Apache-2.0

// Package rules holds the rules of Skiff's API beside those of Kubernetes: what is filled into an object, what is
// refused, what is warned of, what is kept of an update and what kubectl prints.
//
// Both are asked the same questions in process, without a server: the stories of registry/testdata, and thousands of
// objects made from theirs by changing one field or two at a time (mutate.go). What they answer must be the same.
//
//	go test ./rules                        # the stories, and a seeded run of changes
//	go test ./rules -run Changes/Pod -v    # one kind
//	go test ./rules -run Stories -write    # writes down what Kubernetes makes of the stories that tell no outcome
package rules
