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
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
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
	merged := maps.Clone(base)
	for key, value := range patch {
		object, isObject := value.(map[string]any)
		below, hasObject := merged[key].(map[string]any)
		switch {
		case value == nil:
			delete(merged, key)
		case isObject && hasObject:
			merged[key] = mergePatch(below, object)
		default:
			merged[key] = value
		}
	}
	return merged
}

// overlay puts what was given over the defaults. Fields that are structs are merged; a map, such as kubeReserved, is
// a value like any other. Zero durations, strings and lists mean the default, as upstream reads them.
func overlay(defaults, given map[string]any) map[string]any {
	return overlayStruct(defaults, given, reflect.TypeFor[kubeletconfig.KubeletConfiguration]())
}

func overlayStruct(defaults, given map[string]any, t reflect.Type) map[string]any {
	merged := maps.Clone(defaults)
	if merged == nil {
		merged = map[string]any{}
	}
	for key, value := range given {
		inner := structOf(t, key)
		object, isObject := value.(map[string]any)
		if inner != nil && isObject {
			below, _ := merged[key].(map[string]any)
			merged[key] = overlayStruct(below, object, inner)
			continue
		}
		if !meansDefault(value) {
			merged[key] = value
		}
	}
	return merged
}

func meansDefault(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case string:
		return v == "" || v == "0s"
	case []any:
		return len(v) == 0
	}
	return false
}

// structOf returns the type of the field with this JSON name if it is a struct that JSON shows as an object.
func structOf(t reflect.Type, name string) reflect.Type {
	for f := range t.Fields() {
		if jsonName(f) != name {
			continue
		}
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && inner != durationType {
			return inner
		}
	}
	return nil
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}
