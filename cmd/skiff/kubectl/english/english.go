// SPDX-License-Identifier: Apache-2.0

// Package english keeps kubectl from unpacking its translations whenever skiff starts (28 ms and 4 MB, also
// for a server). It must be initialized before kubectl's packages; Go initializes what does not depend on
// each other in the order of import paths, and this one comes before k8s.io.
package english

import "k8s.io/kubectl/pkg/util/i18n"

var _ = func() struct{} {
	i18n.SetLoadTranslationsFunc(func() error { return nil })
	return struct{}{}
}()
