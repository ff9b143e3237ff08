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

// Credential is a login for a registry, and what the record of a pull with it says: the secret or the service account that it is
// from, or that it is the node's own, so that all pods may use the image.
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
// repository's, and globs within the labels of its host. Secrets of other types are passed over. One that cannot be read is an
// error, and the others count all the same. Errors name the secret and none of its content.
func Lookup(secrets []corev1.Secret, repository string) ([]Credential, error) {
	all := keyring{}
	var errs []error
	for i := range secrets {
		if err := all.addSecret(&secrets[i]); err != nil {
			errs = append(errs, fmt.Errorf("pull secret %s/%s: %w", secrets[i].Namespace, secrets[i].Name, err))
		}
	}
	return all.lookup(repository), errors.Join(errs...)
}

// keyring has the credentials for each location, which is written as by normalLocation.
type keyring map[string][]Credential

// lookup returns the credentials for a repository, those for the most specific location first.
func (k keyring) lookup(repository string) (found []Credential) {
	for _, location := range slices.Backward(slices.Sorted(maps.Keys(k))) {
		if locationMatches(location, repository) {
			found = append(found, k[location]...)
		}
	}
	if len(found) == 0 && inDefaultRegistry(repository) {
		return k[defaultRegistry]
	}
	return found
}

func (k keyring) addSecret(secret *corev1.Secret) error {
	key, parse := corev1.DockerConfigJsonKey, parseConfigJSON
	switch secret.Type {
	case corev1.SecretTypeDockerConfigJson:
	case corev1.SecretTypeDockercfg:
		key, parse = corev1.DockerConfigKey, parseDockercfg
	default:
		return nil
	}
	logins, err := parse(secret.Data[key])
	if err != nil {
		return fmt.Errorf("data[%s] %w", key, err)
	}
	locations, contents := k.add(logins, func(l login) kubeletconfig.ImagePullCredentials {
		return kubeletconfig.ImagePullCredentials{KubernetesSecrets: []kubeletconfig.ImagePullSecret{{
			UID: string(secret.UID), Namespace: secret.Namespace, Name: secret.Name, CredentialHash: l.hash(),
		}}}
	})
	return errors.Join(locations, contents)
}

// add adds the logins of a docker config that can be read. The errors are of those that name no registry, and of those whose
// content is broken.
func (k keyring) add(logins map[string]login, source func(login) kubeletconfig.ImagePullCredentials) (locations, contents error) {
	for _, location := range slices.Sorted(maps.Keys(logins)) {
		key, err := normalLocation(location)
		if err != nil {
			locations = errors.Join(locations, err)
			continue
		}
		login, err := logins[location].decoded()
		if err != nil {
			contents = errors.Join(contents, fmt.Errorf("entry %q: %w", location, err))
			continue
		}
		auth := &runtimeapi.AuthConfig{Username: login.Username, Password: login.Password}
		k[key] = append(k[key], Credential{auth, source(login)})
	}
	return locations, contents
}

// errNoConfig stands for the JSON error, which may quote a password.
var errNoConfig = errors.New("is no docker config")

// parseConfigJSON reads what docker calls config.json. Nothing at all is no login.
func parseConfigJSON(data []byte) (map[string]login, error) {
	var config struct {
		Auths map[string]login `json:"auths"`
	}
	if len(data) > 0 && json.Unmarshal(data, &config) != nil {
		return nil, errNoConfig
	}
	return config.Auths, nil
}

// parseDockercfg reads what older versions of docker call .dockercfg. Nothing at all is no login.
func parseDockercfg(data []byte) (logins map[string]login, err error) {
	if len(data) > 0 && json.Unmarshal(data, &logins) != nil {
		return nil, errNoConfig
	}
	return logins, nil
}

// decoded is the login with its user name and password, which may be given together as auth.
func (l login) decoded() (login, error) {
	if l.Auth == "" {
		return l, nil
	}
	encoding := base64.RawStdEncoding
	if strings.HasSuffix(strings.TrimSpace(l.Auth), "=") {
		encoding = base64.StdEncoding
	}
	both, err := encoding.DecodeString(l.Auth)
	if err != nil {
		return l, errors.New("auth is not base64")
	}
	username, password, ok := strings.Cut(string(both), ":")
	if !ok {
		return l, errors.New("auth is not username:password in base64")
	}
	return login{Username: username, Password: password, Email: l.Email}, nil
}

func (l login) hash() string {
	text, _ := json.Marshal(l) // strings always marshal
	hash := sha256.Sum256(text)
	return hex.EncodeToString(hash[:])
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

// inDefaultRegistry decides as docker does: a first component without dot and colon is no host.
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
