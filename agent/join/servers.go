// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/util/connrotation"
	"k8s.io/klog/v2"
)

const (
	serverPatience = 5 * time.Second // with one of several servers
	defaultPort    = "6443"
)

// servers are where the API is, as host:port. Clients dial whichever answers.
type servers struct {
	file   string // where the list outlives the process
	dialer *connrotation.Dialer

	mu      sync.Mutex
	saved   bool          // the file has the members of all
	all     []string      // the one that answered last comes first; never empty
	former  []string      // those that the cluster did not name any more, the latest first: tried when no other answers
	inUse   string        // tried first; empty before any has answered
	changed chan struct{} // closed, and made anew, when all has other members
}

// newServers knows the servers of an earlier run, and the one that a person named, which comes first.
func newServers(file, named string) (*servers, error) {
	s := &servers{file: file, changed: make(chan struct{})}
	s.dialer = connrotation.NewDialer(s.dial)
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &s.all)
		s.saved = err == nil && (named == "" || slices.Contains(s.all, named))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the list of servers: %w", err)
	}
	if named != "" {
		s.all = slices.Insert(slices.DeleteFunc(s.all, func(a string) bool { return a == named }), 0, named)
	}
	if len(s.all) == 0 {
		return nil, errors.New("this machine has not joined a cluster yet (give --server and --token; skiff token create, on a server, prints them)")
	}
	return s, nil
}

// parseServer reads https://host:port, of which the port may be left out.
func parseServer(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Path != "" && u.Path != "/" {
		return "", fmt.Errorf("%q is not like https://192.0.2.1:6443 (change --server)", text)
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// dial tries the servers until one answers. Which address was asked for means nothing.
func (s *servers) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	all := s.list()
	var errs []error
	for _, address := range all {
		patient, cancel := ctx, func() {}
		if len(all) > 1 {
			patient, cancel = context.WithTimeout(ctx, serverPatience)
		}
		conn, err := (&net.Dialer{}).DialContext(patient, network, address)
		cancel()
		if err == nil {
			s.prefer(address)
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// list is in the order in which they are tried: the one in use, and on from there.
func (s *servers) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.Concat(s.all, s.former)
	first := max(0, slices.Index(list, s.inUse))
	return slices.Concat(list[first:], list[:first])
}

// prefer puts an address first, if it is still there.
func (s *servers) prefer(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inUse = address
	if i := slices.Index(s.all, address); i > 0 { // a former one stays what it is until the cluster names it
		s.all = slices.Insert(slices.Delete(slices.Clone(s.all), i, i+1), 0, address)
	}
}

// use has what follows go to a server, and closes the connections to the one before.
func (s *servers) use(address string) {
	s.mu.Lock()
	s.inUse = address
	s.mu.Unlock()
	s.dialer.CloseAll()
}

// maxFormer are remembered. A server that is away for a moment, as all but one may be, is not named by the last one.
const maxFormer = 8

// learn takes over what the cluster says about its servers. It never forgets all of them.
func (s *servers) learn(ctx context.Context, slice *discoveryv1.EndpointSlice) {
	var now []string
	for _, endpoint := range slice.Endpoints {
		for _, address := range endpoint.Addresses {
			for _, port := range slice.Ports {
				if _, err := netip.ParseAddr(address); err == nil && port.Port != nil {
					now = append(now, net.JoinHostPort(address, strconv.Itoa(int(*port.Port))))
				}
			}
		}
	}
	if len(now) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(slices.Sorted(slices.Values(now)), slices.Sorted(slices.Values(s.all))) {
		slices.SortStableFunc(now, func(a, b string) int { return rank(s.all, a) - rank(s.all, b) })
		s.former = slices.DeleteFunc(slices.Concat(s.all, s.former), func(a string) bool { return slices.Contains(now, a) })
		s.former = s.former[:min(len(s.former), maxFormer)]
		s.all, s.saved = now, false
		close(s.changed)
		s.changed = make(chan struct{})
	}
	if s.saved {
		return
	}
	if err := s.save(); err != nil {
		klog.FromContext(ctx).Error(err, "Writing the list of servers") // it is learnt again at the next start
	}
}

// remember keeps the list for the next start.
func (s *servers) remember() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.save()
}

// save keeps the list for the next start. The caller holds mu.
func (s *servers) save() error {
	data, err := json.Marshal(slices.Concat(s.all, s.former))
	if err == nil {
		err = os.WriteFile(s.file, data, 0o600)
	}
	s.saved = err == nil
	return err
}

// rank is an address's place in a list, after all if it has none.
func rank(list []string, address string) int {
	if i := slices.Index(list, address); i >= 0 {
		return i
	}
	return len(list)
}

// watch returns the list, and what is closed when it changes.
func (s *servers) watch() ([]string, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all), s.changed
}
