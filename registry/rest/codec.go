// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/versioning"
)

// Convertor converts between versions without harm to shared objects.
//
// The hub type is the served type, so converting it only means naming its version. The scheme does that in
// place, which would write into objects that the watch cache shares among requests. Convertor names a
// shallow copy instead, and leaves real conversions to the scheme.
type Convertor struct{ *runtime.Scheme }

var _ runtime.ObjectConvertor = Convertor{}

// ConvertToVersion implements runtime.ObjectConvertor.
func (c Convertor) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	if _, unstructured := in.(runtime.Unstructured); unstructured {
		return c.Scheme.UnsafeConvertToVersion(in, target) // to the Go type, which has defaults
	}
	kinds, unversioned, err := c.ObjectKinds(in)
	if err != nil || unversioned {
		return c.Scheme.UnsafeConvertToVersion(in, target)
	}
	gvk, ok := target.KindForGroupVersionKinds(kinds)
	if !ok {
		return c.Scheme.UnsafeConvertToVersion(in, target)
	}
	for _, kind := range kinds {
		if kind == gvk {
			return named(in, gvk), nil
		}
	}
	return c.Scheme.UnsafeConvertToVersion(in, target)
}

// Convert implements runtime.ObjectConvertor. Admission plugins that change objects convert to a version and
// back; where both are one Go type, out gets the content and keeps its name.
func (c Convertor) Convert(in, out, context any) error {
	from, to := reflect.TypeOf(in), reflect.TypeOf(out)
	source, ok := in.(runtime.Object)
	if _, unstructured := in.(runtime.Unstructured); from != to || !ok || unstructured {
		return c.Scheme.Convert(in, out, context)
	}
	target := out.(runtime.Object)
	name := target.GetObjectKind().GroupVersionKind()
	reflect.ValueOf(target).Elem().Set(reflect.ValueOf(source.DeepCopyObject()).Elem())
	target.GetObjectKind().SetGroupVersionKind(name)
	return nil
}

// named is a shallow copy of in that carries gvk (nothing for the internal version, as the scheme does it).
func named(in runtime.Object, gvk schema.GroupVersionKind) runtime.Object {
	v := reflect.ValueOf(in)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		in.GetObjectKind().SetGroupVersionKind(gvk)
		return in
	}
	clone := reflect.New(v.Type().Elem())
	clone.Elem().Set(v.Elem())
	out := clone.Interface().(runtime.Object)
	if gvk.Version == runtime.APIVersionInternal {
		gvk = schema.GroupVersionKind{}
	}
	out.GetObjectKind().SetGroupVersionKind(gvk)
	return out
}

// Serializer is a scheme's codec factory whose codecs use a Convertor.
type Serializer struct {
	runtime.NegotiatedSerializer
	Scheme *runtime.Scheme
}

// EncoderForVersion implements runtime.NegotiatedSerializer.
func (s Serializer) EncoderForVersion(encoder runtime.Encoder, gv runtime.GroupVersioner) runtime.Encoder {
	return versioning.NewCodec(encoder, nil, Convertor{s.Scheme}, s.Scheme, s.Scheme, s.Scheme, gv, nil, s.Scheme.Name())
}

// DecoderToVersion implements runtime.NegotiatedSerializer.
func (s Serializer) DecoderToVersion(decoder runtime.Decoder, gv runtime.GroupVersioner) runtime.Decoder {
	return versioning.NewCodec(nil, decoder, Convertor{s.Scheme}, s.Scheme, s.Scheme, s.Scheme, nil, gv, s.Scheme.Name())
}

// StorageCodec encodes to stored and decodes to the hub, with the given serializers.
func StorageCodec(scheme *runtime.Scheme, encoder runtime.Encoder, decoder runtime.Decoder, stored schema.GroupVersion) runtime.Codec {
	hub := schema.GroupVersion{Group: stored.Group, Version: runtime.APIVersionInternal}
	return storageCodec{versioning.NewCodec(encoder, decoder, Convertor{scheme}, scheme, scheme, scheme, stored, hub, scheme.Name())}
}

// storageCodec forgets the version that an object was stored in: what is in memory is the hub, and an item
// of a list carries no kind.
type storageCodec struct{ runtime.Codec }

func (c storageCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, gvk, err := c.Codec.Decode(data, defaults, into)
	if err == nil {
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	return obj, gvk, err
}
