package settings

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// problem is what is wrong with a field.
type problem struct {
	path string
	err  error
}

// unsupported names every field that asks for what is not built. given is the document, decoded.
func unsupported(document map[string]any, given *kubeletconfig.KubeletConfiguration) []problem {
	var problems []problem
	for _, f := range table {
		if _, present := lookup(document, f.Path); !present || f.Support != Refused {
			continue
		}
		if value := valueAt(given, f.Path); !f.takes(value) {
			problems = append(problems, f.refusal(f.Path, value))
		}
	}
	return problems
}

// idleFields says which of the given fields have no effect.
func idleFields(document map[string]any, given *kubeletconfig.KubeletConfiguration) (warnings []string) {
	for _, f := range table {
		if _, present := lookup(document, f.Path); !present || f.Support != Accepted {
			continue
		}
		if value := valueAt(given, f.Path); !f.takes(value) {
			warnings = append(warnings, fmt.Sprintf("%s has no effect: %s", f.Path, f.Note))
		}
	}
	return warnings
}

func (f Field) refusal(path string, value any) problem {
	text := path + ": not supported"
	switch reflect.ValueOf(value).Kind() {
	case reflect.String, reflect.Bool, reflect.Int32, reflect.Int64, reflect.Float64:
		text = fmt.Sprintf("%s: %v is not supported", path, value)
	}
	if f.Note != "" {
		text += " (" + f.Note + ")"
	}
	return problem{path, errors.New(text)}
}

// takes tells whether a value is upstream's default, or asks for nothing that is missing.
func (f Field) takes(value any) bool {
	root := reflect.ValueOf(&kubeletconfig.KubeletConfiguration{}).Elem()
	v, _ := fieldAt(root, f.Path)
	if v.Kind() != reflect.Pointer && equality.Semantic.DeepEqual(value, reflect.Zero(reflect.TypeOf(value)).Interface()) {
		return true // the same as not given
	}
	return slices.ContainsFunc(append([]any{f.Default, f.Upstream}, f.Also...), func(other any) bool {
		return other != nil && equality.Semantic.DeepEqual(value, typed(f.Path, other))
	})
}

// withDefaults returns the document with the defaults of all that is not given. As upstream reads them, a zero
// number, duration or string means the default too, where the field cannot tell it from none.
func withDefaults(document map[string]any, given *kubeletconfig.KubeletConfiguration) map[string]any {
	full := clone(document)
	root := reflect.ValueOf(given).Elem()
	for _, f := range table {
		if f.Default == nil {
			continue
		}
		v, _ := fieldAt(root, f.Path)
		if _, present := lookup(document, f.Path); !present || v.Kind() != reflect.Bool && v.IsZero() {
			put(full, f.Path, f.Default)
		}
	}
	return full
}

// derive sets the defaults that depend on other fields or on the machine.
//
// Upstream: pkg/kubelet/apis/config/v1beta1/defaults.go SetDefaults_KubeletConfiguration.
func derive(c, given *kubeletconfig.KubeletConfiguration) {
	if given.NodeStatusReportFrequency.Duration == 0 && given.NodeStatusUpdateFrequency.Duration != 0 {
		c.NodeStatusReportFrequency = given.NodeStatusUpdateFrequency
	}
	if given.SerializeImagePulls == nil && given.MaxParallelImagePulls != nil {
		*c.SerializeImagePulls = *given.MaxParallelImagePulls < 2
	}
	if *c.PodPidsLimit < 0 {
		*c.PodPidsLimit = -1
	}
	mergeEviction(c)
	for _, endpoint := range []*string{&c.ContainerRuntimeEndpoint, &c.ImageServiceEndpoint} {
		if strings.HasPrefix(*endpoint, "/") {
			*endpoint = "unix://" + *endpoint
		}
	}
	const containerd, crio = "/run/containerd/containerd.sock", "/run/crio/crio.sock"
	if given.ContainerRuntimeEndpoint == "" && !exists(containerd) && exists(crio) {
		c.ContainerRuntimeEndpoint = "unix://" + crio
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// lookup finds the value at a path of a document; null is no value.
func lookup(document map[string]any, path string) (any, bool) {
	name, rest, nested := strings.Cut(path, ".")
	value := document[name]
	if inner, ok := value.(map[string]any); ok && nested {
		return lookup(inner, rest)
	}
	return value, value != nil && !nested
}

// put sets the value at a path of a document, which must not share its objects with another.
func put(document map[string]any, path string, value any) {
	name, rest, nested := strings.Cut(path, ".")
	if !nested {
		document[name] = value
		return
	}
	inner, ok := document[name].(map[string]any)
	if !ok {
		inner = map[string]any{}
		document[name] = inner
	}
	put(inner, rest, value)
}

// clone copies a document and the objects in it.
func clone(document map[string]any) map[string]any {
	out := maps.Clone(document)
	for key, value := range out {
		if inner, ok := value.(map[string]any); ok {
			out[key] = clone(inner)
		}
	}
	return out
}

// fieldAt finds the field at a path of JSON names.
func fieldAt(v reflect.Value, path string) (reflect.Value, bool) {
	name, rest, nested := strings.Cut(path, ".")
	for f := range v.Type().Fields() {
		if jsonName, _, _ := strings.Cut(f.Tag.Get("json"), ","); jsonName != name {
			continue
		}
		if nested {
			return fieldAt(v.FieldByIndex(f.Index), rest)
		}
		return v.FieldByIndex(f.Index), true
	}
	return reflect.Value{}, false
}

// valueAt returns the value at a path of the table, without what tells only how it was written.
func valueAt(c *kubeletconfig.KubeletConfiguration, path string) any {
	v, ok := fieldAt(reflect.ValueOf(c).Elem(), path)
	if !ok {
		panic("settings: the table names " + path + ", which is no field")
	}
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if path == "logging.flushFrequency" {
		v = v.FieldByName("Duration")
	}
	return v.Interface()
}

// typed is a value of the table as the configuration's type holds it.
func typed(path string, value any) any {
	document := map[string]any{}
	put(document, path, value)
	c, err := toConfig(document)
	if err != nil {
		panic(fmt.Sprintf("settings: the table's value of %s: %v", path, err))
	}
	return valueAt(c, path)
}
