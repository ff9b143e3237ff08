package settings

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	sigsjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

const (
	apiVersion = "kubelet.config.k8s.io/v1beta1"
	kind       = "KubeletConfiguration"
	dropInEnd  = ".conf"
	maxFile    = 1 << 20
)

// readFiles reads the file and then, in the order of their names, the drop-ins of the directory, each over what was
// there: values replace, objects are merged, lists replace, null takes a value away.
//
// Upstream: cmd/kubelet/app/server.go mergeKubeletConfigurations.
func readFiles(file, dir string) (map[string]any, error) {
	document := map[string]any{}
	if file != "" {
		d, err := readFile(file)
		if err != nil {
			return nil, err
		}
		document = d
	}
	if dir == "" {
		return document, nil
	}
	var names []string
	// The separator makes WalkDir follow a directory that is a link; it would pass it over in silence.
	err := filepath.WalkDir(dir+string(filepath.Separator), func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.HasSuffix(entry.Name(), dropInEnd) {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("--config-dir: %w", err)
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	for _, name := range names {
		d, err := readFile(name)
		if err != nil {
			return nil, err
		}
		document = mergePatch(document, d)
	}
	return document, nil
}

// readFile reads and checks one file by itself, so that an error names the right one.
func readFile(name string) (map[string]any, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s: larger than %d bytes", name, maxFile)
	}
	document, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return document, nil
}

// parse reads one document of YAML or JSON strictly: unknown and repeated fields are errors with their paths.
func parse(data []byte) (map[string]any, error) {
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, err
	}
	if _, err := strict(asJSON); err != nil {
		return nil, err
	}
	var document map[string]any
	if err := yaml.Unmarshal(data, &document); err != nil {
		return nil, err
	}
	if document == nil {
		document = map[string]any{}
	}
	if document["apiVersion"] != apiVersion || document["kind"] != kind {
		return nil, fmt.Errorf("want apiVersion: %s and kind: %s, got %v and %v", apiVersion, kind, document["apiVersion"], document["kind"])
	}
	return document, nil
}

// strict decodes JSON, refusing what is unknown or given twice.
func strict(data []byte) (*kubeletconfig.KubeletConfiguration, error) {
	c := &kubeletconfig.KubeletConfiguration{}
	problems, err := sigsjson.UnmarshalStrict(data, c)
	if err != nil {
		return nil, err
	}
	return c, errors.Join(problems...)
}

// mergePatch is RFC 7386.
func mergePatch(base, patch map[string]any) map[string]any {
	merged := map[string]any{}
	maps.Copy(merged, base)
	for key, value := range patch {
		object, isObject := value.(map[string]any)
		below, _ := merged[key].(map[string]any)
		switch {
		case value == nil:
			delete(merged, key)
		case isObject: // over what is no object as well: its nulls must go
			merged[key] = mergePatch(below, object)
		default:
			merged[key] = value
		}
	}
	return merged
}

// overlay puts what was given over the defaults. Fields that are structs are merged; a map, such as kubeReserved, is
// a value like any other.
func overlay(defaults, given map[string]any) map[string]any {
	return overlayStruct(defaults, given, reflect.TypeFor[kubeletconfig.KubeletConfiguration]())
}

func overlayStruct(defaults, given map[string]any, t reflect.Type) map[string]any {
	merged := maps.Clone(defaults)
	if merged == nil {
		merged = map[string]any{}
	}
	for key, value := range given {
		field := typeOf(t, key)
		object, isObject := value.(map[string]any)
		if inner := structOf(field); inner != nil && isObject {
			below, _ := merged[key].(map[string]any)
			merged[key] = overlayStruct(below, object, inner)
			continue
		}
		if !meansDefault(value, field) {
			merged[key] = value
		}
	}
	return merged
}

// meansDefault tells whether a value stands for the default, as upstream reads it: null does everywhere; the zero
// number, string or duration does in a field that cannot tell it from no value. A field that is a pointer can:
// registryPullQPS: 0 is no limit, resolvConf: "" no resolver.
func meansDefault(value any, field reflect.Type) bool {
	if value == nil {
		return true
	}
	if field == nil || field.Kind() == reflect.Pointer {
		return false
	}
	if text, ok := value.(string); ok && field == durationType {
		d, err := time.ParseDuration(text)
		return text == "" || err == nil && d == 0
	}
	switch field.Kind() {
	case reflect.Int32, reflect.Int64, reflect.Uint32, reflect.String:
		return empty(value)
	}
	return false
}

// empty tells whether a value asks for nothing.
func empty(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case string:
		return v == "" || v == "0s"
	case float64:
		return v == 0
	case int64:
		return v == 0
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// typeOf returns the type of the field with this JSON name, nil if there is none.
func typeOf(t reflect.Type, name string) reflect.Type {
	for f := range t.Fields() {
		if jsonName(f) == name {
			return f.Type
		}
	}
	return nil
}

// structOf returns the struct, if it is one that JSON shows as an object, of a field's type.
func structOf(field reflect.Type) reflect.Type {
	if field != nil && field.Kind() == reflect.Pointer {
		field = field.Elem()
	}
	if field == nil || field.Kind() != reflect.Struct || field == durationType {
		return nil
	}
	return field
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}
