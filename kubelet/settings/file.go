package settings

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	sigsjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

const (
	apiVersion = "kubelet.config.k8s.io/v1beta1"
	kind       = "KubeletConfiguration"
	dropInEnd  = ".conf"
	maxFile    = 1 << 20 // bytes
)

// given is what files and flags say, and which of them said it.
type given struct {
	document map[string]any
	origins  map[string]string // path -> file or flag
	warnings []string
}

func newGiven() *given { return &given{document: map[string]any{}, origins: map[string]string{}} }

// readFiles reads the file and then, in the order of their names, the drop-ins of the directory, each over what was
// there: values replace, objects are merged, lists replace, null takes a value away.
//
// Upstream: cmd/kubelet/app/server.go mergeKubeletConfigurations.
func readFiles(file, dir string) (g *given, wrong []error) {
	g = newGiven()
	if file != "" {
		if err := g.read("--config", file); err != nil {
			wrong = append(wrong, err)
		}
	}
	if dir == "" {
		return g, wrong
	}
	// The separator makes WalkDir follow a directory that is a link.
	err := filepath.WalkDir(dir+string(filepath.Separator), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("--config-dir: %w", err)
		}
		if entry.IsDir() || filepath.Ext(entry.Name()) != dropInEnd {
			return nil
		}
		if err := g.read("--config-dir", path); err != nil {
			wrong = append(wrong, err)
		}
		return nil
	})
	if err != nil {
		wrong = append(wrong, err)
	}
	return g, wrong
}

// read lays a file over what is there. It is checked by itself first, so that an error names the right one.
func (g *given) read(flag, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	if len(data) > maxFile {
		return fmt.Errorf("%s: larger than %d bytes", name, maxFile)
	}
	document, err := parse(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	g.document = mergePatch(g.document, document)
	g.remember(name, "", document)
	return nil
}

// remember keeps which file gave a value.
func (g *given) remember(name, above string, document map[string]any) {
	for key, value := range document {
		g.origins[above+key] = name
		if inner, ok := value.(map[string]any); ok {
			g.remember(name, above+key+".", inner)
		}
	}
}

// origin names the file or flag that a field's value, or what it is in, came from.
func (g *given) origin(path string) string {
	path, _, _ = strings.Cut(path, "[")
	for path != "" {
		if name := g.origins[path]; name != "" {
			return name
		}
		path = path[:max(strings.LastIndexByte(path, '.'), 0)]
	}
	return "settings"
}

// decode turns what was given into a configuration: support, defaults, validation.
func (g *given) decode() (*kubeletconfig.KubeletConfiguration, error) {
	asGiven, err := toConfig(g.document)
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	c, err := toConfig(withDefaults(g.document, asGiven))
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	derive(c, asGiven)
	wrongGates, gateWarnings := checkGates(c.FeatureGates)
	g.warnings = slices.Concat(g.warnings, idleFields(g.document, asGiven), gateWarnings, insecureCiphers(c.TLSCipherSuites))
	return c, g.report(slices.Concat(unsupported(g.document, asGiven), wrongGates, validate(c)))
}

// report makes one error of problems, each with the file or flag that it came from.
func (g *given) report(problems []problem) error {
	var errs []error
	for _, p := range problems {
		errs = append(errs, fmt.Errorf("%s: %w", g.origin(p.path), p.err))
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// parse reads one document of YAML or JSON strictly: unknown and repeated fields are errors with their paths.
func parse(data []byte) (map[string]any, error) {
	data, err := onlyDocument(data)
	if err != nil {
		return nil, err
	}
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, err
	}
	if _, err := strict(asJSON); err != nil {
		return nil, err
	}
	document := map[string]any{}
	if err := sigsjson.UnmarshalCaseSensitivePreserveInts(asJSON, &document); err != nil {
		return nil, err
	}
	if document["apiVersion"] != apiVersion || document["kind"] != kind {
		return nil, fmt.Errorf("want apiVersion: %s and kind: %s, got %v and %v", apiVersion, kind, document["apiVersion"], document["kind"])
	}
	return document, nil
}

// onlyDocument refuses a second document: its settings would be lost without a word.
func onlyDocument(data []byte) ([]byte, error) {
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	var only []byte
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return only, nil
		}
		if err != nil {
			return nil, err
		}
		var content any
		if err := yaml.Unmarshal(document, &content); err == nil && content == nil {
			continue // comments only
		}
		if only != nil {
			return nil, errors.New("more than one document")
		}
		only = document
	}
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

// toConfig decodes a document.
func toConfig(document map[string]any) (*kubeletconfig.KubeletConfiguration, error) {
	data, err := json.Marshal(document)
	if err != nil {
		return nil, err
	}
	return strict(data)
}

// mergePatch is RFC 7386.
func mergePatch(base, patch map[string]any) map[string]any {
	merged := map[string]any{}
	maps.Copy(merged, base)
	for key, value := range patch {
		switch object, isObject := value.(map[string]any); {
		case value == nil:
			delete(merged, key)
		case isObject:
			below, _ := merged[key].(map[string]any)
			merged[key] = mergePatch(below, object)
		default:
			merged[key] = value
		}
	}
	return merged
}
