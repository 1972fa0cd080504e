// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// What managers own is in memory once, and every object tells its own.
func TestFieldSetsAreShared(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	codecs := serializer.NewCodecFactory(scheme)
	json, _ := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), runtime.ContentTypeJSON)
	codec := sharing{runtime.NewCodec(codecs.EncoderForVersion(json.Serializer, corev1.SchemeGroupVersion), codecs.UniversalDeserializer()), &fieldSets{}}
	decode := func(fields string) *metav1.FieldsV1 {
		t.Helper()
		data, err := runtime.Encode(codec, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x", ManagedFields: []metav1.ManagedFieldsEntry{
			{Manager: "none"}, {Manager: "m", FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: []byte(fields)}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		obj, err := runtime.Decode(codec, data)
		if err != nil {
			t.Fatal(err)
		}
		return obj.(*corev1.ConfigMap).ManagedFields[1].FieldsV1
	}
	a, b, c := decode(`{"f:data":{}}`), decode(`{"f:data":{}}`), decode(`{"f:other":{}}`)
	if &a.Raw[0] != &b.Raw[0] {
		t.Error("the same fields are in memory twice")
	}
	if string(a.Raw) != `{"f:data":{}}` || string(c.Raw) != `{"f:other":{}}` {
		t.Errorf("fields are %s and %s", a.Raw, c.Raw)
	}
	for i := range 2 * mostSets {
		if got := decode(fmt.Sprintf(`{"f:%d":{}}`, i)); string(got.Raw) != fmt.Sprintf(`{"f:%d":{}}`, i) {
			t.Fatalf("fields are %s", got.Raw)
		}
	}
	if n := len(codec.sets.seen); n > mostSets {
		t.Errorf("%d are remembered", n)
	}
}
