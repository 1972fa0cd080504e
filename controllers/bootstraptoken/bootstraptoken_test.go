// SPDX-License-Identifier: Apache-2.0

package bootstraptoken

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
)

func newToken(id string, left time.Duration) *corev1.Secret {
	token := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: bootstrapapi.BootstrapTokenSecretPrefix + id, Namespace: metav1.NamespaceSystem},
		Type:       bootstrapapi.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			bootstrapapi.BootstrapTokenIDKey:           []byte(id),
			bootstrapapi.BootstrapTokenSecretKey:       []byte("0123456789abcdef"),
			bootstrapapi.BootstrapTokenUsageSigningKey: []byte("true"),
		},
	}
	if left != 0 {
		token.Data[bootstrapapi.BootstrapTokenExpirationKey] = []byte(time.Now().Add(left).Format(time.RFC3339))
	}
	return token
}

type cluster struct {
	*controllertest.Cluster
	t *testing.T
	c *controller
}

// set sets the clock, of which the controller can tell by the times in the tokens that it knows.
func (c *cluster) set(forward time.Duration) {
	c.t.Helper()
	known, err := (*c.c.tokens.Load()).List(labels.Everything())
	if err != nil {
		c.t.Fatal(err)
	}
	for _, token := range known {
		if raw, ok := token.Data[bootstrapapi.BootstrapTokenExpirationKey]; ok {
			at, err := time.Parse(time.RFC3339, string(raw))
			if err != nil {
				c.t.Fatal(err)
			}
			token.Data[bootstrapapi.BootstrapTokenExpirationKey] = []byte(at.Add(-forward).Format(time.RFC3339))
		}
	}
	c.SetClock(0)
}

// want waits and then compares the tokens that there are, and those that have signed.
func (c *cluster) want(wait time.Duration, when, tokens, signed string) {
	c.t.Helper()
	time.Sleep(wait)
	synctest.Wait()
	list, err := c.CoreV1().Secrets(metav1.NamespaceSystem).List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	var have, signers []string
	for _, token := range list.Items {
		have = append(have, strings.TrimPrefix(token.Name, bootstrapapi.BootstrapTokenSecretPrefix))
	}
	info, err := c.CoreV1().ConfigMaps(clusterInfo.Namespace).Get(c.t.Context(), clusterInfo.Name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	for key := range info.Data {
		if id, ok := strings.CutPrefix(key, bootstrapapi.JWSSignatureKeyPrefix); ok {
			signers = append(signers, id)
		}
	}
	slices.Sort(have)
	slices.Sort(signers)
	if got := fmt.Sprint(have, signers); got != fmt.Sprint(strings.Fields(tokens), strings.Fields(signed)) {
		c.t.Errorf("%s: tokens and signers are %s, want [%s] [%s]", when, got, tokens, signed)
	}
}

// A token goes, and its signature with it, when the clock says so: not by how much time has passed.
func TestClockIsSet(t *testing.T) {
	start := func(t *testing.T) *cluster {
		info := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: clusterInfo.Name, Namespace: clusterInfo.Namespace},
			Data:       map[string]string{bootstrapapi.KubeConfigKey: "kubeconfig"},
		}
		fake := controllertest.New(t, info, newToken("aaaaaa", 30*time.Minute), newToken("bbbbbb", 0), newToken("cccccc", 3*time.Hour))
		c := &cluster{Cluster: fake, t: t, c: newController(fake.Clientset, fake.Clientset, fake.Factory)}
		fake.Run(c.c.declare(fake.Factory))
		c.want(10*time.Minute, "before", "aaaaaa bbbbbb cccccc", "aaaaaa bbbbbb cccccc")
		return c
	}
	t.Run("forward", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := start(t)
			c.set(time.Hour)
			c.want(time.Second, "at once", "bbbbbb cccccc", "bbbbbb cccccc")
			c.want(105*time.Minute, "before the other's time", "bbbbbb cccccc", "bbbbbb cccccc")
			c.want(6*time.Minute, "after it", "bbbbbb", "bbbbbb")
		})
	})
	t.Run("back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := start(t)
			c.set(-time.Hour)
			c.want(79*time.Minute, "it has come back", "aaaaaa bbbbbb cccccc", "aaaaaa bbbbbb cccccc")
			c.want(2*time.Minute, "its time is over again", "bbbbbb cccccc", "bbbbbb cccccc")
		})
	})
}
