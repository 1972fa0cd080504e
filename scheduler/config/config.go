// SPDX-License-Identifier: Apache-2.0

// Package config reads a KubeSchedulerConfiguration, the file that kube-scheduler is configured with.
//
// Profiles, plugins at all of their extension points or at single ones, their order there, weights and arguments mean what they mean upstream, and
// what upstream refuses is refused. What is about a process of its own (leaderElection, clientConnection, parallelism, profiling,
// delayCacheUntilActive) is accepted and without effect.
//
// Reference: https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/
package config

import (
	"cmp"
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
	case ptr.Deref(file.Parallelism, 1) <= 0:
		return c, fmt.Errorf("the scheduler's configuration: parallelism must be positive")
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
	if len(file.Profiles) == 1 && file.Profiles[0].SchedulerName == nil {
		file.Profiles[0].SchedulerName = ptr.To(v1.DefaultSchedulerName)
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
		SchedulerName:            ptr.Deref(from.SchedulerName, ""),
		PercentageOfNodesToScore: from.PercentageOfNodesToScore,
	}
	if p.SchedulerName == "" {
		return p, fmt.Errorf("schedulerName must not be empty: only a single profile has a default")
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
		if slices.ContainsFunc(from.PluginConfig[:i], func(other configv1.PluginConfig) bool { return other.Name == a.Name }) {
			return p, fmt.Errorf("pluginConfig: %s is there twice", a.Name)
		}
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
	uses, err := choose(set)
	if err != nil {
		return p, err
	}
	for _, use := range uses {
		e, ok := known[use.name]
		if !ok {
			return p, fmt.Errorf("there is no plugin %q", use.name)
		}
		if use.weight != 0 {
			e.Weight = int64(use.weight)
		}
		e.Off, e.Rank = use.off, use.rank
		p.Plugins = append(p.Plugins, e)
	}
	return p, nil
}

// use is a plugin that a profile has.
type use struct {
	name   string
	weight int32 // 0: as it comes
	off    []framework.Point
	rank   map[framework.Point]int
}

// choose lists the plugins of a profile: those of multiPoint in order, then those that are there at single points only.
func choose(set *configv1.Plugins) ([]use, error) {
	if len(set.PlacementGenerate.Enabled)+len(set.PlacementScore.Enabled)+len(set.PodGroupPostFilter.Enabled) > 0 {
		return nil, fmt.Errorf("plugins: placementGenerate, placementScore and podGroupPostFilter are for pod groups, which are not scheduled as such")
	}
	at := map[framework.Point]configv1.PluginSet{
		framework.AtPreEnqueue: set.PreEnqueue, framework.AtQueueSort: set.QueueSort, framework.AtPreFilter: set.PreFilter,
		framework.AtFilter: set.Filter, framework.AtPostFilter: set.PostFilter, framework.AtPreScore: set.PreScore,
		framework.AtScore: set.Score, framework.AtReserve: set.Reserve, framework.AtPermit: set.Permit,
		framework.AtPreBind: set.PreBind, framework.AtBind: set.Bind, framework.AtPostBind: set.PostBind,
	}
	if err := noneTwice("multiPoint", set.MultiPoint.Enabled); err != nil {
		return nil, err
	}
	everywhere := multiPoint(set.MultiPoint)
	uses := slices.Clone(everywhere)
	for _, point := range framework.Points {
		if err := noneTwice(point, at[point].Enabled); err != nil {
			return nil, err
		}
		for _, p := range at[point].Enabled {
			if !slices.ContainsFunc(uses, func(u use) bool { return u.name == p.Name }) {
				uses = append(uses, use{name: p.Name})
			}
		}
	}
	for i := range uses {
		for _, point := range framework.Points {
			uses[i].place(point, at[point], i < len(everywhere))
		}
	}
	return uses, nil
}

func noneTwice(point framework.Point, enabled []configv1.Plugin) error {
	for i, p := range enabled {
		if find(enabled[:i], p.Name) >= 0 {
			return fmt.Errorf("plugins: %s is enabled twice at %s", p.Name, point)
		}
	}
	return nil
}

// place says whether the plugin is asked at a point, and when: those that multiPoint has too come first, in the order given here, then the rest of
// multiPoint, then those that are only named here.
func (u *use) place(point framework.Point, set configv1.PluginSet, inMulti bool) {
	disabled := find(set.Disabled, u.name) >= 0 || find(set.Disabled, "*") >= 0
	i := find(set.Enabled, u.name)
	if i < 0 {
		if disabled || !inMulti {
			u.off = append(u.off, point)
		}
		return
	}
	if point == framework.AtScore {
		u.weight = weight(&set.Enabled[i])
	}
	if elsewhere[u.name] == point {
		return
	}
	if u.rank == nil {
		u.rank = make(map[framework.Point]int)
	}
	u.rank[point] = 1 + i
	if inMulti && !disabled {
		u.rank[point] = i - len(set.Enabled)
	}
}

// elsewhere is where a configuration may name plugins, because upstream's are asked there, that do here without.
var elsewhere = map[string]framework.Point{
	"NodeName": framework.AtPreFilter, "NodeUnschedulable": framework.AtPreFilter, "TaintToleration": framework.AtPreFilter,
	"VolumeBinding": framework.AtPreScore,
}

// weight of a plugin that is enabled by name: it does not keep that of the default plugins.
func weight(p *configv1.Plugin) int32 { return cmp.Or(ptr.Deref(p.Weight, 0), 1) }

// multiPoint merges the default plugins with what is said about all of their points.
func multiPoint(set configv1.PluginSet) []use {
	var uses []use
	for _, e := range plugins.Default() {
		if find(set.Disabled, e.Name) < 0 && find(set.Disabled, "*") < 0 {
			uses = append(uses, use{name: e.Name})
		}
	}
	for j := range set.Enabled {
		p := &set.Enabled[j]
		i := slices.IndexFunc(uses, func(u use) bool { return u.name == p.Name })
		if i < 0 {
			i = len(uses)
			uses = append(uses, use{name: p.Name})
		}
		uses[i].weight = weight(p)
	}
	return uses
}

// find returns the position of a plugin, -1 if it is not there.
func find(in []configv1.Plugin, name string) int {
	return slices.IndexFunc(in, func(p configv1.Plugin) bool { return p.Name == name })
}
