package config

import (
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// hashUID derives a UID from a manifest with its defaults, the node and the place: an unchanged manifest is the same pod
// after a restart, a changed one another. Upstream's kubelet comes to the same UID, so a node's static pods go on when
// one kubelet takes the other's place. from tells the place: file:NAME, which belongs to a node, or url:URL.
//
// Upstream: pkg/kubelet/config/common.go applyDefaults.
func hashUID(pod *corev1.Pod, from string, node types.NodeName) types.UID {
	var text internalText
	bare := pod.DeepCopy()
	bare.Kind, bare.APIVersion = "", ""
	text.write(reflect.ValueOf(bare), true)
	h := fnv.New128a()
	fmt.Fprint(h, text.String())
	if strings.HasPrefix(from, "file:") {
		fmt.Fprintf(h, "host:%s", node)
	}
	fmt.Fprint(h, from)
	return types.UID(hex.EncodeToString(h.Sum(nil)))
}

// internalText is a pod as upstream hashes it: each value behind its type, in the form that the spew library prints, and
// in the types that upstream uses internally. These are those of the API but for their package's name.
type internalText struct{ strings.Builder }

// write writes a value, with its type if typed.
func (t *internalText) write(v reflect.Value, typed bool) {
	if typed {
		t.WriteString("(" + internalName(v.Type()) + ")")
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface:
		if v.IsNil() {
			t.WriteString("<nil>")
			return
		}
	default:
	}
	switch v.Kind() {
	case reflect.Pointer:
		t.write(v.Elem(), false)
	case reflect.Slice, reflect.Array:
		t.WriteString("[")
		for i := range v.Len() {
			t.space(i)
			t.write(v.Index(i), false)
		}
		t.WriteString("]")
	case reflect.Map:
		t.WriteString("map[")
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for i, key := range keys {
			t.space(i)
			t.write(key, false)
			t.WriteString(":")
			t.write(v.MapIndex(key), false)
		}
		t.WriteString("]")
	case reflect.Struct:
		t.WriteString("{")
		for i := range v.NumField() {
			t.space(i)
			t.WriteString(v.Type().Field(i).Name + ":")
			t.write(v.Field(i), true)
		}
		t.WriteString("}")
	case reflect.String:
		t.WriteString(v.String())
	default:
		fmt.Fprint(t, v) // fmt prints what a Value holds
	}
}

func (t *internalText) space(before int) {
	if before > 0 {
		t.WriteString(" ")
	}
}

// internalName is the name of the internal type.
func internalName(t reflect.Type) string {
	switch {
	case t.PkgPath() == "k8s.io/api/core/v1":
		return "core." + t.Name()
	case t.Name() != "":
	case t.Kind() == reflect.Pointer:
		return "*" + internalName(t.Elem())
	case t.Kind() == reflect.Slice:
		return "[]" + internalName(t.Elem())
	case t.Kind() == reflect.Map:
		return "map[" + internalName(t.Key()) + "]" + internalName(t.Elem())
	}
	return t.String()
}
