package settings

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/cpuset"
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
		if value := valueAt(given, f.Path); !f.takes(value) && !f.isIdle(value) {
			problems = append(problems, f.refusal(f.Path, value))
		}
	}
	return problems
}

// idleFields says which of the given fields have no effect.
func idleFields(document map[string]any, given *kubeletconfig.KubeletConfiguration) (warnings []string) {
	for _, f := range table {
		if _, present := lookup(document, f.Path); !present || f.Support == Supported {
			continue
		}
		if value := valueAt(given, f.Path); !f.takes(value) && f.isIdle(value) {
			warnings = append(warnings, fmt.Sprintf("%s has no effect: %s", f.Path, f.Note))
		}
	}
	return warnings
}

// isIdle tells whether a value is taken and changes nothing.
func (f Field) isIdle(value any) bool { return f.Support == Accepted || f.has(f.Idle, value) }

// has tells whether a value is one of these of the table.
func (f Field) has(values []any, value any) bool {
	return slices.ContainsFunc(values, func(other any) bool {
		return other != nil && equality.Semantic.DeepEqual(value, typed(f.Path, other))
	})
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
	return f.has(append([]any{f.Default, f.Upstream}, f.Also...), value)
}

// withDefaults returns the document with the defaults of all that is not given. As upstream reads them, a zero
// number, duration or string in a file means the default too, where the field cannot tell it from none.
func (g *given) withDefaults(asGiven *kubeletconfig.KubeletConfiguration) map[string]any {
	full := clone(g.document)
	root := reflect.ValueOf(asGiven).Elem()
	for _, f := range table {
		if f.Default == nil {
			continue
		}
		v, _ := fieldAt(root, f.Path)
		if _, present := lookup(g.document, f.Path); !present || v.Kind() != reflect.Bool && v.IsZero() && !g.zeroCounts(f, v.Kind()) {
			put(full, f.Path, f.Default)
		}
	}
	return full
}

// derive sets the defaults that depend on other fields or on the machine.
//
// Upstream: pkg/kubelet/apis/config/v1beta1/defaults.go SetDefaults_KubeletConfiguration.
func derive(c, given *kubeletconfig.KubeletConfiguration) {
	if given.SerializeImagePulls == nil && given.MaxParallelImagePulls != nil {
		*c.SerializeImagePulls = *given.MaxParallelImagePulls < 2
	}
	if *c.PodPidsLimit <= 0 {
		*c.PodPidsLimit = -1
	}
	mergeEviction(c)
	c.ContainerRuntimeEndpoint, c.ImageServiceEndpoint = socket(c.ContainerRuntimeEndpoint), socket(c.ImageServiceEndpoint)
	if c.CgroupRoot != "" {
		c.CgroupRoot = path.Join("/", c.CgroupRoot)
	}
	_, gateGiven := given.FeatureGates[memoryQoS]
	if !gateGiven && (c.MemoryThrottlingFactor != nil || c.MemoryReservationPolicy == kubeletconfig.TieredReservationMemoryReservationPolicy) {
		c.FeatureGates = maps.Clone(c.FeatureGates)
		if c.FeatureGates == nil {
			c.FeatureGates = map[string]bool{}
		}
		beta, allGiven := c.FeatureGates[allBeta]
		c.FeatureGates[memoryQoS] = beta || !allGiven // it is beta, on by default, and changes nothing without these fields
	}
	reserveCPUs(c)
	const containerd, crio = "/run/containerd/containerd.sock", "/run/crio/crio.sock"
	if given.ContainerRuntimeEndpoint == "" && !exists(containerd) && exists(crio) {
		c.ContainerRuntimeEndpoint = "unix://" + crio
	}
}

// socket is an endpoint in the form unix:///path. Of other forms upstream's client takes the path alone as well.
func socket(endpoint string) string {
	if strings.HasPrefix(endpoint, "/") {
		return "unix://" + endpoint
	}
	if u, err := url.Parse(endpoint); err == nil && u.Scheme == "unix" && u.Path != "" {
		return "unix://" + u.Path
	}
	return endpoint
}

// reserveCPUs puts the number of the CPUs of reservedSystemCPUs in the place of what is reserved of cpu otherwise.
//
// Upstream: cmd/kubelet/app/server.go run.
func reserveCPUs(c *kubeletconfig.KubeletConfiguration) {
	cpus, err := cpuset.Parse(c.ReservedSystemCPUs)
	if err != nil || cpus.Size() == 0 {
		return
	}
	delete(c.KubeReserved, "cpu")
	if c.SystemReserved == nil {
		c.SystemReserved = map[string]string{}
	}
	c.SystemReserved["cpu"] = strconv.Itoa(cpus.Size())
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
