package stack

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

// Names of the components, for StopComponent and StartComponent.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Containerd        = "containerd"
)

// component is a program that can be stopped and started again.
type component struct {
	args    []string
	own     []string                    // args before Reflag
	ready   func(context.Context) error // nil: nothing waits for it
	process *Process
}

// StartComponent starts a stopped component and waits until it serves.
func (s *Stack) StartComponent(ctx context.Context, name string) error {
	c := s.component(name)
	if c == nil {
		return fmt.Errorf("stack has no component %s", name)
	}
	s.progress("starting %s", name)
	process, err := s.Spawn(name, c.args...)
	if err != nil {
		return err
	}
	s.mu.Lock()
	c.process = process
	s.mu.Unlock()
	if c.ready == nil {
		return nil
	}
	limited, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("%s is not ready after a minute", name))
	defer cancel()
	if err := poll(limited, process, c.ready); err != nil {
		if ctx.Err() != nil { // it was given no time; its log says nothing of interest
			return fmt.Errorf("wait for %s: %w", name, context.Cause(ctx))
		}
		return fmt.Errorf("wait for %s: %w; its log ends:\n%s", name, err, process.LogTail(20))
	}
	return nil
}

// StopComponent sends sig to a component and waits for its end.
func (s *Stack) StopComponent(ctx context.Context, name string, sig syscall.Signal) error {
	p := s.Component(name)
	if p == nil {
		return fmt.Errorf("stack has no component %s", name)
	}
	if err := p.Signal(sig); err != nil {
		return err
	}
	select {
	case <-p.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop %s: %w", name, ctx.Err())
	}
}

// Component returns the process of a component, nil if the stack has none.
func (s *Stack) Component(name string) *Process {
	c := s.component(name)
	if c == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.process
}

func (s *Stack) component(name string) *component {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.components[name]
}

// addComponent registers a component without starting it.
func (s *Stack) addComponent(name string, ready func(context.Context) error, args ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.components[name] = &component{args: args, ready: ready}
}

// poll calls ready until it succeeds, the process ends or ctx does. None of the
// components announces that it serves.
func poll(ctx context.Context, process *Process, ready func(context.Context) error) error {
	var last error
	err := wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		select {
		case <-process.Done():
			return false, fmt.Errorf("it has ended: %w", process.err)
		default:
		}
		last = ready(ctx)
		return last == nil, nil
	})
	if err != nil && last != nil {
		return fmt.Errorf("%w: %w", err, last)
	}
	return err
}

// auditPolicy records what the nodes ask of the apiserver, and nothing else:
// the tests and the benchmark count those requests.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- {level: Metadata, userGroups: ["system:nodes"]}
- {level: None}
`

// startControlPlane starts etcd, kube-apiserver, kube-controller-manager and,
// if wanted, kube-scheduler.
func (s *Stack) startControlPlane(ctx context.Context) error {
	if err := s.controlPlaneComponents(); err != nil {
		return err
	}
	order := []string{Etcd, APIServer, ControllerManager}
	if s.options.Scheduler {
		order = append(order, Scheduler)
	}
	for _, name := range order {
		if err := s.StartComponent(ctx, name); err != nil {
			return err
		}
	}
	// Without it the apiserver refuses pods.
	err := poll(ctx, s.Component(ControllerManager), func(ctx context.Context) error {
		_, err := s.Client.CoreV1().ServiceAccounts(corev1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for the default service account: %w; log of the controller manager ends:\n%s",
			err, s.Component(ControllerManager).LogTail(20))
	}
	return nil
}

func (s *Stack) controlPlaneComponents() error {
	serving, err := s.ca.issueFor(longAgo(), time.Now().Add(24*time.Hour), "apiserver", pkix.Name{CommonName: "kube-apiserver"}, NodeIP, "127.0.0.1", "10.96.0.1",
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
	if err != nil {
		return err
	}
	toKubelet, err := s.ca.issueFor(longAgo(), time.Now().Add(24*time.Hour), "apiserver-kubelet", pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}})
	if err != nil {
		return err
	}
	accounts, err := s.ca.issue("service-accounts", pkix.Name{CommonName: "service-accounts"})
	if err != nil {
		return err
	}
	controllers, err := s.ca.kubeconfig("controller-manager", pkix.Name{CommonName: "system:kube-controller-manager"})
	if err != nil {
		return err
	}
	policy := filepath.Join(s.Dir, "audit-policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o644); err != nil {
		return err
	}
	s.addComponent(Etcd, s.httpReady("http://127.0.0.1:2379/health"),
		s.Program(Etcd), "--name=stack", "--data-dir="+filepath.Join(s.Dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=stack=http://127.0.0.1:2380", "--log-level=warn")
	aggregator, err := s.aggregatorArgs()
	if err != nil {
		return err
	}
	s.addComponent(APIServer, s.apiReady, append([]string{
		s.Program(APIServer), "--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=" + NodeIP, "--bind-address=0.0.0.0", "--secure-port=6443",
		"--tls-cert-file=" + serving.Cert, "--tls-private-key-file=" + serving.Key, "--client-ca-file=" + s.ca.path(),
		"--kubelet-client-certificate=" + toKubelet.Cert, "--kubelet-client-key=" + toKubelet.Key, "--kubelet-certificate-authority=" + s.ca.path(), "--kubelet-preferred-address-types=InternalIP",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true", "--enable-bootstrap-token-auth",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file=" + accounts.Cert,
		"--service-account-signing-key-file=" + accounts.Key, "--service-cluster-ip-range=10.96.0.0/16",
		"--audit-policy-file=" + policy, "--audit-log-path=" + s.auditLog(), "--profiling=false",
	}, aggregator...)...)
	s.addComponent(ControllerManager, nil,
		s.Program(ControllerManager), "--kubeconfig="+controllers, "--use-service-account-credentials", "--leader-elect=false",
		"--service-account-private-key-file="+accounts.Key, "--root-ca-file="+s.ca.path(), "--profiling=false",
		"--cluster-signing-cert-file="+s.ca.path(), "--cluster-signing-key-file="+filepath.Join(s.ca.dir, "ca.key"),
		"--controllers="+strings.Join(s.controllers(), ","))
	if !s.options.Scheduler {
		return nil
	}
	scheduling, err := s.ca.kubeconfig("scheduler", pkix.Name{CommonName: "system:kube-scheduler"})
	if err != nil {
		return err
	}
	s.addComponent(Scheduler, nil, s.Program(Scheduler), "--kubeconfig="+scheduling, "--leader-elect=false", "--profiling=false")
	return nil
}

// controllers are what nodes, pods and their owners need, unless all are wanted; the rest only costs CPU.
func (s *Stack) controllers() []string {
	if s.options.AllControllers {
		return []string{"*"}
	}
	return []string{
		"serviceaccount-controller", "serviceaccount-token-controller", "root-ca-certificate-publisher-controller",
		"namespace-controller", "garbage-collector-controller", "pod-garbage-collector-controller",
		"node-lifecycle-controller", "taint-eviction-controller", "deployment-controller", "replicaset-controller",
		"daemonset-controller", "job-controller", "endpointslice-controller",
		"persistentvolume-binder-controller", "persistentvolume-attach-detach-controller", "ephemeral-volume-controller",
		"persistentvolumeclaim-protection-controller",
		"certificatesigningrequest-approving-controller", "certificatesigningrequest-signing-controller",
	}
}

// httpReady succeeds when the URL answers 200.
func (s *Stack) httpReady(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := s.Get(ctx, url)
		return err
	}
}

// apiReady succeeds when the apiserver has finished its start.
func (s *Stack) apiReady(ctx context.Context) error {
	return s.Client.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// Exit has the testapp at an address end with a code. It ends before it answers, so the connection breaks; with any other error
// it may not have ended.
func (s *Stack) Exit(ctx context.Context, podIP string, code int) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%s/exit?code=%d", net.JoinHostPort(podIP, "8080"), code), nil)
	if err != nil {
		return err
	}
	answer, err := s.HTTP.Do(request)
	if err == nil {
		answer.Body.Close()
		return fmt.Errorf("POST %s: the answer is %s", request.URL, answer.Status)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return err
}

// Get fetches a plain HTTP URL from inside the namespace.
func (s *Stack) Get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := s.HTTP.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", url, resp.Status, body)
	}
	return string(body), err
}
