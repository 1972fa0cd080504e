// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"
)

// checkpointTimeout is how long the runtime has to write a checkpoint; a request can ask for more, not for less.
const checkpointTimeout = 2 * time.Minute

// checkpoint has the runtime write what a running container is doing to an archive in the kubelet's directory, for which it
// needs CRIU, and answers with the archive's path. The container runs on.
// Reference: https://kubernetes.io/docs/reference/node/kubelet-checkpoint-api/
func (s *Server) checkpoint(w http.ResponseWriter, r *http.Request) {
	pod, ok := s.findPod(w, r)
	if !ok {
		return
	}
	name := r.PathValue("container")
	if !hasContainer(pod, name) {
		writeError(w, fmt.Sprintf("container %s does not exist", name), http.StatusNotFound)
		return
	}
	var seconds int64
	if asked := r.URL.Query()["timeout"]; len(asked) > 0 {
		var err error
		if seconds, err = strconv.ParseInt(asked[len(asked)-1], 10, 64); err != nil {
			writeError(w, "cannot parse value of timeout parameter", http.StatusNotFound)
			return
		}
	}
	archive, err := s.writeCheckpoint(r.Context(), pod, name, seconds)
	if err != nil {
		writeError(w, fmt.Sprintf("checkpointing of %s/%s/%s failed (%v)", pod.Namespace, pod.Name, name, err), http.StatusInternalServerError)
		return
	}
	writeJSON(w, r, map[string][]string{"items": {archive}})
}

func (s *Server) writeCheckpoint(ctx context.Context, pod *corev1.Pod, container string, seconds int64) (archive string, err error) {
	running, err := s.config.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State:         &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
		LabelSelector: map[string]string{kubelettypes.KubernetesPodUIDLabel: string(pod.UID), kubelettypes.KubernetesContainerNameLabel: container},
	}})
	if err != nil {
		return "", err
	}
	if len(running.GetContainers()) == 0 {
		return "", fmt.Errorf("container %s not found", container)
	}
	if seconds < 0 {
		return "", errors.New("CheckpointContainer requires the timeout value to be > 0")
	}
	seconds = max(seconds, int64(checkpointTimeout/time.Second))
	dir := filepath.Join(s.config.RootDir, "checkpoints")
	if err := os.MkdirAll(dir, 0o700); err != nil { // what is in memory may be secret
		return "", err
	}
	archive = filepath.Join(dir, fmt.Sprintf("checkpoint-%s_%s-%s-%s.tar", pod.Name, pod.Namespace, container, time.Now().Format(time.RFC3339)))
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
	defer cancel()
	_, err = s.config.Runtime.CheckpointContainer(ctx, &runtimeapi.CheckpointContainerRequest{
		ContainerId: running.GetContainers()[0].GetId(), Location: archive, Timeout: seconds,
	})
	return archive, err
}
