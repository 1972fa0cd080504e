// SPDX-License-Identifier: Apache-2.0

// Package server is the kubelet's HTTP API, on port 10250: what the API server asks for `kubectl logs`, exec,
// attach and port-forward, and what monitoring asks for metrics.
//
// Every request is authenticated by client certificate or bearer token and authorized as an access to a
// subresource of this Node (see subresources). Exec, attach and port-forward are not served here: the
// runtime makes a URL for each, and the connection is passed on to it.
//
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/
package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/internal/podcontainers"
	"github.com/skiff-k8s/skiff/kubelet/cgroups"
	"github.com/skiff-k8s/skiff/kubelet/diskusage"
	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

// Pods is the kubelet's view of the pods of this node.
type Pods interface {
	// Pods lists them, with the status that the kubelet decided last.
	Pods() []*corev1.Pod
	PodByName(namespace, name string) (*corev1.Pod, bool)
	// ContainerID is the newest container of a name, or the one before it.
	ContainerID(ctx context.Context, uid types.UID, container string, previous bool) (string, error)
	SandboxID(ctx context.Context, uid types.UID) (string, error)
}

// Config is what a Server needs.
type Config struct {
	NodeName string
	// Address is where to listen, such as ":10250".
	Address string
	// HealthAddress is where /healthz is served to all without TLS, for programs on this machine; empty: nowhere.
	HealthAddress string
	// TLS has the server's certificate. Which client certificates are good is for the Authenticator to say.
	TLS *tls.Config

	Authenticator authenticator.Request
	Authorizer    authorizer.UnconditionalAuthorizer

	Pods    Pods
	Runtime runtimeapi.RuntimeServiceClient
	Images  runtimeapi.ImageServiceClient
	// RuntimeSocket is where a runtime listens that is another process; empty: it is in this one.
	RuntimeSocket string

	Metrics *metrics.Metrics // by default none are counted
	Cgroups *cgroups.Tree    // where usage is read; nil: it is not
	// Volumes are the folders or devices of a pod's volumes by name. It may be nil.
	Volumes func(pod types.UID) map[string]string
	// Measure tells how full one of them is; nil: as full as its file system.
	Measure func(ctx context.Context, pod types.UID, volume string) (diskusage.FileSystem, error)
	// TotalVolumes counts volumes by kind: those that pods are to have, and those that they have. It may be nil.
	TotalVolumes func() (wanted, present map[string]int)

	// Healthy says why the kubelet is not healthy. It may be nil.
	Healthy func() error
	// LocalVolumes keeps the directories of volumes, by the path's {volume}. It may be nil.
	LocalVolumes http.Handler

	// Configuration is shown at /configz, and what the process was started with at /flagz. They may be nil.
	Configuration any
	Flags         map[string]string
	Off           Off
	// RootDir and LogDir are the kubelet's directory and the system's logs; by default /var/lib/kubelet and /var/log.
	RootDir, LogDir string
	PodLogs         string // of containers; by default LogDir/pods
	// NoLogs refuses what is below /logs/. LogQuery lets it tell, besides the files of LogDir, what services have logged.
	NoLogs, LogQuery bool
}

const (
	readHeaderTimeout = 30 * time.Second
	idleTimeout       = 90 * time.Second
	stopPatience      = 2 * time.Second
)

// Server serves the kubelet's API.
type Server struct {
	config  Config
	stats   *statsProvider
	handler http.Handler
}

// New makes a server. It does not listen before Run.
func New(config Config) *Server {
	if config.RootDir == "" {
		config.RootDir = "/var/lib/kubelet"
	}
	if config.LogDir == "" {
		config.LogDir = "/var/log"
	}
	if config.PodLogs == "" {
		config.PodLogs = filepath.Join(config.LogDir, "pods")
	}
	if config.Metrics == nil {
		config.Metrics = metrics.New(config.NodeName)
	}
	s := &Server{config: config, stats: newStatsProvider(config)}
	s.handler = s.counted(s.withAuth(s.routes()))
	return s
}

// Handler is all of the API, authentication and authorization included.
func (s *Server) Handler() http.Handler { return s.handler }

func (s *Server) routes() http.Handler {
	mux := &recorder{ServeMux: http.NewServeMux()}
	s.health(mux)
	mux.HandleFunc("GET /pods", s.pods)
	mux.HandleFunc("GET /pods/", s.pods)
	mux.HandleFunc("GET /stats/summary", s.summary)
	mux.HandleFunc("POST /stats/summary", s.summary)
	mux.Handle("GET /metrics", http.HandlerFunc(s.ownMetrics))
	mux.Handle("GET /metrics/probes", http.HandlerFunc(s.probeMetrics))
	mux.Handle("GET /metrics/resource", http.HandlerFunc(s.resourceMetrics))
	mux.Handle("GET /metrics/cadvisor", http.HandlerFunc(s.cadvisorMetrics))
	if local := s.config.LocalVolumes; local != nil {
		mux.HandleFunc("PUT /localVolumes/{volume}", local.ServeHTTP)
		mux.HandleFunc("DELETE /localVolumes/{volume}", local.ServeHTTP)
	}
	if s.config.Off.Debugging {
		for _, path := range []string{"/run/", "/exec/", "/attach/", "/portForward/", "/containerLogs/", "/runningpods/", "/debug/pprof/", "/logs/"} {
			mux.Handle(path, off("Debug endpoints are disabled."))
		}
		return mux
	}
	s.debugging(mux)
	mux.HandleFunc("GET /runningpods/", s.runningPods)
	mux.Handle("GET /configz", http.HandlerFunc(s.configz))
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.containerLogs)
	for _, method := range []string{"GET", "POST"} { // WebSockets begin with GET, SPDY with POST
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{container}", s.exec)
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{uid}/{container}", s.exec)
		mux.HandleFunc(method+" /attach/{namespace}/{pod}/{container}", s.attach)
		mux.HandleFunc(method+" /attach/{namespace}/{pod}/{uid}/{container}", s.attach)
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}", s.portForward)
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}/{uid}", s.portForward)
	}
	mux.HandleFunc("POST /run/{namespace}/{pod}/{container}", s.run)
	mux.HandleFunc("POST /run/{namespace}/{pod}/{uid}/{container}", s.run)
	mux.HandleFunc("POST /checkpoint/{namespace}/{pod}/{container}", s.checkpoint)
	s.pages(mux) // the last, since it lists the others
	return mux
}

// buckets are the beginnings of paths that requests are counted under; those of all others are "other".
var buckets = []string{
	"attach", "checkpoint", "configz", "containerLogs", "debug", "exec", "flagz", "healthz", "logs", "metrics", "metrics/cadvisor", "metrics/probes", "metrics/resource",
	"pods", "portForward", "run", "runningpods", "stats", "statusz",
}

// bucketOf is where a request of a path is counted, and whether it is one that may take long.
func bucketOf(path string) (bucket, long string) {
	parts := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 3)
	bucket = parts[0]
	if bucket == "metrics" && len(parts) > 1 {
		bucket += "/" + parts[1]
	}
	if !slices.Contains(buckets, bucket) {
		bucket = "other"
	}
	return bucket, strconv.FormatBool(bucket == "exec" || bucket == "attach" || bucket == "debug")
}

// methods are those that requests are counted under.
var methods = []string{"OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT"}

// counted counts requests.
func (s *Server) counted(next http.Handler) http.Handler {
	m := s.config.Metrics
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		bucket, long := bucketOf(r.URL.Path)
		method := r.Method
		if !slices.Contains(methods, method) {
			method = "other"
		}
		labels := []string{method, bucket, "readwrite", long}
		began := time.Now()
		m.Requests.WithLabelValues(labels...).Inc()
		m.Inflight.WithLabelValues(labels...).Inc()
		next.ServeHTTP(w, r)
		m.Inflight.WithLabelValues(labels...).Dec()
		m.RequestDuration.WithLabelValues(labels...).Observe(time.Since(began).Seconds())
	})
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.config.Address)
	if err != nil {
		return fmt.Errorf("start the kubelet's API: %w", err)
	}
	return s.Serve(ctx, listener)
}

// Serve serves on a listener until ctx ends, and closes it. Streams that are open then are cut.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	// RequestClientCert and not more: who comes without a certificate may have a token.
	tlsConfig := s.config.TLS.Clone()
	tlsConfig.ClientAuth = tls.RequestClientCert
	tlsConfig.MinVersion = max(tlsConfig.MinVersion, tls.VersionTLS12)
	// What serves a request must not outlast the server.
	requests, cancel := context.WithCancel(ctx)
	var health sync.WaitGroup
	defer health.Wait()
	defer cancel()
	h := &http.Server{
		Handler:           s.handler,
		TLSConfig:         tlsConfig,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ErrorLog:          klog.NewStandardLogger("WARNING"),
	}
	conns := newClosingListener(listener)
	served := make(chan error, 1)
	go func() { served <- h.ServeTLS(conns, "", "") }()
	if s.config.HealthAddress != "" {
		health.Go(func() { s.serveHealth(requests) })
	}
	klog.FromContext(ctx).Info("The kubelet's API listens", "address", listener.Addr())
	select {
	case err := <-served:
		return fmt.Errorf("serve the kubelet's API: %w", err)
	case <-ctx.Done():
	}
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancelLast()
	if h.Shutdown(last) != nil {
		h.Close()
	}
	conns.closeAll()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *Server) pods(w http.ResponseWriter, r *http.Request) {
	writePods(w, r, s.config.Pods.Pods())
}

// runningPods lists the pods that have a running sandbox, whether the kubelet knows them or not.
func (s *Server) runningPods(w http.ResponseWriter, r *http.Request) {
	list, err := s.config.Runtime.ListPodSandbox(r.Context(), &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil {
		writeError(w, err.Error(), http.StatusInternalServerError)
		return
	}
	var pods []*corev1.Pod
	for _, sandbox := range list.Items {
		m := sandbox.GetMetadata()
		pods = append(pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: m.GetNamespace(), Name: m.GetName(), UID: types.UID(m.GetUid())}})
	}
	writePods(w, r, pods)
}

func writePods(w http.ResponseWriter, r *http.Request, pods []*corev1.Pod) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, pod := range pods {
		list.Items = append(list.Items, *pod)
	}
	writeJSON(w, r, list)
}

func (s *Server) configz(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, r, map[string]any{"kubeletconfig": s.config.Configuration})
}

func writeJSON(w http.ResponseWriter, r *http.Request, value any) {
	raw, err := json.Marshal(value)
	if err != nil {
		writeError(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(raw); err != nil {
		klog.FromContext(r.Context()).V(2).Info("Client left before the answer", "path", r.URL.Path, "err", err)
	}
}

// writeError is http.Error without the newline: the API server makes a Status's message of the text.
func writeError(w http.ResponseWriter, message string, code int) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	fmt.Fprint(w, message)
}

// findPod finds the pod of a request, or answers it.
func (s *Server) findPod(w http.ResponseWriter, r *http.Request) (*corev1.Pod, bool) {
	pod, ok := s.config.Pods.PodByName(r.PathValue("namespace"), r.PathValue("pod"))
	if uid := r.PathValue("uid"); ok && uid != "" && string(pod.UID) != uid {
		ok = false
	}
	if !ok {
		writeError(w, "pod does not exist", http.StatusNotFound)
	}
	return pod, ok
}

func hasContainer(pod *corev1.Pod, name string) bool {
	for c := range podcontainers.All(pod) {
		if c.Name == name {
			return true
		}
	}
	return false
}

// bareID removes the runtime's name from an ID such as containerd://0123.
func bareID(id string) string {
	if _, bare, found := strings.Cut(id, "://"); found {
		return bare
	}
	return id
}
