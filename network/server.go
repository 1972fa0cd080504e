// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/network/policy"
)

// Error codes of the CNI specification.
const (
	codeIncompatibleVersion = 1
	codeUnknownContainer    = 3
	codeInvalidEnvironment  = 4
	codeDecode              = 6
	codeTryAgain            = 11
	codeUnavailable         = 50
	codeInternal            = 999
)

var supportedVersions = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// A call takes milliseconds; a client that does not finish its request is cut off.
const (
	requestTimeout = 10 * time.Second
	maxRequestSize = 4 << 20
)

// request is one execution of the plugin.
type request struct {
	env    map[string]string
	config config
}

func (r *request) command() string     { return r.env["CNI_COMMAND"] }
func (r *request) containerID() string { return r.env["CNI_CONTAINERID"] }
func (r *request) ifname() string      { return r.env["CNI_IFNAME"] }
func (r *request) netns() string       { return r.env["CNI_NETNS"] }

// pod returns the pod that the runtime names in CNI_ARGS, as every Kubernetes runtime does.
func (r *request) pod() policy.Pod {
	args := map[string]string{}
	for arg := range strings.SplitSeq(r.env["CNI_ARGS"], ";") {
		name, value, _ := strings.Cut(arg, "=")
		args[name] = value
	}
	return policy.Pod{Namespace: args["K8S_POD_NAMESPACE"], Name: args["K8S_POD_NAME"], UID: args["K8S_POD_UID"]}
}

// config is what we read of the plugin's standard input.
type config struct {
	CNIVersion    string `json:"cniVersion"`
	RuntimeConfig struct {
		PortMappings []portMapping `json:"portMappings"`
		Bandwidth    *bandwidth    `json:"bandwidth"`
	} `json:"runtimeConfig"`
	ValidAttachments []struct {
		ContainerID string `json:"containerID"`
		IfName      string `json:"ifname"`
	} `json:"cni.dev/valid-attachments"`
}

// bandwidth holds limits in bits per second, and bursts in bits, seen from the pod.
type bandwidth struct {
	IngressRate  uint64 `json:"ingressRate"`
	IngressBurst uint64 `json:"ingressBurst"`
	EgressRate   uint64 `json:"egressRate"`
	EgressBurst  uint64 `json:"egressBurst"`
}

// cniError is the error object of the specification.
type cniError struct {
	CNIVersion string `json:"cniVersion"`
	Code       int    `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details,omitempty"`
}

func (e *cniError) Error() string { return e.Msg }

// result is the answer to ADD.
type result struct {
	CNIVersion string            `json:"cniVersion"`
	Interfaces []resultInterface `json:"interfaces"`
	IPs        []resultIP        `json:"ips"`
	Routes     []resultRoute     `json:"routes"`
	DNS        struct{}          `json:"dns"`
}

type resultInterface struct {
	Name    string `json:"name"`
	MAC     string `json:"mac"`
	MTU     int    `json:"mtu,omitempty"`
	Sandbox string `json:"sandbox,omitempty"`
}

type resultIP struct {
	Version   string       `json:"version,omitempty"` // before CNI 1.0.0
	Address   netip.Prefix `json:"address"`
	Gateway   netip.Addr   `json:"gateway"`
	Interface int          `json:"interface"`
}

type resultRoute struct {
	Dst netip.Prefix `json:"dst"`
	GW  netip.Addr   `json:"gw"`
}

// listen opens the plugin's socket for root only, replacing the one of an earlier process.
func listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}

// serve answers connections until the listener is closed, and returns after the last answer.
func (n *Network) serve(ctx context.Context, listener net.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			klog.FromContext(ctx).Error(err, "Accept a call of the CNI plugin")
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond): // e.g. no file descriptors left
				continue
			}
		}
		wg.Go(func() {
			defer conn.Close()
			n.answer(ctx, conn)
		})
	}
}

func (n *Network) answer(ctx context.Context, conn net.Conn) {
	conn.SetDeadline(time.Now().Add(requestTimeout))
	data, err := io.ReadAll(io.LimitReader(conn, maxRequestSize))
	if err != nil {
		return // the plugin has gone
	}
	start := time.Now()
	req, err := parseRequest(data)
	var reply any
	if err == nil {
		reply, err = n.dispatch(ctx, req)
	}
	logger := klog.FromContext(ctx).WithValues("command", req.command(), "containerID", req.containerID(), "elapsed", time.Since(start))
	exitCode := byte(0)
	if err != nil {
		logger.Error(err, "CNI call failed")
		exitCode = 1
		failure := &cniError{}
		if !errors.As(err, &failure) {
			failure = &cniError{Code: codeInternal, Msg: err.Error()}
		}
		failure.CNIVersion = req.config.CNIVersion
		reply = failure
	} else {
		logger.V(4).Info("CNI call")
	}
	out := []byte{exitCode}
	if reply != nil {
		text, err := json.Marshal(reply)
		if err != nil {
			logger.Error(err, "Encode CNI answer")
			return
		}
		out = append(append(out, text...), '\n')
	}
	conn.SetDeadline(time.Now().Add(requestTimeout))
	conn.Write(out) // when it fails the plugin has gone, and the runtime calls DEL
}

// parseRequest decodes what network/thincni sends. The request it returns is never nil.
func parseRequest(data []byte) (*request, error) {
	req := &request{env: map[string]string{}}
	for {
		variable, rest, found := bytes.Cut(data, []byte{0})
		if !found {
			return req, &cniError{Code: codeDecode, Msg: "request has no end of environment"}
		}
		data = rest
		if len(variable) == 0 {
			break
		}
		name, value, _ := strings.Cut(string(variable), "=")
		req.env[name] = value
	}
	if len(bytes.TrimSpace(data)) == 0 && req.command() == "VERSION" {
		return req, nil
	}
	if err := json.Unmarshal(data, &req.config); err != nil {
		return req, &cniError{Code: codeDecode, Msg: "decode network configuration: " + err.Error()}
	}
	return req, nil
}

var (
	containerIDPattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`) // of the specification
	ifnamePattern      = regexp.MustCompile(`^[^/:\s]{1,15}$`)
)

func (n *Network) dispatch(ctx context.Context, req *request) (any, error) {
	command := req.command()
	if command == "VERSION" {
		return map[string]any{"cniVersion": "1.1.0", "supportedVersions": supportedVersions}, nil
	}
	if !slices.Contains(supportedVersions, req.config.CNIVersion) {
		return nil, &cniError{Code: codeIncompatibleVersion, Msg: fmt.Sprintf("CNI version %q is not supported", req.config.CNIVersion),
			Details: "supported are " + strings.Join(supportedVersions, ", ")}
	}
	switch command {
	case "STATUS":
		return nil, n.status()
	case "GC":
		return nil, n.collect(ctx, req)
	}
	if !containerIDPattern.MatchString(req.containerID()) {
		return nil, &cniError{Code: codeInvalidEnvironment, Msg: "CNI_CONTAINERID is not valid"}
	}
	if name := req.ifname(); !ifnamePattern.MatchString(name) || name == "." || name == ".." {
		return nil, &cniError{Code: codeInvalidEnvironment, Msg: "CNI_IFNAME is not valid"}
	}
	if req.netns() == "" && command != "DEL" {
		return nil, &cniError{Code: codeInvalidEnvironment, Msg: "CNI_NETNS is missing"}
	}
	switch command {
	case "ADD":
		return n.add(ctx, req)
	case "DEL":
		if a := n.attachments.get(req.containerID(), req.ifname()); a != nil {
			return nil, n.remove(ctx, a)
		}
		return nil, nil // DEL of what is not there succeeds
	case "CHECK":
		return nil, n.check(req)
	}
	return nil, &cniError{Code: codeInvalidEnvironment, Msg: fmt.Sprintf("CNI_COMMAND %q is not known", command)}
}

func (n *Network) status() error {
	if n.current() == nil {
		return &cniError{Code: codeUnavailable, Msg: errNoCIDR.Error()}
	}
	return nil
}

// add gives the pod its addresses, interface, routes and host ports; all of them or none.
func (n *Network) add(ctx context.Context, req *request) (*result, error) {
	a := &attachment{
		ContainerID: req.containerID(),
		Interface:   req.ifname(),
		Netns:       req.netns(),
		HostVeth:    vethName(req.containerID(), req.ifname()),
		Pod:         req.pod(),
		Ports:       usablePorts(req.config.RuntimeConfig.PortMappings),
	}
	err := n.attachments.allocate(a)
	if errors.Is(err, errNoCIDR) || errors.Is(err, errFull) {
		return nil, &cniError{Code: codeTryAgain, Msg: err.Error()}
	}
	if err != nil {
		return nil, err
	}
	links, err := n.plug(ctx, a, req.config.RuntimeConfig.Bandwidth)
	if err != nil {
		if undo := n.remove(ctx, a); undo != nil {
			err = errors.Join(err, fmt.Errorf("undo: %w", undo))
		}
		return nil, err
	}
	return newResult(req.config.CNIVersion, n.cfg.Bridge, a, n.current(), links), nil
}

func (n *Network) plug(ctx context.Context, a *attachment, limits *bandwidth) (*plugged, error) {
	if n.cfg.Policy != nil {
		if err := n.cfg.Policy.Add(ctx, a.Pod, a.Addresses); err != nil {
			return nil, fmt.Errorf("isolate container %s: %w", a.ContainerID, err)
		}
	}
	links, err := plugVeth(n.cfg.Bridge, a, n.current())
	if err != nil {
		return nil, fmt.Errorf("attach container %s: %w", a.ContainerID, err)
	}
	if limits != nil {
		if err := limitBandwidth(a, limits); err != nil {
			return nil, fmt.Errorf("limit bandwidth of container %s: %w", a.ContainerID, err)
		}
	}
	if len(a.Ports) > 0 {
		if err := n.rules.setPorts(ctx, n.attachments.withPorts); err != nil {
			return nil, fmt.Errorf("open host ports of container %s: %w", a.ContainerID, err)
		}
		clearUDPFlows(a.Ports)
	}
	return links, nil
}

// remove takes an attachment down. The addresses are given back last, when nothing uses them any more.
func (n *Network) remove(ctx context.Context, a *attachment) error {
	if err := removeLink(a.HostVeth); err != nil {
		return fmt.Errorf("remove interface of container %s: %w", a.ContainerID, err)
	}
	if len(a.Ports) > 0 {
		rest := func() []*attachment {
			return slices.DeleteFunc(n.attachments.withPorts(), func(other *attachment) bool { return other == a })
		}
		if err := n.rules.setPorts(ctx, rest); err != nil {
			return fmt.Errorf("close host ports of container %s: %w", a.ContainerID, err)
		}
		clearUDPFlows(a.Ports)
	}
	if n.cfg.Policy != nil {
		if err := n.cfg.Policy.Remove(ctx, a.Addresses); err != nil {
			return fmt.Errorf("end the isolation of container %s: %w", a.ContainerID, err)
		}
	}
	return n.attachments.release(a)
}

// check verifies that what ADD made is still there.
func (n *Network) check(req *request) error {
	a := n.attachments.get(req.containerID(), req.ifname())
	if a == nil {
		return &cniError{Code: codeUnknownContainer, Msg: fmt.Sprintf("container %s has no interface %s of this network", req.containerID(), req.ifname())}
	}
	return checkVeth(a)
}

// collect removes all attachments that the runtime does not know any more.
func (n *Network) collect(ctx context.Context, req *request) error {
	valid := map[string]bool{}
	for _, attachment := range req.config.ValidAttachments {
		valid[attachmentKey(attachment.ContainerID, attachment.IfName)] = true
	}
	var errs []error
	for _, a := range n.attachments.all(func(a *attachment) bool { return !valid[a.key()] }) {
		errs = append(errs, n.remove(ctx, a))
	}
	return errors.Join(errs...)
}

// usablePorts drops mappings without a host port and settles the protocol's spelling.
func usablePorts(mappings []portMapping) []portMapping {
	var ports []portMapping
	for _, m := range mappings {
		if m.HostPort == 0 {
			continue
		}
		m.Protocol = strings.ToLower(m.Protocol)
		if m.Protocol == "" {
			m.Protocol = "tcp"
		}
		ports = append(ports, m)
	}
	return ports
}

func newResult(version, bridge string, a *attachment, cidrs []netip.Prefix, links *plugged) *result {
	res := &result{
		CNIVersion: version,
		Interfaces: []resultInterface{
			{Name: bridge, MAC: links.bridgeMAC, MTU: links.mtu},
			{Name: a.HostVeth, MAC: links.hostMAC, MTU: links.mtu},
			{Name: a.Interface, MAC: links.podMAC, MTU: links.mtu, Sandbox: a.Netns},
		},
		Routes: []resultRoute{},
	}
	if version != "1.1.0" { // mtu came with 1.1.0
		for i := range res.Interfaces {
			res.Interfaces[i].MTU = 0
		}
	}
	for _, addr := range a.Addresses {
		gw := gatewayFor(addr, cidrs)
		ip := resultIP{Address: netip.PrefixFrom(addr, addr.BitLen()), Gateway: gw, Interface: 2}
		if strings.HasPrefix(version, "0.") {
			ip.Version = map[bool]string{true: "4", false: "6"}[addr.Is4()]
		}
		res.IPs = append(res.IPs, ip)
		res.Routes = append(res.Routes, resultRoute{Dst: defaultRoute(addr), GW: gw})
	}
	return res
}

// defaultRoute is the destination of a default route in the family of addr.
func defaultRoute(addr netip.Addr) netip.Prefix {
	if addr.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// gatewayFor returns the gateway of the CIDR that addr is from.
func gatewayFor(addr netip.Addr, cidrs []netip.Prefix) netip.Addr {
	for _, cidr := range cidrs {
		if cidr.Contains(addr) {
			return gateway(cidr)
		}
	}
	return netip.Addr{}
}
