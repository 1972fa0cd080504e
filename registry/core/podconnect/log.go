// SPDX-License-Identifier: Apache-2.0

package podconnect

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericrest "k8s.io/apiserver/pkg/registry/generic/rest"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Log is pods/log.
type Log struct {
	storage[corev1.Pod, *corev1.Pod]
	Pods     Getter
	Kubelets Kubelets
}

var (
	_ rest.GetterWithOptions = Log{}
	_ rest.StorageMetadata   = Log{}
)

// NewGetOptions: `kubectl logs` sends PodLogOptions as query parameters.
func (Log) NewGetOptions() (runtime.Object, bool, string) { return &corev1.PodLogOptions{}, false, "" }

// ProducesMIMETypes: a log is text.
func (Log) ProducesMIMETypes(string) []string { return []string{"text/plain"} }

// ProducesObject: for the OpenAPI document, the answer is a string.
func (Log) ProducesObject(string) any { return "" }

// OverrideMetricsVerb: a log may be followed for hours, which is no latency of a GET.
func (Log) OverrideMetricsVerb(verb string) string {
	if verb == "GET" {
		return "CONNECT"
	}
	return verb
}

// Get returns an object that streams the log from the kubelet.
func (l Log) Get(ctx context.Context, name string, opts runtime.Object) (runtime.Object, error) {
	o, ok := opts.(*corev1.PodLogOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", opts)
	}
	if errs := validateLogOptions(o); len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("PodLogOptions").GroupKind(), name, errs)
	}
	pod, err := getPod(ctx, l.Pods, name)
	if err != nil {
		return nil, err
	}
	container, err := chooseContainer(pod, o.Container)
	if err != nil {
		return nil, err
	}
	streamer := &genericrest.LocationStreamer{
		ContentType:     "text/plain",
		Flush:           o.Follow,
		ResponseChecker: genericrest.NewGenericHttpResponseChecker(corev1.Resource("pods/log"), name),
		RedirectChecker: genericrest.PreventRedirects,
	}
	if pod.Spec.NodeName == "" {
		return streamer, nil // a pod that runs nowhere yet has an empty log
	}
	to, err := l.Kubelets.Connection(ctx, pod.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	streamer.Location = to.URL(fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, container), logParams(o))
	streamer.Transport = to.Transport
	if o.InsecureSkipTLSVerifyBackend {
		streamer.Transport = to.Insecure
	}
	return streamer, nil
}

func logParams(o *corev1.PodLogOptions) url.Values {
	query := url.Values{}
	setBool := func(name string, value bool) {
		if value {
			query.Set(name, "true")
		}
	}
	setInt := func(name string, value *int64) {
		if value != nil {
			query.Set(name, strconv.FormatInt(*value, 10))
		}
	}
	setBool("follow", o.Follow)
	setBool("previous", o.Previous)
	setBool("timestamps", o.Timestamps)
	setInt("sinceSeconds", o.SinceSeconds)
	setInt("tailLines", o.TailLines)
	setInt("limitBytes", o.LimitBytes)
	if o.SinceTime != nil {
		query.Set("sinceTime", o.SinceTime.Format(time.RFC3339))
	}
	if o.Stream != nil {
		query.Set("stream", *o.Stream)
	}
	return query
}

var logStreams = []string{corev1.LogStreamAll, corev1.LogStreamStderr, corev1.LogStreamStdout}

func validateLogOptions(o *corev1.PodLogOptions) (errs field.ErrorList) {
	if o.TailLines != nil && *o.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *o.TailLines, "must be greater than or equal to 0"))
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *o.LimitBytes, "must be greater than 0"))
	}
	if o.SinceSeconds != nil && o.SinceTime != nil {
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	} else if o.SinceSeconds != nil && *o.SinceSeconds < 1 {
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, "must be greater than 0"))
	}
	if o.Stream == nil {
		return errs // all streams
	}
	if !slices.Contains(logStreams, *o.Stream) {
		errs = append(errs, field.NotSupported(field.NewPath("stream"), *o.Stream, logStreams))
	}
	if *o.Stream != corev1.LogStreamAll && o.TailLines != nil {
		errs = append(errs, field.Forbidden(field.NewPath(""), "`tailLines` and specific `stream` are mutually exclusive for now"))
	}
	return errs
}
