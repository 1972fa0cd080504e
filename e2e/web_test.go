// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The example of the README works as the README says, from kubectl apply to nothing left behind.
func TestWeb(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.ownServicesStand()
	if err := n.Mark(); err != nil {
		t.Fatal(err)
	}
	n.kubectl("create", "namespace", "demo")
	example, err := filepath.Abs("../examples/web.yaml")
	if err != nil {
		t.Fatal(err)
	}
	n.kubectl("apply", "-n", "demo", "-f", example)
	n.kubectl("rollout", "status", "-n", "demo", "deployment/web", "--timeout=120s")
	pods := n.podNames("app=web")
	if len(pods) != 3 {
		t.Fatalf("pods = %q, want three", pods)
	}

	t.Run("answers by NodePort, from all pods in turn", func(t *testing.T) { n.with(t).answersFromAll("http://127.0.0.1:30080/", pods) })
	t.Run("answers by ClusterIP", func(t *testing.T) {
		n := n.with(t)
		ip := n.kubectl("get", "service", "-n", "demo", "web", "-o", "jsonpath={.spec.clusterIP}")
		n.answersFromAll("http://"+ip+"/", pods)
	})
	t.Run("answers by DNS name from another pod", func(t *testing.T) {
		n := n.with(t)
		n.kubectl("run", "-n", "demo", "client", "--image=busybox:stable", "--image-pull-policy=IfNotPresent", "--restart=Never", "--", "sleep", "3600")
		n.kubectl("wait", "-n", "demo", "--for=condition=Ready", "pod/client", "--timeout=60s")
		for _, name := range []string{"web", "web.demo", "web.demo.svc.cluster.local"} {
			out := n.kubectl("exec", "-n", "demo", "client", "--", "fetch", "http://"+name+"/")
			if !slices.Contains(pods, strings.TrimSpace(out)) {
				t.Errorf("http://%s/ answers %q, want the name of a pod of %q", name, out, pods)
			}
		}
	})
	t.Run("replaces a deleted pod", func(t *testing.T) {
		n := n.with(t)
		n.kubectl("delete", "pod", "-n", "demo", pods[0], "--wait=true")
		n.kubectl("rollout", "status", "-n", "demo", "deployment/web", "--timeout=60s")
		if now := n.podNames("app=web"); len(now) != 3 || slices.Contains(now, pods[0]) {
			t.Errorf("pods after the deletion of %s = %q, want three others", pods[0], now)
		}
	})
	t.Run("scales, rolls out and back", func(t *testing.T) { n.with(t).rollsOut() })
	t.Run("exec, attach, cp, port-forward and logs", func(t *testing.T) { n.with(t).reachesIntoPods(t) })
	t.Run("kill -9 leaves containers running", func(t *testing.T) { n.with(t).survivesKill() })
	t.Run("leaves nothing behind", func(t *testing.T) {
		n := n.with(t)
		n.kubectl("delete", "namespace", "demo", "--timeout=120s")
		n.eventually(30*time.Second, "nothing of the namespace is left", func() error {
			left, err := n.Leftovers(t.Context())
			if err != nil {
				return err
			}
			left = slices.DeleteFunc(left, func(line string) bool { return strings.HasPrefix(line, "process ") && strings.Contains(line, n.binary) })
			left = append(left, n.containers("demo")...)
			if len(left) > 0 {
				return errors.New(strings.Join(left, "\n"))
			}
			return nil
		})
	})
}

func (n *node) podNames(selector string) []string {
	n.t.Helper()
	return strings.Fields(n.kubectl("get", "pods", "-n", "demo", "-l", selector, "--field-selector=status.phase=Running", "-o", `go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}} {{end}}{{end}}`))
}

// answersFromAll asks until every pod has answered with its name.
func (n *node) answersFromAll(url string, pods []string) {
	n.t.Helper()
	missing := map[string]bool{}
	for _, p := range pods {
		missing[p] = true
	}
	n.eventually(30*time.Second, "all pods answer at "+url, func() error {
		out, err := n.Output(n.t.Context(), "curl", "-sS", "--max-time", "5", url)
		if err != nil {
			return err
		}
		delete(missing, strings.TrimSpace(out))
		if len(missing) > 0 {
			return fmt.Errorf("no answer yet from %v", missing)
		}
		return nil
	})
}

func (n *node) rollsOut() {
	n.t.Helper()
	n.kubectl("scale", "-n", "demo", "deployment/web", "--replicas=2")
	n.eventually(60*time.Second, "two pods", func() error {
		if pods := n.podNames("app=web"); len(pods) != 2 {
			return fmt.Errorf("pods = %q", pods)
		}
		return nil
	})
	n.rollsOutImage("next")
	n.kubectl("rollout", "undo", "-n", "demo", "deployment/web")
	n.kubectl("rollout", "status", "-n", "demo", "deployment/web", "--timeout=90s")
	n.runImage("stable")
	// What cannot work does not take the running pods away, and can be taken back.
	n.kubectl("set", "image", "-n", "demo", "deployment/web", "web=busybox:none")
	n.eventually(60*time.Second, "the missing image shows", func() error {
		out, err := n.try("get", "pods", "-n", "demo", "-o", "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}")
		if err == nil && !strings.Contains(out, "ErrImagePull") && !strings.Contains(out, "ImagePullBackOff") {
			err = fmt.Errorf("waiting reasons = %q", out)
		}
		return err
	})
	n.kubectl("rollout", "undo", "-n", "demo", "deployment/web")
	n.kubectl("rollout", "status", "-n", "demo", "deployment/web", "--timeout=90s")
	n.runImage("stable")
	if history := n.kubectl("rollout", "history", "-n", "demo", "deployment/web"); strings.Count(history, "\n") < 4 {
		n.t.Errorf("history = %q, want at least two revisions", history)
	}
}

func (n *node) rollsOutImage(tag string) {
	n.t.Helper()
	n.kubectl("set", "image", "-n", "demo", "deployment/web", "web=busybox:"+tag)
	n.kubectl("rollout", "status", "-n", "demo", "deployment/web", "--timeout=90s")
	n.runImage(tag)
}

// runImage looks that all pods of the Deployment run an image and answer.
func (n *node) runImage(tag string) {
	n.t.Helper()
	pods := n.podNames("app=web")
	images := n.kubectl("get", "pods", "-n", "demo", "-l", "app=web", "-o", `go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{(index .status.containerStatuses 0).image}} {{end}}{{end}}`)
	want := slices.Repeat([]string{"docker.io/library/busybox:" + tag}, 2)
	if !slices.Equal(strings.Fields(images), want) {
		n.t.Errorf("images of the pods = %q, want %q", images, want)
	}
	n.answersFromAll("http://127.0.0.1:30080/", pods)
}
