package images

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/singleflight"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	credentialconfig "k8s.io/kubelet/config/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	credentialprovider "k8s.io/kubelet/pkg/apis/credentialprovider/v1"
	"k8s.io/utils/clock"
)

const (
	pluginTimeout     = time.Minute // of one run of a plugin
	pluginAnswerLimit = 1 << 20     // bytes of a plugin's answer, and of what it says on standard error
)

// PluginOptions say where the credential plugins are. ServiceAccount and Token serve plugins that get a token of the pod's service
// account; without an apiserver they are nil, and such plugins are run without a token, or not at all if they require one.
type PluginOptions struct {
	ConfigPath     string // --image-credential-provider-config: a file, or a directory of them
	BinDir         string // --image-credential-provider-bin-dir
	ServiceAccount func(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
	Token          func(ctx context.Context, namespace, name string, request *authv1.TokenRequest) (*authv1.TokenRequest, error)
	Clock          clock.PassiveClock    // RealClock by default
	Registerer     prometheus.Registerer // may be nil
}

// Plugins ask programs for the credentials of images: those of cloud providers' registries, which change too often for a secret.
// Safe for concurrent use.
//
// Upstream: pkg/credentialprovider/plugin/plugin.go
type Plugins struct {
	options  PluginOptions
	list     []credentialconfig.CredentialProvider
	errors   *prometheus.CounterVec
	duration *prometheus.HistogramVec
	running  singleflight.Group // the same question is asked once at a time

	mu    sync.Mutex
	cache map[pluginKey]pluginAnswer
}

// pluginKey is what an answer is kept by: the plugin, the image, its registry or neither, and the service account's part.
type pluginKey struct {
	plugin, image, account string
}

type pluginAnswer struct {
	auth    map[string]credentialprovider.AuthConfig
	expires time.Time
}

// NewPlugins reads and checks the configuration. The error names every problem.
func NewPlugins(options PluginOptions) (*Plugins, error) {
	list, err := readPluginConfig(options.ConfigPath, options.BinDir)
	if err != nil {
		return nil, fmt.Errorf("credential providers: %w", err)
	}
	if options.Clock == nil {
		options.Clock = clock.RealClock{}
	}
	factory := promauto.With(options.Registerer)
	return &Plugins{
		options: options, list: list, cache: map[pluginKey]pluginAnswer{},
		errors: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_credential_provider_plugin_errors_total", Help: "Number of errors from credential provider plugin",
		}, []string{"plugin_name"}),
		duration: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_credential_provider_plugin_duration", Help: "Duration of execution in seconds for credential provider plugin", Buckets: prometheus.DefBuckets,
		}, []string{"plugin_name"}),
	}, nil
}

// Lookup returns the credentials that the plugins have for a repository without tag, in the order of the configuration, for each
// those of the most specific location first. A plugin that fails is logged and has none.
func (p *Plugins) Lookup(ctx context.Context, pod *corev1.Pod, repository string) (found []Credential) {
	for i := range p.list {
		plugin := &p.list[i]
		if !slices.ContainsFunc(plugin.MatchImages, func(location string) bool { return matchesImage(location, repository) }) {
			continue
		}
		credentials, err := p.ask(ctx, plugin, pod, repository)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Failed to provide credentials for image", "provider", plugin.Name, "image", repository, "pod", klog.KObj(pod), "podUID", pod.UID)
			continue
		}
		found = append(found, credentials...)
	}
	return found
}

func matchesImage(location, repository string) bool {
	normal, err := normalLocation(location)
	return err == nil && locationMatches(normal, repository)
}

// ask returns what one plugin has, from the cache or by running it.
func (p *Plugins) ask(ctx context.Context, plugin *credentialconfig.CredentialProvider, pod *corev1.Pod, repository string) ([]Credential, error) {
	account, err := p.account(ctx, plugin, pod)
	if err != nil || account == nil {
		return nil, err
	}
	auth, ok := p.cached(plugin.Name, repository, account.key)
	if !ok {
		asked, err, _ := p.running.Do(strings.Join([]string{plugin.Name, repository, account.token, account.key}, "\x00"), func() (any, error) {
			// Another pod may wait for the same answer, so it does not end with this one's pull.
			return p.run(context.WithoutCancel(ctx), plugin, repository, account)
		})
		if err != nil {
			return nil, err
		}
		auth = asked.(map[string]credentialprovider.AuthConfig)
	}
	var found []Credential
	for _, location := range slices.Backward(slices.Sorted(maps.Keys(auth))) {
		if matchesImage(location, repository) {
			login := auth[location]
			found = append(found, Credential{Auth: &runtimeapi.AuthConfig{Username: login.Username, Password: login.Password}, Source: account.source})
		}
	}
	return found, nil
}

// accountFacts are what a plugin is told of the pod's service account.
type accountFacts struct {
	token       string
	annotations map[string]string
	key         string // what answers are kept by besides the image
	source      kubeletconfig.ImagePullCredentials
}

// account returns what the plugin is told of the pod's service account, which may be nothing; nil if the plugin is not for this pod.
func (p *Plugins) account(ctx context.Context, plugin *credentialconfig.CredentialProvider, pod *corev1.Pod) (*accountFacts, error) {
	wants, name := plugin.TokenAttributes, pod.Spec.ServiceAccountName
	without := &accountFacts{source: kubeletconfig.ImagePullCredentials{NodePodsAccessible: true}}
	if wants == nil {
		return without, nil
	}
	if name == "" || p.options.Token == nil {
		if *wants.RequireServiceAccount {
			return nil, nil
		}
		return without, nil
	}
	sa, err := p.options.ServiceAccount(ctx, pod.Namespace, name)
	if err != nil {
		return nil, fmt.Errorf("failed to get service account %s/%s: %w", pod.Namespace, name, err)
	}
	facts := &accountFacts{annotations: map[string]string{}, source: kubeletconfig.ImagePullCredentials{
		KubernetesServiceAccounts: []kubeletconfig.ImagePullServiceAccount{{UID: string(sa.UID), Namespace: pod.Namespace, Name: name}},
	}}
	for _, key := range wants.RequiredServiceAccountAnnotationKeys {
		value, ok := sa.Annotations[key]
		if !ok {
			return nil, nil // the account has not opted in
		}
		facts.annotations[key] = value
	}
	for _, key := range wants.OptionalServiceAccountAnnotationKeys {
		if value, ok := sa.Annotations[key]; ok {
			facts.annotations[key] = value
		}
	}
	answer, err := p.options.Token(ctx, pod.Namespace, name, &authv1.TokenRequest{
		ObjectMeta: metav1.ObjectMeta{UID: sa.UID},
		Spec: authv1.TokenRequestSpec{
			Audiences:      []string{wants.ServiceAccountTokenAudience},
			BoundObjectRef: &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("failed to get a token of service account %s/%s: %w", pod.Namespace, name, err)
	}
	facts.token = answer.Status.Token
	facts.key = accountKey(wants.CacheType, sa, facts, pod.UID)
	return facts, nil
}

// accountKey sets apart the answers for one service account, or for one of its tokens, from all others.
func accountKey(by credentialconfig.ServiceAccountTokenCacheType, sa *corev1.ServiceAccount, facts *accountFacts, pod types.UID) string {
	parts := []any{sa.Namespace, sa.Name, sa.UID, facts.annotations}
	if by == cacheByToken {
		parts = append(parts, pod, sha256.Sum256([]byte(facts.token)))
	}
	key, _ := json.Marshal(parts) // strings and a map of them always marshal, keys sorted
	return string(key)
}

// cached returns the newest answer that is for this image, its registry or all of the plugin's.
func (p *Plugins) cached(plugin, repository, account string) (map[string]credentialprovider.AuthConfig, bool) {
	now := p.options.Clock.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, answer := range p.cache {
		if !now.Before(answer.expires) {
			delete(p.cache, key)
		}
	}
	for _, image := range []string{repository, registryOf(repository), ""} {
		if answer, ok := p.cache[pluginKey{plugin, image, account}]; ok {
			return answer.auth, true
		}
	}
	return nil, false
}

// registryOf is the host and port of a repository.
func registryOf(repository string) string {
	host, _, _ := strings.Cut(repository, "/")
	return host
}

// run runs the plugin and keeps its answer for as long as the answer, or the configuration, says.
func (p *Plugins) run(ctx context.Context, plugin *credentialconfig.CredentialProvider, repository string, account *accountFacts) (map[string]credentialprovider.AuthConfig, error) {
	began := p.options.Clock.Now()
	response, err := p.exec(ctx, plugin, repository, account)
	p.duration.WithLabelValues(plugin.Name).Observe(p.options.Clock.Since(began).Seconds())
	if err != nil {
		p.errors.WithLabelValues(plugin.Name).Inc()
		return nil, err
	}
	if t := plugin.TokenAttributes; t != nil && account.token != "" && t.CacheType != cacheByToken {
		for _, login := range response.Auth {
			if login.Password == account.token {
				return nil, errors.New("the plugin returned the service account token as password, which needs tokenAttributes.cacheType Token")
			}
		}
	}
	key := pluginKey{plugin: plugin.Name, account: account.key}
	switch response.CacheKeyType {
	case credentialprovider.ImagePluginCacheKeyType:
		key.image = repository
	case credentialprovider.RegistryPluginCacheKeyType:
		key.image = registryOf(repository)
	case credentialprovider.GlobalPluginCacheKeyType:
	default:
		return nil, fmt.Errorf("the plugin did not return a valid cacheKeyType: %q", response.CacheKeyType)
	}
	if keep := cmp.Or(response.CacheDuration, plugin.DefaultCacheDuration).Duration; keep > 0 {
		p.mu.Lock()
		p.cache[key] = pluginAnswer{response.Auth, began.Add(keep)}
		p.mu.Unlock()
	}
	return response.Auth, nil
}

// exec runs the program: the request on its standard input, the answer from its standard output. Errors do not quote the answer,
// which may hold credentials.
func (p *Plugins) exec(ctx context.Context, plugin *credentialconfig.CredentialProvider, repository string, account *accountFacts) (*credentialprovider.CredentialProviderResponse, error) {
	request, err := json.Marshal(credentialprovider.CredentialProviderRequest{
		TypeMeta: metav1.TypeMeta{APIVersion: plugin.APIVersion, Kind: "CredentialProviderRequest"},
		Image:    repository, ServiceAccountToken: account.token, ServiceAccountAnnotations: account.annotations,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.options.BinDir, plugin.Name), plugin.Args...)
	stdout, stderr := &bounded{limit: pluginAnswerLimit}, &bounded{limit: pluginAnswerLimit}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(request), stdout, stderr
	cmd.WaitDelay = time.Second // for output that a child of the plugin keeps open
	cmd.Env = os.Environ()
	for _, v := range plugin.Env {
		cmd.Env = append(cmd.Env, v.Name+"="+v.Value)
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("error execing credential provider plugin %s for image %s: %w: %s", plugin.Name, repository, err, strings.TrimSpace(stderr.String()))
	}
	response := &credentialprovider.CredentialProviderResponse{}
	if err := json.Unmarshal(stdout.Bytes(), response); err != nil {
		return nil, errors.New("error decoding credential provider plugin response from stdout")
	}
	if response.APIVersion != plugin.APIVersion || response.Kind != "CredentialProviderResponse" {
		return nil, fmt.Errorf("the plugin answered with %q %q, not with %q CredentialProviderResponse", response.APIVersion, response.Kind, plugin.APIVersion)
	}
	return response, nil
}

// bounded is a buffer that refuses to grow beyond its limit, which ends the program that writes to it.
type bounded struct {
	bytes.Buffer
	limit int
}

func (b *bounded) Write(data []byte) (int, error) {
	if b.Len()+len(data) > b.limit {
		return 0, fmt.Errorf("more than %d bytes of output", b.limit)
	}
	return b.Buffer.Write(data)
}
