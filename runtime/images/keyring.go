package images

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// Credential is a login for a registry, and what the record of a pull with it says: the secret or the service account that it is from, or that
// it is the node's own, so that all pods may use the image.
//
// Upstream: pkg/credentialprovider/keyring.go TrackedAuthConfig
type Credential struct {
	Auth   *runtimeapi.AuthConfig
	Source kubeletconfig.ImagePullCredentials
}

// login is one entry of a docker config; auth stands for the other two as base64(username:password).
type login struct {
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
	Email    string `json:"email,omitempty"`
	Auth     string `json:"auth,omitempty"`
}

// defaultRegistry is where names without a registry lead, as docker configs call it.
const defaultRegistry = "index.docker.io"

// Lookup returns the credentials that the pull secrets have for a repository ("registry.example/team/app", no tag),
// those for the most specific location first. A location may have a port and a path, which must be a prefix of the
// repository's, and globs within the labels of its host. Secrets of other types are no business of image pulls; one
// that cannot be read is an error, and the others count all the same. Errors name the secret and none of its content.
//
// Upstream: pkg/credentialprovider/keyring.go BasicDockerKeyring, secrets/secrets.go MakeDockerKeyring
func Lookup(secrets []corev1.Secret, repository string) ([]Credential, error) {
	byLocation := map[string][]Credential{}
	var errs []error
	for i := range secrets {
		if err := addSecret(byLocation, &secrets[i]); err != nil {
			errs = append(errs, fmt.Errorf("pull secret %s/%s: %w", secrets[i].Namespace, secrets[i].Name, err))
		}
	}
	var out []Credential
	locations := slices.Sorted(maps.Keys(byLocation))
	for _, location := range slices.Backward(locations) {
		if locationMatches(location, repository) {
			out = append(out, byLocation[location]...)
		}
	}
	if len(out) == 0 && inDefaultRegistry(repository) {
		out = byLocation[defaultRegistry]
	}
	return out, errors.Join(errs...)
}

func addSecret(byLocation map[string][]Credential, secret *corev1.Secret) error {
	var logins map[string]login
	switch secret.Type {
	case corev1.SecretTypeDockerConfigJson:
		var config struct {
			Auths map[string]login `json:"auths"`
		}
		if err := unmarshal(secret, corev1.DockerConfigJsonKey, &config); err != nil {
			return err
		}
		logins = config.Auths
	case corev1.SecretTypeDockercfg:
		if err := unmarshal(secret, corev1.DockerConfigKey, &logins); err != nil {
			return err
		}
	}
	var errs []error
	for _, location := range slices.Sorted(maps.Keys(logins)) {
		key, err := normalLocation(location)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		credential, err := logins[location].credential(secret)
		if err != nil {
			errs = append(errs, fmt.Errorf("entry %q: %w", location, err))
			continue
		}
		byLocation[key] = append(byLocation[key], credential)
	}
	return errors.Join(errs...)
}

// unmarshal keeps the JSON error to itself: it may quote the secret.
func unmarshal(secret *corev1.Secret, key string, into any) error {
	data := secret.Data[key]
	if len(data) == 0 {
		return nil
	}
	if json.Unmarshal(data, into) != nil {
		return fmt.Errorf("data[%s] is no docker config", key)
	}
	return nil
}

func (l login) credential(secret *corev1.Secret) (Credential, error) {
	if l.Auth != "" {
		encoding := base64.RawStdEncoding
		if strings.HasSuffix(strings.TrimSpace(l.Auth), "=") {
			encoding = base64.StdEncoding
		}
		decoded, err := encoding.DecodeString(l.Auth)
		if err != nil {
			return Credential{}, errors.New("auth is not base64")
		}
		username, password, ok := strings.Cut(string(decoded), ":")
		if !ok {
			return Credential{}, errors.New("auth is not username:password in base64")
		}
		l.Username, l.Password, l.Auth = username, password, ""
	}
	// Strings always marshal.
	text, _ := json.Marshal(l)
	hash := sha256.Sum256(text)
	return Credential{
		Auth: &runtimeapi.AuthConfig{Username: l.Username, Password: l.Password},
		Source: kubeletconfig.ImagePullCredentials{KubernetesSecrets: []kubeletconfig.ImagePullSecret{{
			UID: string(secret.UID), Namespace: secret.Namespace, Name: secret.Name, CredentialHash: hex.EncodeToString(hash[:]),
		}}},
	}, nil
}

// normalLocation is host and path of a docker config's key. The API version that old configs have as their path stands
// for the whole host.
func normalLocation(location string) (string, error) {
	if !strings.HasPrefix(location, "https://") && !strings.HasPrefix(location, "http://") {
		location = "https://" + location
	}
	parsed, err := url.Parse(location)
	if err != nil || parsed.Host == "" {
		return "", fmt.Errorf("entry %q is no registry", location)
	}
	where := parsed.Path
	if strings.HasPrefix(where, "/v1/") || strings.HasPrefix(where, "/v2/") {
		where = where[len("/v1"):]
	}
	if where == "/" {
		where = ""
	}
	return parsed.Host + where, nil
}

// locationMatches compares hosts label by label, with globs, ports exactly, and paths by prefix.
//
// Upstream: pkg/credentialprovider/keyring.go URLsMatch
func locationMatches(location, repository string) bool {
	want, err := url.Parse("https://" + location)
	if err != nil {
		return false
	}
	have, err := url.Parse("https://" + repository)
	if err != nil || have.User != nil { // "registry.example@elsewhere.example" is no repository
		return false
	}
	wantLabels, wantPort := splitHost(want.Host)
	haveLabels, havePort := splitHost(have.Host)
	if wantPort != havePort || len(wantLabels) != len(haveLabels) || !strings.HasPrefix(have.Path, want.Path) {
		return false
	}
	for i, label := range wantLabels {
		if ok, err := path.Match(label, haveLabels[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

func splitHost(hostPort string) (labels []string, port string) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		host, port = hostPort, ""
	}
	return strings.Split(host, "."), port
}

// inDefaultRegistry tells docker's way: a first component without dot and colon is no host.
func inDefaultRegistry(repository string) bool {
	first, _, slash := strings.Cut(repository, "/")
	switch {
	case first == "":
		return false
	case !slash, first == "docker.io", first == defaultRegistry:
		return true
	}
	return !strings.ContainsAny(first, ".:")
}
