// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controllers/nodeipam"
	"github.com/skiff-k8s/skiff/testenv"
	testcontrollers "github.com/skiff-k8s/skiff/testenv/controllers"
)

// complaint is what controllers say about an object.
type complaint struct {
	kind, name string
	event      string // its reason
	condition  string // Type=Status Reason
	message    string // that of the event or the condition contains it
}

const (
	noPods      = "---\n{apiVersion: v1, kind: ResourceQuota, metadata: {name: none}, spec: {hard: {pods: 0}}}\n"
	exceeded    = "exceeded quota: none, requested: pods=1, used: pods=0, limited: pods=0"
	podTemplate = "template: {metadata: {labels: {app: bad}}, spec: {containers: [{name: c, image: i}]}}"
	selected    = "selector: {matchLabels: {app: bad}}, " + podTemplate
)

// Wrong input shows up as upstream's conditions and events, and others are served all the same.
func TestWrongInput(t *testing.T) {
	env := testenv.Start(t, testenv.Admission())
	testcontrollers.Run(t, env, func(deps *controllers.Deps) { // there are addresses for one node
		deps.PodRanges = []nodeipam.Range{{Cluster: netip.MustParsePrefix("10.42.0.0/24"), NodeBits: 24}}
	})
	w := newWrong(t, env)
	w.make("", "{apiVersion: v1, kind: Node, metadata: {name: a}}")
	for i, c := range []struct {
		name, manifest string
		then           func(namespace string) // what else is done
		refused        string
		want           []complaint
	}{
		{
			name:     "a Deployment whose pods have no account",
			manifest: "{apiVersion: apps/v1, kind: Deployment, metadata: {name: bad}, spec: {replicas: 1, selector: {matchLabels: {app: bad}}, template: {metadata: {labels: {app: bad}}, spec: {serviceAccountName: nobody, containers: [{name: c, image: i}]}}}}",
			want: []complaint{
				{kind: "ReplicaSet", event: "FailedCreate", message: `serviceaccount "nobody" not found`},
				{kind: "Deployment", name: "bad", condition: "ReplicaFailure=True FailedCreate", message: `error looking up service account`},
				{kind: "Deployment", name: "bad", condition: "Available=False MinimumReplicasUnavailable", message: "Deployment does not have minimum availability."},
			},
		}, {
			name:     "a ReplicaSet beyond the quota",
			manifest: noPods + "---\n{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: bad}, spec: {replicas: 1, " + selected + "}}",
			want: []complaint{
				{kind: "ReplicaSet", name: "bad", event: "FailedCreate", message: "Error creating: pods \"bad-"},
				{kind: "ReplicaSet", name: "bad", condition: "ReplicaFailure=True FailedCreate", message: exceeded},
			},
		}, {
			name:     "a ReplicationController beyond the quota",
			manifest: noPods + "---\n{apiVersion: v1, kind: ReplicationController, metadata: {name: bad}, spec: {replicas: 1, selector: {app: bad}, " + podTemplate + "}}",
			want: []complaint{
				{kind: "ReplicationController", name: "bad", event: "FailedCreate", message: exceeded},
				{kind: "ReplicationController", name: "bad", condition: "ReplicaFailure=True FailedCreate", message: exceeded},
			},
		}, {
			name:     "a StatefulSet beyond the quota",
			manifest: noPods + "---\n{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: bad}, spec: {replicas: 1, serviceName: bad, " + selected + "}}",
			want:     []complaint{{kind: "StatefulSet", name: "bad", event: "FailedCreate", message: "Create Pod bad-0 in StatefulSet bad failed error: pods \"bad-0\" is forbidden: " + exceeded}},
		}, {
			name: "a StatefulSet with too many claims",
			manifest: "{apiVersion: v1, kind: ResourceQuota, metadata: {name: none}, spec: {hard: {persistentvolumeclaims: 0}}}\n---\n" +
				"{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: bad}, spec: {replicas: 1, serviceName: bad, " + selected +
				", volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]}}",
			want: []complaint{{kind: "StatefulSet", name: "bad", event: "FailedCreate", message: "Create Claim data-bad-0 for Pod bad-0 in StatefulSet bad failed error: "}},
		}, {
			name:     "a DaemonSet beyond the quota",
			manifest: noPods + "---\n{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: bad}, spec: {" + selected + "}}",
			want:     []complaint{{kind: "DaemonSet", name: "bad", event: "FailedCreate", message: exceeded}},
		}, {
			name:     "a Job beyond the quota",
			manifest: noPods + "---\n{apiVersion: batch/v1, kind: Job, metadata: {name: bad}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}",
			want:     []complaint{{kind: "Job", name: "bad", event: "FailedCreate", message: exceeded}},
		}, {
			name: "a CronJob beyond the quota",
			manifest: "{apiVersion: v1, kind: ResourceQuota, metadata: {name: none}, spec: {hard: {count/jobs.batch: 0}}}\n---\n" +
				"{apiVersion: batch/v1, kind: CronJob, metadata: {name: bad}, spec: {schedule: '@every 1s', jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}}}",
			want: []complaint{{kind: "CronJob", name: "bad", event: "FailedCreate", message: "Error creating job: jobs.batch \"bad-"}},
		}, {
			name:     "a CronJob with a bad schedule",
			manifest: "{apiVersion: batch/v1, kind: CronJob, metadata: {name: bad}, spec: {schedule: 'every hour', jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}}}",
			refused:  "spec.schedule: Invalid value: \"every hour\"",
		}, {
			name:     "a CronJob in a bad time zone",
			manifest: "{apiVersion: batch/v1, kind: CronJob, metadata: {name: bad}, spec: {schedule: '0 * * * *', timeZone: Mars/Base, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}}}",
			refused:  "spec.timeZone: Invalid value: \"Mars/Base\": unknown time zone Mars/Base",
		}, {
			name:     "a Deployment that selects none of its pods",
			manifest: "{apiVersion: apps/v1, kind: Deployment, metadata: {name: bad}, spec: {selector: {matchLabels: {app: other}}, " + podTemplate + "}}",
			refused:  "spec.template.metadata.labels: Invalid value: {\"app\":\"bad\"}: `selector` does not match template `labels`",
		}, {
			name:     "an autoscaler without a target",
			manifest: hpa("{apiVersion: apps/v1, kind: Deployment, name: none}"),
			want: []complaint{
				{kind: "HorizontalPodAutoscaler", name: "bad", event: "FailedGetScale", message: `deployments.apps "none" not found`},
				{kind: "HorizontalPodAutoscaler", name: "bad", condition: "AbleToScale=False FailedGetScale", message: `the HPA controller was unable to get the target's current scale: deployments.apps "none" not found`},
			},
		}, {
			name:     "an autoscaler whose target is of no kind",
			manifest: hpa("{apiVersion: example.com/v1, kind: Thing, name: none}"),
			want: []complaint{
				{kind: "HorizontalPodAutoscaler", name: "bad", event: "FailedGetScale", message: `no matches for kind "Thing" in group "example.com"`},
			},
		}, {
			name:     "an autoscaler without metrics",
			manifest: "{apiVersion: v1, kind: ReplicationController, metadata: {name: web}, spec: {replicas: 1, selector: {app: bad}, " + podTemplate + "}}\n---\n" + hpa("{apiVersion: v1, kind: ReplicationController, name: web}"),
			want: []complaint{
				{kind: "HorizontalPodAutoscaler", name: "bad", event: "FailedGetResourceMetric", message: "unable to get metrics for resource cpu"},
				{kind: "HorizontalPodAutoscaler", name: "bad", condition: "ScalingActive=False FailedGetResourceMetric", message: "the HPA was unable to compute the replica count: "},
				{kind: "HorizontalPodAutoscaler", name: "bad", event: "FailedComputeMetricsReplicas", message: "invalid metrics (1 invalid out of 1), first error is: "},
			},
		}, {
			name:     "a claim of a class that there is not",
			manifest: pvc("storageClassName: none"),
			want:     []complaint{{kind: "PersistentVolumeClaim", name: "bad", event: "ProvisioningFailed", message: `storageclass.storage.k8s.io "none" not found`}},
		}, {
			name:     "a claim without a class, and no volume",
			manifest: pvc("storageClassName: ''"),
			want:     []complaint{{kind: "PersistentVolumeClaim", name: "bad", event: "FailedBinding", message: "no persistent volumes available for this claim and no storage class is set"}},
		}, {
			name: "a claim of a volume that is too small",
			manifest: "{apiVersion: v1, kind: PersistentVolume, metadata: {name: small}, spec: {capacity: {storage: 1Mi}, accessModes: [ReadWriteOnce], hostPath: {path: /x}}}\n---\n" +
				pvc("storageClassName: '', volumeName: small"),
			want: []complaint{{kind: "PersistentVolumeClaim", name: "bad", event: "VolumeMismatch", message: `Cannot bind to requested volume "small": requested PV is too small`}},
		}, {
			name: "an ephemeral volume whose claim is somebody else's",
			manifest: strings.ReplaceAll(pvc("storageClassName: ''"), "name: bad", "name: bad-scratch") + "\n---\n" +
				"{apiVersion: v1, kind: Pod, metadata: {name: bad}, spec: {containers: [{name: c, image: i}], volumes: [{name: scratch, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}}]}}",
			want: []complaint{{kind: "Pod", name: "bad", event: "FailedBinding", message: "ephemeral volume scratch: PVC"}},
		}, {
			name:     "a pod whose claim has no template",
			manifest: "{apiVersion: v1, kind: Pod, metadata: {name: bad}, spec: {containers: [{name: c, image: i}], resourceClaims: [{name: gpu, resourceClaimTemplateName: none}]}}",
			want:     []complaint{{kind: "Pod", name: "bad", event: "FailedResourceClaimCreation", message: `PodResourceClaim gpu: resource claim template "none": `}},
		}, {
			name:     "a budget that selects nothing",
			manifest: "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: bad}, spec: {maxUnavailable: 1, selector: {matchLabels: {app: none}}}}",
			want: []complaint{
				{kind: "PodDisruptionBudget", name: "bad", event: "NoPods", message: "No matching pods found"},
				{kind: "PodDisruptionBudget", name: "bad", condition: "DisruptionAllowed=False InsufficientPods"},
			},
		}, {
			name: "a budget of pods that nobody controls",
			manifest: "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: bad}, spec: {maxUnavailable: 1, selector: {matchLabels: {app: bad}}}}\n---\n" +
				"{apiVersion: v1, kind: Pod, metadata: {name: bad, labels: {app: bad}}, spec: {containers: [{name: c, image: i}]}}",
			want: []complaint{{kind: "PodDisruptionBudget", name: "bad", event: "UnmanagedPods", message: "Pods selected by this PodDisruptionBudget (selector: &LabelSelector{MatchLabels:map[string]string{app: bad,}"}},
		}, {
			name: "a budget of pods whose controller cannot be scaled",
			manifest: "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: bad}, spec: {maxUnavailable: 1, selector: {matchLabels: {app: bad}}}}\n---\n" +
				"{apiVersion: v1, kind: ConfigMap, metadata: {name: owner}}",
			then: func(namespace string) {
				owner := w.get(namespace, "v1", "ConfigMap", "owner")
				w.make(namespace, fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: bad, labels: {app: bad}, ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: owner, uid: %s, controller: true}]}, spec: {containers: [{name: c, image: i}]}}", owner.GetUID()))
			},
			want: []complaint{
				{kind: "PodDisruptionBudget", name: "bad", event: "CalculateExpectedPodCountFailed", message: "Failed to calculate the number of expected pods: "},
				{kind: "PodDisruptionBudget", name: "bad", condition: "DisruptionAllowed=False SyncFailed"},
			},
		}, {
			name:     "an object whose owner is in another namespace",
			manifest: "{apiVersion: v1, kind: ConfigMap, metadata: {name: other}}",
			then: func(namespace string) {
				owner := w.get("default", "v1", "ServiceAccount", "default")
				w.make(namespace, fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: bad, ownerReferences: [{apiVersion: v1, kind: ServiceAccount, name: foreign, uid: %s}]}}", owner.GetUID()))
			},
			want: []complaint{{kind: "ConfigMap", name: "bad", event: "OwnerRefInvalidNamespace", message: "does not exist in namespace"}},
		}, {
			name:     "a namespace with something in it that nobody lets go",
			manifest: "{apiVersion: v1, kind: ConfigMap, metadata: {name: bad, finalizers: [example.com/never]}}",
			then: func(namespace string) {
				if err := env.Client.CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
			},
			want: []complaint{
				{kind: "Namespace", condition: "NamespaceContentRemaining=True SomeResourcesRemain", message: "Some resources are remaining: configmaps. has 1 resource instances"},
				{kind: "Namespace", condition: "NamespaceFinalizersRemaining=True SomeFinalizersRemain", message: "Some content in the namespace has finalizers remaining: example.com/never in 1 resource instances"},
			},
		}, {
			name:     "a node for which there are no addresses left",
			manifest: "{apiVersion: v1, kind: Node, metadata: {name: bad}}",
			want:     []complaint{{kind: "Node", name: "bad", event: "CIDRNotAvailable", message: "Node bad status is now: CIDRNotAvailable"}},
		}, {
			name:     "a migration of what cannot be migrated",
			manifest: "{apiVersion: storagemigration.k8s.io/v1, kind: StorageVersionMigration, metadata: {name: bad}, spec: {resource: {resource: bindings}}}",
			want:     []complaint{{kind: "StorageVersionMigration", name: "bad", condition: "Failed=True StorageVersionMigrationFailed", message: "does not support discovery operations"}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			namespace := fmt.Sprint("case-", i)
			w.t = t
			w.namespace(namespace)
			err := w.apply(namespace, c.manifest)
			if c.refused != "" {
				if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("the answer is %v, want %s", err, c.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.then != nil {
				c.then(namespace)
			}
			for _, want := range c.want {
				if want.kind == "Namespace" {
					want.name = namespace
				}
				w.want(namespace, want)
			}
		})
	}
	w.t = t
	w.namespace("good")
	w.make("good", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: good}, spec: {replicas: 2, "+selected+"}}")
	w.eventually("the pods of a Deployment after all that", func(ctx context.Context) error {
		pods, err := env.Client.CoreV1().Pods("good").List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) != 2 {
			err = fmt.Errorf("%d", len(pods.Items))
		}
		return err
	})
}

func hpa(target string) string {
	return "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: bad}, spec: {maxReplicas: 3, scaleTargetRef: " + target +
		", metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]}}"
}

func pvc(more string) string {
	return "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: bad}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}, " + more + "}}"
}

// wrong makes objects and waits for what is said about them.
type wrong struct {
	*cluster
	env     *testenv.Env
	objects dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper
}

func newWrong(t *testing.T, env *testenv.Env) *wrong {
	t.Helper()
	objects, err := dynamic.NewForConfig(env.Config)
	if err != nil {
		t.Fatal(err)
	}
	return &wrong{
		&cluster{Interface: env.Client, t: t}, env, objects, restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(env.Client.Discovery())),
	}
}

func (w *wrong) make(namespace, manifest string) {
	w.t.Helper()
	if err := w.apply(namespace, manifest); err != nil {
		w.t.Fatal(err)
	}
}

// namespace makes a namespace in which pods can be made.
func (w *wrong) namespace(name string) {
	w.t.Helper()
	w.cluster.namespace(name)
	w.eventually("the account of "+name, func(ctx context.Context) error {
		_, err := w.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// apply makes the objects of a manifest.
func (w *wrong) apply(namespace, manifest string) error {
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil || len(object.Object) == 0 {
			if err != nil {
				return err
			}
			continue
		}
		client, err := w.client(namespace, object.GetAPIVersion(), object.GetKind())
		if err != nil {
			return err
		}
		if _, err := client.Create(w.t.Context(), object, metav1.CreateOptions{}); err != nil {
			return err
		}
		if object.GetKind() == "ResourceQuota" {
			w.quota(namespace, object)
		}
	}
}

// refusedByQuota are objects that quotas of nothing refuse, by the resource in them.
var refusedByQuota = map[string]string{
	"pods":                   "{apiVersion: v1, kind: Pod, metadata: {name: probe}, spec: {containers: [{name: c, image: i}]}}",
	"persistentvolumeclaims": "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: probe}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}",
	"count/jobs.batch":       "{apiVersion: batch/v1, kind: Job, metadata: {name: probe}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}",
}

// quota waits until admission holds to a quota: as upstream's, it learns of it a moment later.
func (w *wrong) quota(namespace string, quota *unstructured.Unstructured) {
	w.t.Helper()
	hard, _, err := unstructured.NestedMap(quota.Object, "spec", "hard")
	if err != nil {
		w.t.Fatal(err)
	}
	for resource := range hard {
		probe := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(refusedByQuota[resource]), &probe.Object); err != nil {
			w.t.Fatal(err)
		}
		client, err := w.client(namespace, probe.GetAPIVersion(), probe.GetKind())
		if err != nil {
			w.t.Fatal(err)
		}
		w.eventually("the quota of "+resource+" in "+namespace, func(ctx context.Context) error {
			_, err := client.Create(ctx, probe, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if err == nil {
				return errors.New("a probe passed")
			}
			if !strings.Contains(err.Error(), "exceeded quota") {
				return err
			}
			return nil
		})
	}
}

func (w *wrong) client(namespace, apiVersion, kind string) (dynamic.ResourceInterface, error) {
	object := unstructured.Unstructured{}
	object.SetAPIVersion(apiVersion)
	object.SetKind(kind)
	gvk := object.GroupVersionKind()
	mapping, err := w.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == "namespace" {
		return w.objects.Resource(mapping.Resource).Namespace(namespace), nil
	}
	return w.objects.Resource(mapping.Resource), nil
}

func (w *wrong) get(namespace, apiVersion, kind, name string) *unstructured.Unstructured {
	w.t.Helper()
	client, err := w.client(namespace, apiVersion, kind)
	if err != nil {
		w.t.Fatal(err)
	}
	object, err := client.Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return object
}

// want waits until somebody complains like that.
func (w *wrong) want(namespace string, c complaint) {
	w.t.Helper()
	what := fmt.Sprintf("%s %s: %s%s %q", c.kind, c.name, c.event, c.condition, c.message)
	w.eventually(what, func(ctx context.Context) error {
		if c.event != "" {
			return w.event(ctx, namespace, c)
		}
		return w.condition(ctx, namespace, c)
	})
}

func (w *wrong) event(ctx context.Context, namespace string, c complaint) error {
	if c.kind == "Node" {
		namespace = metav1.NamespaceDefault
	}
	events, err := w.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var seen []string
	for _, e := range events.Items {
		about := e.InvolvedObject.Kind == c.kind && (c.name == "" || e.InvolvedObject.Name == c.name)
		if about && e.Reason == c.event && strings.Contains(e.Message, c.message) {
			return nil
		}
		seen = append(seen, fmt.Sprintf("%s %s %s: %s", e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason, e.Message))
	}
	return fmt.Errorf("events are %q", seen)
}

var apiVersions = map[string]string{
	"Deployment": "apps/v1", "ReplicaSet": "apps/v1", "HorizontalPodAutoscaler": "autoscaling/v2", "PodDisruptionBudget": "policy/v1",
	"StorageVersionMigration": "storagemigration.k8s.io/v1",
}

func (w *wrong) condition(ctx context.Context, namespace string, c complaint) error {
	apiVersion, ok := apiVersions[c.kind]
	if !ok {
		apiVersion = "v1"
	}
	client, err := w.client(namespace, apiVersion, c.kind)
	if err != nil {
		return err
	}
	object, err := client.Get(ctx, c.name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	raw, err := json.Marshal(object.Object["status"])
	if err != nil {
		return err
	}
	var status struct{ Conditions []metav1.Condition }
	if err := json.Unmarshal(raw, &status); err != nil {
		return err
	}
	if slices.ContainsFunc(status.Conditions, func(have metav1.Condition) bool {
		return fmt.Sprintf("%s=%s %s", have.Type, have.Status, have.Reason) == c.condition && strings.Contains(have.Message, c.message)
	}) {
		return nil
	}
	return fmt.Errorf("status is %s", raw)
}
