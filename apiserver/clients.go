// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"errors"
	"io"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/endpoints/request"
)

const (
	// slowest is for how long a body may still come after the time of its request is over: not to be the first to
	// notice. By HTTP/1.1 the answer waits for that.
	slowest = time.Second
	// lastWords is how long the answer to a request that took too long may take to get to its client.
	lastWords = 5 * time.Second
)

// cutOff ends the requests of clients that are too slow: who does not send the rest of a body, or does not read
// what was asked for. The machinery answers a request that takes longer than limit, whoever is at fault, but
// without a deadline of the connection its goroutines would wait for such a client for ever.
func cutOff(handler http.Handler, limit time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil { // clients in this process have no connection
			now := time.Now()
			setDeadlines(w, now.Add(limit+slowest), now.Add(limit+lastWords))
		}
		handler.ServeHTTP(w, r)
	})
}

// exceptLongRunning lifts the deadlines for those that may have what takes long: it comes after authorization. Of
// all others it sees that a body that breaks off is the client's fault.
func exceptLongRunning(handler http.Handler, longRunning request.LongRunningRequestCheck) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if info, ok := request.RequestInfoFrom(r.Context()); ok && longRunning(r, info) {
			if r.TLS != nil {
				setDeadlines(w, time.Time{}, time.Time{})
			}
		} else if r.Body != nil && r.Body != http.NoBody {
			r.Body = sent{r.Body}
			if ok {
				refuseDeep(r, info)
			}
		}
		handler.ServeHTTP(w, r)
	})
}

// setDeadlines works on every connection of net/http, and a response that has none needs no deadlines.
func setDeadlines(w http.ResponseWriter, read, write time.Time) {
	c := http.NewResponseController(w)
	_, _ = c.SetReadDeadline(read), c.SetWriteDeadline(write)
}

// sent is the body of a request. The machinery would take an error of its connection for one of its own.
type sent struct{ io.ReadCloser }

func (s sent) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = apierrors.NewBadRequest("read the body of the request: " + err.Error())
	}
	return n, err
}
