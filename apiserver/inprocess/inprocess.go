// SPDX-License-Identifier: Apache-2.0

// Package inprocess carries requests from the parts of this process to the API server's handler chain
// without TLS, TCP or a copy of the headers' text form.
//
// A Door is the server's end. Each part gets a rest.Config from it that acts under the part's own user; the
// user travels in the request's context, which nothing outside the process can write, and the Door's
// Authenticator reads it there. Everything after authentication (authorization, flow control, admission,
// audit) sees an ordinary request.
package inprocess

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	restclient "k8s.io/client-go/rest"
)

// Door leads to a handler that may be set after clients were made: their requests wait for it.
type Door struct {
	opened  chan struct{}
	once    sync.Once
	handler http.Handler // set before opened is closed
}

// NewDoor returns a closed door.
func NewDoor() *Door { return &Door{opened: make(chan struct{})} }

// Open lets requests through to handler. Only the first call counts.
func (d *Door) Open(handler http.Handler) {
	d.once.Do(func() {
		d.handler = handler
		close(d.opened)
	})
}

// ClientConfig is the configuration of a client that acts as u. It speaks protobuf where it can, and is not
// rate limited: flow control judges it at the server as any other client.
func (d *Door) ClientConfig(u user.Info) *restclient.Config {
	return &restclient.Config{
		Host:      "http://in.process",
		Transport: &transport{door: d, user: u},
		QPS:       -1,
		ContentConfig: restclient.ContentConfig{
			ContentType:        runtime.ContentTypeProtobuf,
			AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON,
		},
		UserAgent: program(u.GetName()) + "/" + u.GetName(),
		// Warnings are for people at the other end.
		WarningHandlerWithContext: restclient.NoWarnings{},
	}
}

// program is the one that a user would be of in a cluster of many programs. It becomes the manager of the fields that the user writes,
// which tools that compare objects with manifests know by these names.
func program(name string) string {
	switch {
	case name == user.KubeControllerManager, strings.HasPrefix(name, "system:serviceaccount:"+metav1.NamespaceSystem+":"):
		return "kube-controller-manager"
	case name == user.KubeScheduler:
		return "kube-scheduler"
	case name == user.KubeProxy:
		return "kube-proxy"
	case name == user.APIServerUser:
		return "kube-apiserver"
	case strings.HasPrefix(name, "system:node:"):
		return "kubelet"
	}
	return "skiff"
}

// Authenticator recognizes the users of in-process requests, and no others.
func Authenticator() authenticator.Request {
	return authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
		u, ok := UserOf(req.Context())
		if !ok {
			return nil, false, nil
		}
		return &authenticator.Response{User: u}, true, nil
	})
}

// UserOf returns who a request is from if it comes from within this process.
func UserOf(ctx context.Context) (user.Info, bool) {
	u, ok := ctx.Value(userKey{}).(user.Info)
	return u, ok
}

type userKey struct{}

type transport struct {
	door *Door
	user user.Info
}

// RoundTrip implements http.RoundTripper. The handler runs in a goroutine of its own until it returns; the
// response is handed out with its first byte or flush, so that watches stream.
//
// A write that has begun is carried through although its client leaves, as most do when the process ends:
// the client cannot know how far it got, and the machinery would take it for a server that is too slow.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	select {
	case <-t.door.opened:
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	var base context.Context = bare{req.Context()}
	if isWrite(req) {
		base = context.WithoutCancel(base)
	}
	ctx, cancel := context.WithCancel(context.WithValue(base, userKey{}, t.user))
	served := req.Clone(ctx)
	served.RequestURI = req.URL.RequestURI()
	served.RemoteAddr = "127.0.0.1:0"
	served.Proto, served.ProtoMajor, served.ProtoMinor = "HTTP/2.0", 2, 0
	if served.Body == nil {
		served.Body = http.NoBody
	}
	w := newResponse(req, cancel)
	go func() {
		defer func() {
			if p := recover(); p != nil { // as net/http does: the request is lost, the server is not
				w.abort(errAborted)
			}
			_ = served.Body.Close()
			w.finish()
			cancel()
		}()
		t.door.handler.ServeHTTP(w, served)
	}()
	select {
	case <-w.ready:
		return w.result, nil
	case <-req.Context().Done():
		select {
		case <-w.ready: // an answer counts more than that the client leaves just now
			return w.result, nil
		default:
		}
		w.leave(req.Context().Err())
		return nil, context.Cause(req.Context())
	}
}

// bare is a context without values: what is known of a request must not be taken for that of another one that was made
// while answering it. (Audit would write the inner one's authorization into the outer one's record.)
type bare struct{ context.Context }

func (bare) Value(any) any { return nil }

// AfterFunc spares package context a goroutine for each context that is made of this one.
func (b bare) AfterFunc(f func()) func() bool { return context.AfterFunc(b.Context, f) }

// isWrite tells the requests that change objects from those that read, and from streams.
func isWrite(req *http.Request) bool {
	return req.Method != http.MethodGet && req.Method != http.MethodHead && req.Header.Get("Upgrade") == ""
}

var errAborted = errors.New("in-process request: the handler aborted")

// response is the handler's http.ResponseWriter and the client's body in one.
type response struct {
	cancel context.CancelFunc
	result *http.Response
	ready  chan struct{} // closed once result may be read
	header http.Header   // the handler's own: only its goroutine may look at it

	mu     sync.Mutex // guards what follows
	cond   sync.Cond
	buf    []byte // written and not yet read
	sent   bool   // headers are out
	done   bool   // the handler has returned
	closed bool   // the client has closed the body
	err    error
}

func newResponse(req *http.Request, cancel context.CancelFunc) *response {
	w := &response{cancel: cancel, ready: make(chan struct{}), header: http.Header{}}
	w.cond.L = &w.mu
	w.result = &http.Response{Proto: "HTTP/2.0", ProtoMajor: 2, Request: req, Body: w, ContentLength: -1}
	return w
}

func (w *response) Header() http.Header { return w.header }

func (w *response) WriteHeader(code int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHeader(code)
}

func (w *response) writeHeader(code int) {
	if w.sent || code < http.StatusOK {
		return
	}
	w.sent = true
	w.result.StatusCode = code
	w.result.Status = http.StatusText(code)
	w.result.Header = w.header.Clone()
	close(w.ready)
}

// maxBuffered is how far a handler may run ahead of a client that does not read, in bytes.
const maxBuffered = 1 << 20

func (w *response) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHeader(http.StatusOK)
	for len(w.buf) > maxBuffered && !w.closed {
		w.cond.Wait()
	}
	if w.closed && isWrite(w.result.Request) {
		return len(p), nil // it is done, and nobody wants to know
	}
	if w.closed {
		return 0, http.ErrAbortHandler
	}
	w.buf = append(w.buf, p...)
	w.cond.Broadcast()
	return len(p), nil
}

// Flush sends the headers; what is written is there at once anyway.
func (w *response) Flush() { w.WriteHeader(http.StatusOK) }

// CloseNotify implements http.CloseNotifier, by which the machinery tells a writer that can stream.
func (w *response) CloseNotify() <-chan bool {
	gone := make(chan bool, 1)
	context.AfterFunc(w.result.Request.Context(), func() { gone <- true })
	return gone
}

func (w *response) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHeader(http.StatusOK)
	w.done = true
	w.cond.Broadcast()
}

// abort ends a response that the handler did not finish.
func (w *response) abort(err error) {
	w.mu.Lock()
	w.writeHeader(http.StatusInternalServerError)
	w.mu.Unlock()
	w.leave(err)
}

// leave drops what the handler still writes. The client has gone, and gets no headers.
func (w *response) leave(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	w.closed = true
	w.cond.Broadcast()
}

func (w *response) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.buf) == 0 && !w.done && !w.closed {
		w.cond.Wait()
	}
	if len(w.buf) > 0 {
		n := copy(p, w.buf)
		w.buf = w.buf[n:]
		if len(w.buf) == 0 {
			w.buf = nil
		}
		w.cond.Broadcast()
		return n, nil
	}
	if w.err != nil {
		return 0, w.err
	}
	return 0, io.EOF
}

// Close ends the request, as a client that goes away does.
func (w *response) Close() error {
	w.mu.Lock()
	w.closed = true
	w.buf = nil
	w.cond.Broadcast()
	w.mu.Unlock()
	if !isWrite(w.result.Request) {
		w.cancel()
	}
	return nil
}
