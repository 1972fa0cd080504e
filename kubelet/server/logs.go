// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/util/flushwriter"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"
	"k8s.io/klog/v2"
)

// containerLogs streams the log of a container. Errors that only show once the first bytes are sent end the
// stream with a line that tells them, as upstream's do.
func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) {
	o, err := logOptions(r.URL.Query())
	if err != nil {
		writeError(w, fmt.Sprintf(`{"message": "Unable to decode query: %v"}`, err), http.StatusBadRequest)
		return
	}
	if !validLogOptions(o) {
		writeError(w, `{"message": "Invalid request."}`, http.StatusUnprocessableEntity)
		return
	}
	name := r.PathValue("container")
	pod, ok := s.config.Pods.PodByName(r.PathValue("namespace"), r.PathValue("pod"))
	if !ok {
		writeError(w, fmt.Sprintf("pod %q does not exist", r.PathValue("pod")), http.StatusNotFound)
		return
	}
	if !hasContainer(pod, name) {
		writeError(w, fmt.Sprintf("container %q not found in pod %q", name, pod.Name), http.StatusNotFound)
		return
	}
	id, path, err := s.findLog(r.Context(), pod, name, o.Previous)
	if err != nil {
		writeError(w, err.Error(), http.StatusBadRequest)
		return
	}
	out := flushwriter.Wrap(w)
	out.Write(nil) // sends the header: a follower wants to know at once that it is connected
	stdout, stderr := out, out
	if o.Stream != nil && *o.Stream == corev1.LogStreamStdout {
		stderr = nil
	}
	if o.Stream != nil && *o.Stream == corev1.LogStreamStderr {
		stdout = nil
	}
	if err := logs.ReadLogs(r.Context(), path, id, readOptions(o, time.Now()), containerStatuses{client: s.config.Runtime}, stdout, stderr); err != nil && r.Context().Err() == nil {
		klog.FromContext(r.Context()).Info("Cannot read a container's log", "pod", klog.KObj(pod), "container", name, "err", err)
		io.WriteString(w, err.Error()+"\n")
	}
}

// logOptions reads the options from the query, where the API server puts them under their JSON names.
func logOptions(query url.Values) (*corev1.PodLogOptions, error) {
	o := &corev1.PodLogOptions{
		Follow: queryBool(query, "follow"), Previous: queryBool(query, "previous"), Timestamps: queryBool(query, "timestamps"),
	}
	for name, field := range map[string]**int64{"sinceSeconds": &o.SinceSeconds, "tailLines": &o.TailLines, "limitBytes": &o.LimitBytes} {
		if !query.Has(name) {
			continue
		}
		n, err := strconv.ParseInt(query.Get(name), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("query parameter %s: %w", name, err)
		}
		*field = &n
	}
	if query.Has("sinceTime") {
		o.SinceTime = &metav1.Time{}
		if err := o.SinceTime.UnmarshalQueryParameter(query.Get("sinceTime")); err != nil {
			return nil, fmt.Errorf("query parameter sinceTime: %w", err)
		}
	}
	if stream := query.Get("stream"); stream != "" {
		o.Stream = &stream
	}
	return o, nil
}

// queryBool follows apimachinery: a parameter without a value is true.
func queryBool(query url.Values, name string) bool {
	value := query.Get(name)
	return query.Has(name) && value != "0" && !strings.EqualFold(value, "false")
}

func validLogOptions(o *corev1.PodLogOptions) bool {
	tail := o.TailLines == nil || *o.TailLines >= 0
	limit := o.LimitBytes == nil || *o.LimitBytes >= 1
	since := o.SinceSeconds == nil || *o.SinceSeconds >= 1 && o.SinceTime == nil
	stream := true
	if o.Stream != nil {
		switch *o.Stream {
		case corev1.LogStreamAll:
		case corev1.LogStreamStdout, corev1.LogStreamStderr:
			stream = o.TailLines == nil
		default:
			stream = false
		}
	}
	return tail && limit && since && stream
}

func readOptions(o *corev1.PodLogOptions, now time.Time) *logs.LogOptions {
	read := &logs.LogOptions{TailLines: o.TailLines, LimitBytes: o.LimitBytes, Follow: o.Follow, Timestamp: o.Timestamps}
	if o.SinceTime != nil {
		read.Since = o.SinceTime.Time
	}
	if o.SinceSeconds != nil {
		read.Since = now.Add(-time.Duration(*o.SinceSeconds) * time.Second)
	}
	return read
}

// findLog finds the file of a container's log. For a container that has not started, it says why.
func (s *Server) findLog(ctx context.Context, pod *corev1.Pod, container string, previous bool) (id, path string, err error) {
	id, err = s.config.Pods.ContainerID(ctx, pod.UID, container, previous)
	if err != nil {
		return "", "", whyNoLog(pod, container, previous)
	}
	res, err := s.config.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: bareID(id)})
	if err != nil {
		return "", "", fmt.Errorf("unable to retrieve container logs for %s", id)
	}
	if res.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_CREATED {
		return "", "", whyNoLog(pod, container, previous) // there is no file yet
	}
	return bareID(id), res.GetStatus().GetLogPath(), nil
}

// whyNoLog uses upstream's words: people search the web for them.
func whyNoLog(pod *corev1.Pod, container string, previous bool) error {
	if previous {
		return fmt.Errorf("previous terminated container %q in pod %q not found", container, pod.Name)
	}
	var waiting *corev1.ContainerStateWaiting
	for _, list := range [][]corev1.ContainerStatus{
		pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses,
	} {
		for i := range list {
			if list[i].Name == container {
				waiting = list[i].State.Waiting
			}
		}
	}
	prefix := fmt.Sprintf("container %q in pod %q", container, pod.Name)
	switch {
	case waiting == nil:
		return fmt.Errorf("%s is not available", prefix)
	case waiting.Reason == "ErrImagePull":
		return fmt.Errorf("%s is waiting to start: image can't be pulled", prefix)
	case waiting.Reason == "ImagePullBackOff":
		return fmt.Errorf("%s is waiting to start: trying and failing to pull image", prefix)
	default:
		return fmt.Errorf("%s is waiting to start: %s", prefix, waiting.Reason)
	}
}

// containerStatuses is the one method of the runtime service that reading a log needs, to notice the
// container's end. The others are nil and must not be called.
type containerStatuses struct {
	internalapi.RuntimeService
	client runtimeapi.RuntimeServiceClient
}

func (c containerStatuses) ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	return c.client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: verbose})
}

// rootFS is a directory whose files cannot lead out of it.
type rootFS string

func (dir rootFS) Open(name string) (fs.File, error) {
	root, err := os.OpenRoot(string(dir))
	if err != nil {
		return nil, err
	}
	defer root.Close() // an open file stays open
	return root.Open(name)
}
