package images

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	credentialconfig "k8s.io/kubelet/config/v1"
	sigsyaml "sigs.k8s.io/yaml"
)

// Versions of the plugins' configuration and of the requests to plugins. Those before v1 have fewer fields, of the same meaning.
var (
	pluginConfigVersions  = []string{"kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"}
	pluginRequestVersions = []string{pluginV1, "credentialprovider.kubelet.k8s.io/v1beta1", "credentialprovider.kubelet.k8s.io/v1alpha1"}
)

const (
	pluginV1          = "credentialprovider.kubelet.k8s.io/v1"
	pluginConfigKind  = "CredentialProviderConfig"
	pluginConfigLimit = 1 << 20 // bytes of one file
)

// readPluginConfig reads a CredentialProviderConfig from a file, or from the .json, .yaml and .yml files of a directory in the order
// of their names. The error names every problem with its file and provider.
func readPluginConfig(path, binDir string) ([]credentialconfig.CredentialProvider, error) {
	files, err := pluginConfigFiles(path)
	if err != nil {
		return nil, err
	}
	var all []credentialconfig.CredentialProvider
	var errs []error
	for _, file := range files {
		config, err := decodePluginConfig(file)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file, err))
			continue
		}
		if len(config.Providers) == 0 {
			errs = append(errs, fmt.Errorf("%s: providers: at least one is required", file))
		}
		for i := range config.Providers {
			p := config.Providers[i]
			if slices.ContainsFunc(all, func(other credentialconfig.CredentialProvider) bool { return other.Name == p.Name }) {
				errs = append(errs, fmt.Errorf("%s: providers[%d]: the name %q is there twice", file, i, p.Name))
			}
			for _, problem := range validatePlugin(&p, binDir) {
				errs = append(errs, fmt.Errorf("%s: providers[%d] (%s): %s", file, i, p.Name, problem))
			}
			all = append(all, p)
		}
	}
	return all, errors.Join(errs...)
}

func pluginConfigFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && slices.Contains([]string{".json", ".yaml", ".yml"}, ext) {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: no file that ends in .json, .yaml or .yml", path)
	}
	return files, nil
}

func decodePluginConfig(file string) (*credentialconfig.CredentialProviderConfig, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if len(data) > pluginConfigLimit {
		return nil, fmt.Errorf("larger than %d bytes", pluginConfigLimit)
	}
	config := &credentialconfig.CredentialProviderConfig{}
	if err := sigsyaml.UnmarshalStrict(data, config); err != nil {
		return nil, err
	}
	if config.Kind != pluginConfigKind || !slices.Contains(pluginConfigVersions, config.APIVersion) {
		return nil, fmt.Errorf("want kind %s and apiVersion %s, got %s and %s", pluginConfigKind, pluginConfigVersions[0], config.Kind, config.APIVersion)
	}
	return config, nil
}

// validatePlugin tells what is wrong with one provider.
func validatePlugin(p *credentialconfig.CredentialProvider, binDir string) (problems []string) {
	add := func(bad bool, format string, args ...any) {
		if bad {
			problems = append(problems, fmt.Sprintf(format, args...))
		}
	}
	badName := p.Name == "" || p.Name == "." || p.Name == ".." || strings.ContainsAny(p.Name, "/ ")
	add(badName, "name: %q must be that of a program in %s", p.Name, binDir)
	if !badName {
		_, err := exec.LookPath(filepath.Join(binDir, p.Name))
		add(err != nil, "name: %v", err)
	}
	add(!slices.Contains(pluginRequestVersions, p.APIVersion), "apiVersion: %q must be one of %s", p.APIVersion, strings.Join(pluginRequestVersions, ", "))
	add(len(p.MatchImages) == 0, "matchImages: at least one is required")
	for i, image := range p.MatchImages {
		_, err := normalLocation(image)
		add(err != nil, "matchImages[%d]: %v", i, err)
	}
	add(p.DefaultCacheDuration == nil, "defaultCacheDuration: is required")
	add(p.DefaultCacheDuration != nil && p.DefaultCacheDuration.Duration < 0, "defaultCacheDuration: must not be negative")
	t := p.TokenAttributes
	if t == nil {
		return problems
	}
	add(p.APIVersion != pluginV1, "tokenAttributes: needs apiVersion %s", pluginV1)
	add(t.ServiceAccountTokenAudience == "", "tokenAttributes.serviceAccountTokenAudience: is required")
	add(t.RequireServiceAccount == nil, "tokenAttributes.requireServiceAccount: is required")
	add(t.RequireServiceAccount != nil && !*t.RequireServiceAccount && len(t.RequiredServiceAccountAnnotationKeys) > 0,
		"tokenAttributes.requiredServiceAccountAnnotationKeys: needs requireServiceAccount")
	add(!slices.Contains([]credentialconfig.ServiceAccountTokenCacheType{cacheByServiceAccount, cacheByToken}, t.CacheType),
		"tokenAttributes.cacheType: %q must be %s or %s", t.CacheType, cacheByServiceAccount, cacheByToken)
	seen := map[string]bool{}
	for _, key := range slices.Concat(t.RequiredServiceAccountAnnotationKeys, t.OptionalServiceAccountAnnotationKeys) {
		for _, problem := range validation.IsQualifiedName(strings.ToLower(key)) {
			add(true, "tokenAttributes: annotation key %q: %s", key, problem)
		}
		add(seen[key], "tokenAttributes: annotation key %q is there twice", key)
		seen[key] = true
	}
	return problems
}

// What credentials that were got for a service account's token are kept by.
const (
	cacheByServiceAccount = credentialconfig.ServiceAccountServiceAccountTokenCacheType
	cacheByToken          = credentialconfig.TokenServiceAccountTokenCacheType
)
