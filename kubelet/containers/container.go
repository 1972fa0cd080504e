// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/env"
)

func (r *Runtime) containerConfig(ctx context.Context, s *session, c *v1.Container, image *runtimeapi.Image, restartCount int, target string) (*runtimeapi.ContainerConfig, error) {
	security, err := r.containerSecurity(s.pod, c, image)
	if err != nil {
		return nil, err
	}
	if err := joinTarget(s, security, target); err != nil {
		return nil, err
	}
	vars, err := r.host.Environ(ctx, s.pod, c, s.ip(), s.ips)
	if err != nil {
		return nil, err
	}
	mounts, err := r.mounts(ctx, s, c)
	if err != nil {
		return nil, err
	}
	if users := security.GetNamespaceOptions().GetUsernsOptions(); users.GetMode() == runtimeapi.NamespaceMode_POD {
		for _, m := range mounts { // files belong to the users that the container knows them by
			m.UidMappings, m.GidMappings = users.GetUids(), users.GetGids()
		}
	}
	devices, err := r.host.Devices(ctx, s.pod, c)
	if err != nil {
		return nil, err
	}
	assigned, err := r.host.Assigned(ctx, s.pod, c)
	if err != nil {
		return nil, err
	}
	vars, mounts, devices = append(vars, assigned.Envs...), append(mounts, assigned.Mounts...), append(devices, assigned.Devices...)
	annotations := containerAnnotations(s.pod, c, restartCount)
	maps.Copy(annotations, assigned.Annotations)
	resources := r.containerResources(s.pod, c)
	resources.CpusetCpus, resources.CpusetMems = assigned.CPUs, assigned.MemoryNodes
	command, args := env.CommandAndArgs(c, vars)
	if err := os.MkdirAll(filepath.Join(r.LogDir(s.pod), c.Name), 0o755); err != nil {
		return nil, fmt.Errorf("create container log directory for container %s failed: %w", c.Name, err)
	}
	return &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: uint32(restartCount)},
		Image:       &runtimeapi.ImageSpec{Image: image.GetId(), UserSpecifiedImage: c.Image},
		Command:     command,
		Args:        args,
		WorkingDir:  c.WorkingDir,
		Envs:        vars,
		Labels:      containerLabels(s.pod, c),
		Annotations: annotations,
		Mounts:      mounts,
		Devices:     devices,
		CDIDevices:  assigned.CDI,
		LogPath:     filepath.Join(c.Name, strconv.Itoa(restartCount)+".log"),
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
		StopSignal:  stopSignal(c),
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources:       resources,
			SecurityContext: security,
		},
	}, nil
}

// joinTarget puts an ephemeral container into the PID namespace of the container that it is to debug.
func joinTarget(s *session, security *runtimeapi.LinuxContainerSecurityContext, target string) error {
	if target == "" || security.GetNamespaceOptions().GetPid() != runtimeapi.NamespaceMode_CONTAINER {
		return nil
	}
	container := s.status.Find(target)
	if container == nil {
		return fmt.Errorf("unable to find target container %v", target)
	}
	security.NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET
	security.NamespaceOptions.TargetId = container.ID
	return nil
}

// mounts are the volumes, and the file that takes the termination message.
func (r *Runtime) mounts(ctx context.Context, s *session, c *v1.Container) ([]*runtimeapi.Mount, error) {
	mounts, err := r.host.Mounts(ctx, s.pod, c, s.ips)
	if err != nil || c.TerminationMessagePath == "" {
		return mounts, err
	}
	dir := filepath.Join(r.PodDir(s.pod.UID), "containers", c.Name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("create container directory: %w", err)
	}
	path := filepath.Join(dir, rand.String(8)) // each start has its own, so that the last message stays readable
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		return nil, fmt.Errorf("create termination log: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil { // whatever our umask is
		return nil, fmt.Errorf("open termination log to the container's user: %w", err)
	}
	return append(mounts, &runtimeapi.Mount{HostPath: path, ContainerPath: c.TerminationMessagePath, SelinuxRelabel: true}), nil
}

// The longest termination message, from its file and from the log.
const (
	maxMessage      = 4096
	maxMessageLog   = 2048
	maxMessageLines = 80
)

// terminationMessage reads what an ended container left to say.
func (r *Runtime) terminationMessage(c *Container) string {
	policy := v1.TerminationMessagePolicy(c.Annotations[annotationMessagePolicy])
	fromLog := policy == v1.TerminationMessageFallbackToLogsOnError && c.ExitCode != 0 && c.Reason != "ContainerCannotRun"
	path := c.Annotations[annotationMessagePath]
	if path != "" {
		for _, m := range c.Mounts {
			if m.GetContainerPath() != path {
				continue
			}
			data, err := tail(m.GetHostPath(), maxMessage)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Sprintf("Error on reading termination log %s: %v", m.GetHostPath(), err)
			}
			if len(data) > 0 {
				return string(data)
			}
		}
	}
	if !fromLog {
		return ""
	}
	return lastLines(c.LogPath)
}

// tail reads the end of a file.
func tail(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-most), most))
}

// lastLines returns the end of a CRI log without its prefixes ("<time> <stream> <P|F> <text>").
func lastLines(path string) string {
	data, err := tail(path, 64<<10)
	if err != nil {
		return fmt.Sprintf("Error on reading termination message from logs: %v", err)
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	var text [][]byte
	for _, line := range lines {
		fields := bytes.SplitN(line, []byte(" "), 4)
		switch {
		case len(fields) != 4:
		case len(fields[2]) == 1 && fields[2][0] == 'P': // the container did not end the line
			text = append(text, bytes.TrimSuffix(fields[3], []byte("\n")))
		default:
			text = append(text, fields[3])
		}
	}
	if len(text) > maxMessageLines {
		text = text[len(text)-maxMessageLines:]
	}
	all := bytes.Join(text, nil)
	return string(all[max(0, len(all)-maxMessageLog):])
}
