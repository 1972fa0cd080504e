// SPDX-License-Identifier: Apache-2.0

// Command hostpathplugin stands in for the CSI driver of the same name (kubernetes-csi/csi-driver-host-path), which upstream's tests
// install beside the real sidecars. Its volumes are directories of one node, or files behind loop devices. It holds its caller
// strictly to the order of calls that CSI prescribes, logs them as the tests expect it, and takes the flags that they give.
//
// With --proxy-endpoint it is no driver but the way to one that runs inside e2e.test (proxy.go).
//
// Reference: https://github.com/container-storage-interface/spec/blob/master/spec.md
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// config is what the flags say.
type config struct {
	name, node        string
	dir               string // where volumes, snapshots and the state are
	maxVolumes        int64  // on the node; 0 for any number
	attach            bool   // volumes are attached before they are staged
	topology          bool   // a volume says on which node it is
	controllerExpand  bool
	nodeExpand        bool
	modify            bool
	mutableParameters []string // which of them may be modified; any if empty
	checkLifecycle    bool     // what is in use cannot be deleted
}

func main() {
	c := config{}
	var endpoint, proxy, mutable string
	var attachLimit int64
	var fixedSize bool
	flag.StringVar(&endpoint, "endpoint", "unix:///csi/csi.sock", "path of the socket")
	flag.StringVar(&proxy, "proxy-endpoint", "", "tcp://ADDRESS:PORT; be a proxy and no driver")
	flag.StringVar(&c.name, "drivername", "hostpath.csi.k8s.io", "name of the driver")
	flag.StringVar(&c.node, "nodeid", "", "name of the node")
	flag.StringVar(&c.dir, "statedir", "/csi-data-dir", "directory for volumes, snapshots and the state")
	flag.Int64Var(&c.maxVolumes, "maxvolumespernode", 0, "how many volumes the node can have; 0 for any number")
	flag.Int64Var(&attachLimit, "attach-limit", 0, "the same")
	flag.BoolVar(&c.attach, "enable-attach", false, "have volumes attached to the node")
	flag.BoolVar(&c.topology, "enable-topology", true, "say of volumes on which node they are")
	flag.BoolVar(&c.nodeExpand, "node-expand-required", true, "have the node expand volumes, too")
	flag.BoolVar(&fixedSize, "disable-controller-expansion", false, "expand volumes on the node only")
	flag.BoolVar(&c.modify, "enable-controller-modify-volume", false, "let volumes be modified")
	flag.StringVar(&mutable, "accepted-mutable-parameter-names", "", "which of their parameters, with commas between")
	flag.BoolVar(&c.checkLifecycle, "check-volume-lifecycle", false, "refuse to delete what is in use")
	flag.Int("v", 0, "accepted, without effect")
	flag.Parse()
	c.maxVolumes = max(c.maxVolumes, attachLimit)
	c.controllerExpand = !fixedSize
	c.mutableParameters = strings.FieldsFunc(mutable, func(r rune) bool { return r == ',' })

	socket := strings.TrimPrefix(endpoint, "unix://")
	err := error(nil)
	if proxy != "" {
		err = runProxy(socket, strings.TrimPrefix(proxy, "tcp://"))
	} else {
		err = runDriver(socket, c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hostpathplugin:", err)
		os.Exit(1)
	}
}

func runDriver(socket string, c config) error {
	if c.node == "" {
		return errors.New("--nodeid is needed")
	}
	d, err := newDriver(c)
	if err != nil {
		return err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	return d.server().Serve(l)
}

func (d *driver) server() *grpc.Server {
	s := grpc.NewServer(grpc.UnaryInterceptor(d.serve))
	csi.RegisterIdentityServer(s, d)
	csi.RegisterControllerServer(s, d)
	csi.RegisterNodeServer(s, d)
	return s
}

// serve lets one call in after the other, and keeps what they have changed.
func (d *driver) serve(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (response any, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	response, err = handle(ctx, request)
	if saved := d.save(); err == nil {
		err = saved
	}
	logCall(info.FullMethod, request, response, err)
	return response, err
}

// logCall writes what the tests read of the log.
func logCall(method string, request, response any, err error) {
	call := struct {
		Method            string
		Request, Response any
		Error             string
		FullError         any
	}{Method: method, Request: request, Response: response}
	if err != nil {
		call.Error, call.FullError = err.Error(), status.Convert(err).Proto()
	}
	line, err := json.Marshal(call)
	if err != nil {
		line = fmt.Appendf(nil, "%q", err)
	}
	fmt.Fprintf(os.Stderr, "gRPCCall: %s\n", line)
}
