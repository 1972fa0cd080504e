// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

const (
	echoPort        = 8080 // of the pod behind all Services that are measured
	otherPort       = 8081 // of the same
	endpointsEach   = 5    // of the Services that are only there
	requests        = 300  // of which the median counts
	servicePatience = 10 * time.Minute
	clusterDNS      = "10.43.0.10:53"
)

// services measures how soon Services work, with so many others there, in a real kernel; and what a request costs through
// one. From the node itself, whose connections take the same rules as those of its pods.
func services(ctx context.Context, o options, r *results) error {
	h, err := newHost(o)
	if err != nil {
		return err
	}
	defer h.close()
	h.flags = []string{"--proxy-mode", o.proxyMode}
	if _, err := h.start(ctx); err != nil {
		return err
	}
	client, err := h.client()
	if err != nil {
		return err
	}
	pod, err := startEcho(ctx, h, client)
	if err != nil {
		return err
	}
	s := &serviceBench{host: h, client: client, results: r, pod: pod}
	there := 0
	for _, n := range o.services {
		if n < there {
			return errors.New("--services must be ascending")
		}
		if err := s.fill(ctx, there, n); err != nil {
			return err
		}
		there = n
		if err := s.measure(ctx, n); err != nil {
			return fmt.Errorf("with %d Services: %w", n, err)
		}
	}
	_, err = h.stop(ctx)
	return err
}

type serviceBench struct {
	host    *host
	client  kubernetes.Interface
	results *results
	pod     string // address of the echo
}

// startEcho starts a pod, and in its network a server of ours that sends back what it gets, at both ports. At otherPort it
// puts an X before.
func startEcho(ctx context.Context, h *host, client kubernetes.Interface) (string, error) {
	address, err := startLabelled(ctx, h, client)
	if err != nil {
		return "", err
	}
	for port, greeting := range map[int]string{echoPort: "", otherPort: "X"} {
		l, err := listenInPod(ctx, h, port)
		if err != nil {
			return "", fmt.Errorf("listen in the pod: %w", err)
		}
		h.Cleanup(func() { l.Close() })
		go echo(l, greeting)
	}
	return address, nil
}

// startLabelled starts the pod that Services are for, and returns its address.
func startLabelled(ctx context.Context, h *host, client kubernetes.Interface) (string, error) {
	create := func(ctx context.Context, _ *host, client kubernetes.Interface, name string) error {
		pod := sleeper(name)
		pod.Labels = map[string]string{"app": "echo"}
		_, err := client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, pod, metav1.CreateOptions{})
		return err
	}
	if err := startPod(ctx, h, client, "echo", create); err != nil {
		return "", fmt.Errorf("start the pod: %w", err)
	}
	pod, err := client.CoreV1().Pods(metav1.NamespaceDefault).Get(ctx, "echo", metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return pod.Status.PodIP, nil
}

// listenInPod waits for the pod's process, which may be about to be started.
func listenInPod(ctx context.Context, h *host, port int) (net.Listener, error) {
	for deadline := time.Now().Add(patience); ; {
		l, err := h.ListenBeside("sleep", "tcp", fmt.Sprintf(":%d", port))
		if err == nil || time.Now().After(deadline) {
			return l, err
		}
		if err := wait(ctx, 1); err != nil {
			return nil, err
		}
	}
}

func echo(l net.Listener, greeting string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // closed
		}
		go func() {
			defer conn.Close()
			if _, err := io.WriteString(conn, greeting); err == nil {
				_, _ = io.Copy(conn, conn) // until the client is done
			}
		}()
	}
}

// fill creates Services from..to-1, each with endpoints that nobody asks.
func (s *serviceBench) fill(ctx context.Context, from, to int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(clients)
	for i := from; i < to; i++ {
		group.Go(func() error {
			name := fmt.Sprintf("other-%05d", i)
			if _, err := s.create(ctx, name, nil); err != nil {
				return err
			}
			var addresses []string
			for e := range endpointsEach {
				n := i*endpointsEach + e
				addresses = append(addresses, fmt.Sprintf("10.42.%d.%d", 100+n/250%100, 1+n%250))
			}
			return s.lead(ctx, name, echoPort, addresses...)
		})
	}
	return group.Wait()
}

// create makes a Service for the pods with a label, or for endpoints to come, and returns its address.
func (s *serviceBench) create(ctx context.Context, name string, selector map[string]string) (string, error) {
	service, err := s.client.CoreV1().Services(metav1.NamespaceDefault).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Selector: selector,
			Ports:    []corev1.ServicePort{{Name: "echo", Port: 80, TargetPort: intstr.FromInt32(echoPort)}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(service.Spec.ClusterIP, "80"), nil
}

// lead makes these the endpoints of a Service without a selector.
func (s *serviceBench) lead(ctx context.Context, name string, port int32, addresses ...string) error {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("echo"), Port: &port, Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for _, address := range addresses {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{address}})
	}
	slices := s.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	_, err := slices.Create(ctx, slice, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = slices.Update(ctx, slice, metav1.UpdateOptions{})
	}
	return err
}

// measure takes the figures while n other Services are there.
func (s *serviceBench) measure(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, servicePatience, fmt.Errorf("not done after %s", servicePatience))
	defer cancel()
	if err := s.settle(ctx); err != nil {
		return err
	}
	var answered, named, changed []time.Duration
	before, err := s.cpu()
	if err != nil {
		return err
	}
	for i := range s.host.options.runs {
		name := fmt.Sprintf("probe-%d", i)
		begin := time.Now()
		address, err := s.create(ctx, name, map[string]string{"app": "echo"})
		if err != nil {
			return err
		}
		var byName time.Duration
		group, groupCtx := errgroup.WithContext(ctx)
		group.Go(func() (err error) { byName, err = s.awaitName(groupCtx, name, begin); return err })
		if err := s.awaitAnswer(ctx, address, "o"); err != nil {
			return err
		}
		answered = append(answered, time.Since(begin))
		if err := group.Wait(); err != nil {
			return err
		}
		named = append(named, byName)
		took, err := s.change(ctx, fmt.Sprintf("changing-%d-%d", n, i))
		if err != nil {
			return err
		}
		changed = append(changed, took)
		if err := s.client.CoreV1().Services(metav1.NamespaceDefault).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return err
		}
		if err := wait(ctx, 1); err != nil { // a quiet time, as between most changes
			return err
		}
	}
	after, err := s.cpu()
	if err != nil {
		return err
	}
	mode, r := s.host.options.proxyMode, s.results
	key, with := fmt.Sprintf("%s-%d", mode, n), fmt.Sprintf("%s, %d Services: ", mode, n)
	r.seconds("service-answer-"+key, with+"create a Service until a connection is answered", answered, budget{later: 0.1})
	r.seconds("service-name-"+key, "  until its name is answered", named, budget{later: 0.1})
	r.seconds("service-endpoint-"+key, "  change an endpoint until connections go there", changed, noBudget)
	rounds := float64(s.host.options.runs)
	r.add("service-cpu-"+key, "  CPU per round of these (5 changes), all processes", (after.total-before.total).Seconds()*1000/rounds, "ms", noBudget)
	r.add("service-kernel-"+key, "    of which in the kernel", (after.kernel-before.kernel).Seconds()*1000/rounds, "ms", noBudget)
	if err := s.requests(ctx, key, with); err != nil {
		return err
	}
	return s.names(ctx, key)
}

// used is processor time, and how much of it went by in the kernel.
type used struct{ total, kernel time.Duration }

// cpu is what the server and the commands that it has run have used.
func (s *serviceBench) cpu() (used, error) {
	p, err := usage(s.host.server.PID())
	return used{p.cpu + p.children, p.kernel}, err
}

// settle waits until the server has nothing more to do than usual.
func (s *serviceBench) settle(ctx context.Context) error {
	for quiet := 0; quiet < 3; {
		before, err := s.cpu()
		if err != nil {
			return err
		}
		if err := wait(ctx, 1); err != nil {
			return err
		}
		after, err := s.cpu()
		if err != nil {
			return err
		}
		if quiet++; after.total-before.total > 100*time.Millisecond {
			quiet = 0
		}
	}
	return nil
}

// ask sends something to an echo and returns what comes back first.
func (s *serviceBench) ask(ctx context.Context, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := s.host.Dial(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "o"); err != nil {
		return "", err
	}
	var first [1]byte
	_, err = io.ReadFull(conn, first[:])
	return string(first[:]), err
}

// awaitAnswer asks until the answer is want. It does not wait for one question before it asks the next: what was sent
// before there were rules is lost, and TCP sends it again only after a second.
func (s *serviceBench) awaitAnswer(ctx context.Context, address, want string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		text string
		err  error
	}
	answers, waiting := make(chan answer), make(chan struct{}, 200)
	var last error
	ask := time.NewTicker(lookAgain)
	defer ask.Stop()
	for {
		select {
		case <-ask.C:
			select {
			case waiting <- struct{}{}:
			default:
				continue // enough for now
			}
			go func() {
				text, err := s.ask(ctx, address)
				<-waiting
				select {
				case answers <- answer{text, err}:
				case <-ctx.Done():
				}
			}()
		case a := <-answers:
			if last = a.err; last == nil && a.text == want {
				return nil
			}
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), last)
		}
	}
}

// awaitName asks the node's DNS for a Service until it is there, and returns how long that is after begin.
func (s *serviceBench) awaitName(ctx context.Context, service string, begin time.Time) (time.Duration, error) {
	question := new(dns.Msg).SetQuestion(service+".default.svc.cluster.local.", dns.TypeA)
	client := &dns.Client{Timeout: time.Second}
	for {
		conn, err := s.host.Dial(ctx, "udp", clusterDNS)
		var answer *dns.Msg
		if err == nil {
			answer, _, err = client.ExchangeWithConnContext(ctx, question, &dns.Conn{Conn: conn})
			conn.Close()
		}
		if err == nil && len(answer.Answer) > 0 {
			return time.Since(begin), nil
		}
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return 0, errors.Join(context.Cause(ctx), err)
		}
	}
}

// names asks for a name of the cluster, with as many questions at once as bring most answers.
func (s *serviceBench) names(ctx context.Context, key string) error {
	const askers, window = 64, 2 * time.Second
	var answers atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	begin := time.Now()
	for range askers {
		group.Go(func() error {
			conn, err := s.host.Dial(ctx, "udp", clusterDNS)
			if err != nil {
				return err
			}
			defer conn.Close()
			client, question := &dns.Client{Timeout: time.Second}, new(dns.Msg).SetQuestion("kubernetes.default.svc.cluster.local.", dns.TypeA)
			for time.Since(begin) < window {
				answer, _, err := client.ExchangeWithConnContext(ctx, question, &dns.Conn{Conn: conn})
				if err != nil {
					return fmt.Errorf("ask for a name: %w", err)
				}
				if len(answer.Answer) == 0 {
					return errors.New("a name of the cluster is not known")
				}
				answers.Add(1)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	s.results.add("names-"+key, "  answers for names, by the node's DNS (aim: 20,000)", float64(answers.Load())/time.Since(begin).Seconds(), "/s", noBudget)
	return nil
}

// change moves a Service from one endpoint to another, and returns how long it takes until connections follow.
func (s *serviceBench) change(ctx context.Context, name string) (time.Duration, error) {
	address, err := s.create(ctx, name, nil)
	if err != nil {
		return 0, err
	}
	if err := s.lead(ctx, name, echoPort, s.pod); err != nil {
		return 0, err
	}
	if err := s.awaitAnswer(ctx, address, "o"); err != nil {
		return 0, err
	}
	if err := wait(ctx, 1); err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := s.lead(ctx, name, otherPort, s.pod); err != nil {
		return 0, err
	}
	if err := s.awaitAnswer(ctx, address, "X"); err != nil {
		return 0, err
	}
	took := time.Since(begin)
	return took, s.client.CoreV1().Services(metav1.NamespaceDefault).Delete(ctx, name, metav1.DeleteOptions{})
}

// requests measures what a Service costs its clients: beside each request that takes its address goes one to the pod.
func (s *serviceBench) requests(ctx context.Context, key, with string) error {
	address, err := s.create(ctx, "requests", map[string]string{"app": "echo"})
	if err != nil {
		return err
	}
	if err := s.awaitAnswer(ctx, address, "o"); err != nil {
		return err
	}
	direct := net.JoinHostPort(s.pod, fmt.Sprint(echoPort))
	var through, straight []time.Duration
	for range requests {
		for to, took := range map[string]*[]time.Duration{address: &through, direct: &straight} {
			begin := time.Now()
			if _, err := s.ask(ctx, to); err != nil {
				return err
			}
			*took = append(*took, time.Since(begin))
		}
	}
	s.results.add("request-service-"+key, with+"a connection and an answer, by the Service", median(through).Seconds()*1e6, "µs", noBudget)
	s.results.add("request-pod-"+key, "  by the pod's address", median(straight).Seconds()*1e6, "µs", noBudget)
	for _, to := range []struct{ key, name, address string }{
		{"throughput-service-", "  there and back by the Service", address}, {"throughput-pod-", "  by the pod's address", direct},
	} {
		rate, err := s.throughput(ctx, to.address)
		if err != nil {
			return err
		}
		s.results.add(to.key+key, to.name, rate/mega, "MB/s", noBudget)
	}
	return s.client.CoreV1().Services(metav1.NamespaceDefault).Delete(ctx, "requests", metav1.DeleteOptions{})
}

// throughput sends for two seconds and returns the bytes that came back, per second.
func (s *serviceBench) throughput(ctx context.Context, address string) (float64, error) {
	conn, err := s.host.Dial(ctx, "tcp", address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	begin := time.Now()
	if err := conn.SetDeadline(begin.Add(2 * time.Second)); err != nil {
		return 0, err
	}
	go func() {
		data := make([]byte, 128<<10)
		for {
			if _, err := conn.Write(data); err != nil {
				return // time is up
			}
		}
	}()
	n, err := io.Copy(io.Discard, conn)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, err
	}
	return float64(n) / time.Since(begin).Seconds(), nil
}
