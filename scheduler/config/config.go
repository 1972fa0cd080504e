// SPDX-License-Identifier: Apache-2.0

// Package config reads a KubeSchedulerConfiguration, the file that kube-scheduler is configured with.
//
// Profiles, plugins at all of their extension points or at single ones, weights and arguments mean what they mean upstream. The order
// of plugins at one extension point is that of multiPoint. What is about a process of its own (leaderElection, clientConnection,
// parallelism) is accepted and without effect.
//
// Reference: https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/
package config

import (
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/scheduler"
	"github.com/skiff-k8s/skiff/scheduler/extender"
	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins"
	"github.com/skiff-k8s/skiff/scheduler/plugins/noderesources"
)

// Load reads a configuration. more are plugins besides Skiff's that it may name.
func Load(data []byte, more ...plugins.Entry) (scheduler.Config, error) {
	var file configv1.KubeSchedulerConfiguration
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return scheduler.Config{}, fmt.Errorf("read the scheduler's configuration: %w", err)
	}
	if file.APIVersion != configv1.SchemeGroupVersion.String() || file.Kind != "KubeSchedulerConfiguration" {
		return scheduler.Config{}, fmt.Errorf("the scheduler's configuration is a %s of %s, must be a KubeSchedulerConfiguration of %s", file.Kind, file.APIVersion, configv1.SchemeGroupVersion)
	}
	c := scheduler.Config{
		PercentageOfNodesToScore: ptr.Deref(file.PercentageOfNodesToScore, 0),
		InitialBackoff:           time.Duration(ptr.Deref(file.PodInitialBackoffSeconds, 1)) * time.Second,
		MaxBackoff:               time.Duration(ptr.Deref(file.PodMaxBackoffSeconds, 10)) * time.Second,
	}
	switch {
	case c.InitialBackoff <= 0 || c.MaxBackoff < c.InitialBackoff:
		return c, fmt.Errorf("the scheduler's configuration: podInitialBackoffSeconds must be positive and not more than podMaxBackoffSeconds")
	case !isPercentage(c.PercentageOfNodesToScore):
		return c, fmt.Errorf("the scheduler's configuration: percentageOfNodesToScore must be from 0 to 100")
	}
	ignored := sets.New[string]() // resources that extenders look after, and not NodeResourcesFit
	for _, from := range file.Extenders {
		e, err := extender.New(from)
		if err != nil {
			return c, fmt.Errorf("the scheduler's configuration: %w", err)
		}
		c.Extenders = append(c.Extenders, e)
		for _, r := range from.ManagedResources {
			if r.IgnoredByScheduler {
				ignored.Insert(r.Name)
			}
		}
	}
	if ignored.Len() > 0 && len(file.Profiles) == 0 {
		file.Profiles = make([]configv1.KubeSchedulerProfile, 1)
	}
	for i := range file.Profiles {
		p, err := profile(&file.Profiles[i], ignored, more)
		if err != nil {
			return c, fmt.Errorf("the scheduler's configuration: profile %q: %w", p.SchedulerName, err)
		}
		c.Profiles = append(c.Profiles, p)
	}
	return c, nil
}

func isPercentage(n int32) bool { return n >= 0 && n <= 100 }

func profile(from *configv1.KubeSchedulerProfile, ignored sets.Set[string], more []plugins.Entry) (scheduler.Profile, error) {
	p := scheduler.Profile{
		SchedulerName:            ptr.Deref(from.SchedulerName, v1.DefaultSchedulerName),
		PercentageOfNodesToScore: from.PercentageOfNodesToScore,
	}
	if !isPercentage(ptr.Deref(p.PercentageOfNodesToScore, 0)) {
		return p, fmt.Errorf("percentageOfNodesToScore must be from 0 to 100")
	}
	known := make(map[string]plugins.Entry)
	for _, e := range append(plugins.Default(), more...) {
		known[e.Name] = e
	}
	if ignored.Len() > 0 {
		e := known[fitName]
		e.New = noderesources.NewFit(noderesources.FitArgs{IgnoredResources: ignored})
		known[fitName] = e
	}
	for i := range from.PluginConfig {
		a := &from.PluginConfig[i]
		e, ok := known[a.Name]
		if !ok {
			return p, fmt.Errorf("pluginConfig: there is no plugin %q", a.Name)
		}
		build, err := withArgs(a.Name, a.Args.Raw, ignored)
		if err != nil {
			return p, fmt.Errorf("pluginConfig of %s: %w", a.Name, err)
		}
		e.New = build
		known[a.Name] = e
	}
	set := from.Plugins
	if set == nil {
		set = &configv1.Plugins{}
	}
	for _, use := range choose(set) {
		e, ok := known[use.name]
		if !ok {
			return p, fmt.Errorf("there is no plugin %q", use.name)
		}
		if use.weight != 0 {
			e.Weight = int64(use.weight)
		}
		e.Off = use.off
		p.Plugins = append(p.Plugins, e)
	}
	return p, nil
}

// use is a plugin that a profile has.
type use struct {
	name   string
	weight int32 // 0: as it comes
	off    []framework.Point
}

// choose lists the plugins of a profile: those of multiPoint in order, then those that are there at single points only.
func choose(set *configv1.Plugins) []use {
	everywhere := multiPoint(set.MultiPoint)
	at := map[framework.Point]configv1.PluginSet{
		framework.AtPreEnqueue: set.PreEnqueue, framework.AtQueueSort: set.QueueSort, framework.AtPreFilter: set.PreFilter,
		framework.AtFilter: set.Filter, framework.AtPostFilter: set.PostFilter, framework.AtPreScore: set.PreScore,
		framework.AtScore: set.Score, framework.AtReserve: set.Reserve, framework.AtPermit: set.Permit,
		framework.AtPreBind: set.PreBind, framework.AtBind: set.Bind, framework.AtPostBind: set.PostBind,
	}
	uses := slices.Clone(everywhere)
	for _, point := range framework.Points {
		for _, p := range at[point].Enabled {
			if !slices.ContainsFunc(uses, func(u use) bool { return u.name == p.Name }) {
				uses = append(uses, use{name: p.Name})
			}
		}
	}
	for i := range uses {
		u := &uses[i]
		inMulti := i < len(everywhere)
		for _, point := range framework.Points {
			enabled := find(at[point].Enabled, u.name)
			if enabled != nil && point == framework.AtScore && enabled.Weight != nil {
				u.weight = *enabled.Weight
			}
			disabled := find(at[point].Disabled, u.name) != nil || find(at[point].Disabled, "*") != nil
			if enabled == nil && (disabled || !inMulti) {
				u.off = append(u.off, point)
			}
		}
	}
	return uses
}

// multiPoint merges the default plugins with what is said about all of their points.
func multiPoint(set configv1.PluginSet) []use {
	var uses []use
	for _, e := range plugins.Default() {
		if find(set.Disabled, e.Name) == nil && find(set.Disabled, "*") == nil {
			uses = append(uses, use{name: e.Name})
		}
	}
	for _, p := range set.Enabled {
		i := slices.IndexFunc(uses, func(u use) bool { return u.name == p.Name })
		if i < 0 {
			i = len(uses)
			uses = append(uses, use{name: p.Name})
		}
		uses[i].weight = ptr.Deref(p.Weight, 0)
	}
	return uses
}

func find(in []configv1.Plugin, name string) *configv1.Plugin {
	i := slices.IndexFunc(in, func(p configv1.Plugin) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return &in[i]
}
