package stack

import (
	"context"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// MetricsServer is what feeds kubectl top and the autoscalers: https://github.com/kubernetes-sigs/metrics-server.
const MetricsServer = "metrics-server"

// MetricsResolution is how often it asks the nodes; it takes no less.
const MetricsResolution = 10 * time.Second

// metricsServerPort is where the aggregator finds it on the node's address.
const metricsServerPort = 4443

// metricsServerManifest is its own manifest, but that the endpoint is a process on the node and not a pod, that the
// aggregator verifies its certificate, and that the role has nothing that it does not use.
const metricsServerManifest = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: metrics-server, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "system:metrics-server"}
rules:
- {apiGroups: [""], resources: [nodes/metrics], verbs: [get]}
- {apiGroups: [""], resources: [pods, nodes], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "system:metrics-server"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:metrics-server"}
subjects: [{kind: ServiceAccount, name: metrics-server, namespace: kube-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "metrics-server:system:auth-delegator"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:auth-delegator"}
subjects: [{kind: ServiceAccount, name: metrics-server, namespace: kube-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: metrics-server-auth-reader, namespace: kube-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: extension-apiserver-authentication-reader}
subjects: [{kind: ServiceAccount, name: metrics-server, namespace: kube-system}]
---
apiVersion: v1
kind: Service
metadata: {name: metrics-server, namespace: kube-system}
spec: {ports: [{name: https, port: 443, targetPort: PORT}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: metrics-server, namespace: kube-system, labels: {kubernetes.io/service-name: metrics-server}}
addressType: IPv4
ports: [{name: https, port: PORT}]
endpoints: [{addresses: [NODE_IP]}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec: {group: metrics.k8s.io, version: v1beta1, groupPriorityMinimum: 100, versionPriority: 100, caBundle: CA_BUNDLE, service: {name: metrics-server, namespace: kube-system}}
`

// StartMetricsServer runs the real metrics-server as a process of the stack, behind the apiserver's aggregator. It is
// known to the node's server by the token of its account, and verifies that server's certificate. The process and
// what it needs in the cluster are gone when stop has returned: an API that nobody serves is in the way of kubectl.
func (s *Stack) StartMetricsServer(ctx context.Context) (_ *Process, stop func(context.Context) error, err error) {
	if _, err := os.Stat(s.Program(MetricsServer)); err != nil {
		return nil, nil, fmt.Errorf("find metrics-server (make stack builds it): %w", err)
	}
	ca, err := os.ReadFile(s.ca.path())
	if err != nil {
		return nil, nil, fmt.Errorf("read CA: %w", err)
	}
	manifest := strings.NewReplacer("PORT", fmt.Sprint(metricsServerPort), "NODE_IP", NodeIP, "CA_BUNDLE", base64.StdEncoding.EncodeToString(ca)).Replace(metricsServerManifest)
	var p *Process
	stop = func(ctx context.Context) error {
		err := s.kubectlInput(ctx, manifest, "delete", "--ignore-not-found", "--wait", "-f", "-")
		if p != nil {
			err = errors.Join(err, p.Stop(10*time.Second))
		}
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stop(context.WithoutCancel(ctx)))
		}
	}()
	if err := s.kubectlInput(ctx, manifest, "apply", "-f", "-"); err != nil {
		return nil, nil, err
	}
	args, err := s.metricsServerArgs(ctx)
	if err != nil {
		return nil, nil, err
	}
	if p, err = s.Spawn(MetricsServer, args...); err != nil {
		return nil, nil, err
	}
	return p, stop, nil
}

// metricsServerArgs makes its credentials and the command line.
func (s *Stack) metricsServerArgs(ctx context.Context) ([]string, error) {
	token, err := s.Client.CoreV1().ServiceAccounts(metav1.NamespaceSystem).CreateToken(ctx, MetricsServer, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("make token of metrics-server: %w", err)
	}
	kubeconfig, err := s.TokenKubeconfig(MetricsServer, token.Status.Token)
	if err != nil {
		return nil, err
	}
	serving, err := s.ca.issue(MetricsServer, pkix.Name{CommonName: MetricsServer}, "metrics-server.kube-system.svc")
	if err != nil {
		return nil, err
	}
	return []string{
		s.Program(MetricsServer), "--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		fmt.Sprintf("--secure-port=%d", metricsServerPort), "--tls-cert-file=" + serving.Cert, "--tls-private-key-file=" + serving.Key,
		"--kubelet-certificate-authority=" + s.ca.path(), "--kubelet-preferred-address-types=InternalIP", "--kubelet-use-node-status-port",
		"--metric-resolution=" + MetricsResolution.String(), "--kubelet-request-timeout=" + (MetricsResolution / 2).String(),
	}, nil
}

// kubectlInput runs kubectl with an input.
func (s *Stack) kubectlInput(ctx context.Context, input string, args ...string) error {
	cmd := s.KubectlCommand(ctx, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// aggregatorArgs let the apiserver pass requests on to other servers, which know it by a certificate of an authority of
// its own: by one of the clients' authority everybody with a certificate could claim to be anybody. Services have no
// addresses that lead anywhere here, so their endpoints are used.
func (s *Stack) aggregatorArgs() ([]string, error) {
	dir := filepath.Join(s.Dir, "pki", "front-proxy")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	authority, err := newAuthority(dir)
	if err != nil {
		return nil, err
	}
	const name = "front-proxy-client"
	pair, err := authority.issue("client", pkix.Name{CommonName: name})
	if err != nil {
		return nil, err
	}
	return []string{
		"--requestheader-client-ca-file=" + authority.path(), "--requestheader-allowed-names=" + name, "--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + pair.Cert, "--proxy-client-key-file=" + pair.Key, "--enable-aggregator-routing",
	}, nil
}
