package settings

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

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
	g.settle(file != "")
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

// settle fills in what upstream has worked out before it lays drop-ins and flags over the file: how often the node's status is reported
// follows the file alone, and thresholds of a drop-in are added to those of the file, or to the default ones if it has none.
func (g *given) settle(hasFile bool) {
	c, err := toConfig(g.document)
	if err != nil {
		return // which decode tells
	}
	if c.NodeStatusReportFrequency.Duration == 0 {
		put(g.document, "nodeStatusReportFrequency", cmp.Or(c.NodeStatusUpdateFrequency.Duration, 5*time.Minute).String())
	}
	if _, given := lookup(g.document, "evictionHard"); !given && hasFile {
		put(g.document, "evictionHard", defaultEviction)
	}
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
	document, warnings, err := parse(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, text := range warnings {
		g.warnings = append(g.warnings, name+": "+text)
	}
	if flag == "--config" {
		resolvePaths(document, filepath.Dir(name))
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

// zeroCounts tells whether a zero at a field's path is meant, as that of a flag is: upstream reads flags over a configuration that has its
// defaults. An empty text is not meant, since scripts write it for none.
func (g *given) zeroCounts(f Field, kind reflect.Kind) bool {
	return f.Flag != "" && g.origins[f.Path] == "--"+f.Flag && kind != reflect.String && !f.ZeroIsDefault
}

// decode turns what was given into a configuration: support, defaults, validation.
func (g *given) decode() (*kubeletconfig.KubeletConfiguration, error) {
	asGiven, err := toConfig(g.document)
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	c, err := toConfig(g.withDefaults(asGiven))
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	derive(c, asGiven)
	wrongGates, gateWarnings := checkGates(asGiven.FeatureGates)
	g.warnings = slices.Concat(g.warnings, idleFields(g.document, asGiven), gateWarnings, soften(c))
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

// parse reads one document of YAML or JSON. As upstream, it takes unknown fields, fields that are there twice, of which the last counts,
// and a second document, which counts for nothing; a warning tells of each.
//
// Upstream: pkg/kubelet/kubeletconfig/util/codec/codec.go DecodeKubeletConfiguration.
func parse(data []byte) (document map[string]any, warnings []string, err error) {
	data, more, err := firstDocument(data)
	if err != nil {
		return nil, nil, err
	}
	if more {
		warnings = append(warnings, "only the first document counts")
	}
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		twice := err
		if asJSON, err = yaml.YAMLToJSON(data); err != nil {
			return nil, nil, err
		}
		warnings = append(warnings, fmt.Sprintf("the last of several values counts: %s", strings.Join(strings.Fields(twice.Error()), " ")))
	}
	unknown, err := sigsjson.UnmarshalStrict(asJSON, &kubeletconfig.KubeletConfiguration{})
	if err != nil {
		return nil, nil, err
	}
	for _, problem := range unknown {
		warnings = append(warnings, fmt.Sprintf("%v, which has no effect%s", problem, meant(problem)))
	}
	if err := sigsjson.UnmarshalCaseSensitivePreserveInts(asJSON, &document); err != nil {
		return nil, nil, err
	}
	if document["apiVersion"] != apiVersion || document["kind"] != kind {
		return nil, nil, fmt.Errorf("want apiVersion: %s and kind: %s, got %v and %v", apiVersion, kind, document["apiVersion"], document["kind"])
	}
	return document, warnings, nil
}

// meant proposes a field for one that is not known.
func meant(unknown error) string {
	var field sigsjson.FieldError
	if !errors.As(unknown, &field) {
		return ""
	}
	var paths []string
	for _, f := range table {
		paths = append(paths, f.Path)
	}
	return didYouMean(field.FieldPath(), paths)
}

// firstDocument returns the first document that holds more than comments, and whether there is another.
func firstDocument(data []byte) (first []byte, more bool, err error) {
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return first, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		var content any
		if err := yaml.Unmarshal(document, &content); err == nil && content == nil {
			continue
		}
		if first != nil {
			return first, true, nil
		}
		first = document
	}
}

// filePaths are the fields that name a file or directory, where a relative path is one below the file's directory.
//
// Upstream: pkg/kubelet/apis/config/helpers.go KubeletConfigurationPathRefs.
var filePaths = []string{
	"staticPodPath", "authentication.x509.clientCAFile", "tlsCertFile", "tlsPrivateKeyFile", "resolvConf", "volumePluginDir", "podLogsDir",
}

// resolvePaths makes the relative paths of a file absolute.
func resolvePaths(document map[string]any, dir string) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return
	}
	for _, field := range filePaths {
		value, _ := lookup(document, field)
		if path, ok := value.(string); ok && path != "" && !filepath.IsAbs(path) {
			put(document, field, filepath.Join(dir, path))
		}
	}
}

// toConfig decodes a document.
func toConfig(document map[string]any) (*kubeletconfig.KubeletConfiguration, error) {
	data, err := json.Marshal(document)
	if err != nil {
		return nil, err
	}
	c := &kubeletconfig.KubeletConfiguration{}
	return c, sigsjson.UnmarshalCaseSensitivePreserveInts(data, c)
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
