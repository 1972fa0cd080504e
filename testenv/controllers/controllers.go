// SPDX-License-Identifier: Apache-2.0

// Package controllers adds Skiff's controllers to a testenv: garbage collection, the deletion of namespaces,
// Deployments that make ReplicaSets that make Pods, and all others.
//
//	env := testenv.Start(t)
//	controllers.Run(t, env)
//
// They are a package of their own for those who do without them: they are large. Pods do not run, since there
// is no node; a test sets their status.
package controllers

import (
	"context"
	"testing"

	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	restclient "k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/testenv"
)

// Run runs the controllers until t ends. Options change what they are built with: without any, nodes get no pod addresses, and
// there is no root certificate to publish.
func Run(t testing.TB, env *testenv.Env, options ...func(*controllers.Deps)) {
	t.Helper()
	config := func(name string) *restclient.Config {
		u := serviceaccount.UserInfo("kube-system", name, "")
		return env.ConfigFor(u.GetName(), u.GetGroups()...)
	}
	factory := informers.NewSharedInformerFactory(env.Client, 0)
	deps := controllers.Deps{
		ClientFor:     func(name string) kubernetes.Interface { return kubernetes.NewForConfigOrDie(config(name)) }, // fails for impossible configurations only
		MetadataFor:   func(name string) metadata.Interface { return metadata.NewForConfigOrDie(config(name)) },
		ConfigFor:     config,
		Discovery:     env.Client.Discovery(),
		ManagerClient: kubernetes.NewForConfigOrDie(env.ConfigFor("system:kube-controller-manager")),
		Informers:     factory,
	}
	for _, change := range options {
		change(&deps)
	}
	manager, err := controllers.New(deps)
	if err != nil {
		t.Fatalf("build the controllers: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	factory.Start(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- manager.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && ctx.Err() == nil {
			t.Errorf("the controllers: %v", err)
		}
		factory.Shutdown()
	})
}
