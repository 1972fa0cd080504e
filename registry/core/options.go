// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
)

// AddOptions teaches scheme to read the options of connect subresources (logs, exec, proxy, ...) from a query.
func AddOptions(scheme *runtime.Scheme) error {
	for _, options := range []runtime.Object{
		&corev1.PodLogOptions{}, &corev1.PodExecOptions{}, &corev1.PodAttachOptions{}, &corev1.PodPortForwardOptions{},
		&corev1.PodProxyOptions{}, &corev1.NodeProxyOptions{}, &corev1.ServiceProxyOptions{},
	} {
		if err := scheme.AddConversionFunc((*url.Values)(nil), options, func(a, b any, _ conversion.Scope) error {
			return setFromQuery(reflect.ValueOf(b).Elem(), *a.(*url.Values))
		}); err != nil {
			return err
		}
	}
	return nil
}

// setFromQuery sets the fields of an options struct from the query parameters of their JSON names.
func setFromQuery(target reflect.Value, query url.Values) error {
	for i := range target.NumField() {
		name, _, _ := strings.Cut(target.Type().Field(i).Tag.Get("json"), ",")
		values, ok := query[name]
		if name == "" || !ok || len(values) == 0 {
			continue
		}
		if err := setField(target.Field(i), values); err != nil {
			return fmt.Errorf("query parameter %q: %w", name, err)
		}
	}
	return nil
}

func setField(f reflect.Value, values []string) error {
	if f.Type() == reflect.TypeFor[*metav1.Time]() {
		t := &metav1.Time{}
		if err := t.UnmarshalQueryParameter(values[0]); err != nil {
			return err
		}
		f.Set(reflect.ValueOf(t))
		return nil
	}
	switch f.Kind() {
	case reflect.Pointer:
		p := reflect.New(f.Type().Elem())
		if err := setField(p.Elem(), values); err != nil {
			return err
		}
		f.Set(p)
	case reflect.Slice:
		f.Set(reflect.MakeSlice(f.Type(), len(values), len(values)))
		for i := range values {
			if err := setField(f.Index(i), values[i:i+1]); err != nil {
				return err
			}
		}
	case reflect.String:
		f.SetString(values[0])
	case reflect.Bool:
		f.SetBool(queryBool(values[0]))
	case reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(values[0], 10, f.Type().Bits())
		if err != nil {
			return err
		}
		f.SetInt(n)
	default:
		return fmt.Errorf("type %s cannot be read from a query", f.Type())
	}
	return nil
}

// queryBool follows apimachinery: a parameter without a value is true, only "false" and "0" are not.
func queryBool(value string) bool {
	return value != "0" && !strings.EqualFold(value, "false")
}
