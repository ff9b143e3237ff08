// Command cluster runs a one-node cluster on this machine until Ctrl-C: etcd,
// kube-apiserver, a container runtime and this kubelet, in a network namespace
// of their own. It deploys examples/ and shows the node and the pods becoming
// Ready. With -standalone there is only the kubelet, which is its own runtime,
// and the static pods. `make run`, `make cluster` and `make debug` are this command.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"minikubelet/e2e/debugger"
	"minikubelet/e2e/stack"
)

// dlvAddress is where the debugger listens, in the namespace and on the host.
const dlvAddress = "127.0.0.1:2345"

type flags struct {
	runtime, kubelet, examples, bin, dlv string
	env                                  string
	args                                 string // of the kubelet, besides
	verbosity                            int
	standalone, once                     bool
}

func main() {
	var f flags
	flag.StringVar(&f.runtime, "runtime", stack.Containerd, "CRI runtime to run pods with")
	flag.StringVar(&f.kubelet, "kubelet", "minikubelet", "which kubelet: minikubelet or upstream")
	flag.StringVar(&f.examples, "examples", "examples", "directory with static pods in static/ and manifests to deploy in cluster/; empty for none")
	flag.StringVar(&f.bin, "bin", "", "directory of the stack's programs (default $"+stack.BinEnv+")")
	flag.StringVar(&f.dlv, "dlv", "", "path of dlv: run the kubelet under it, listening on "+dlvAddress)
	flag.StringVar(&f.env, "env", "", "with -standalone: a script to write, whose variables lead a shell to the kubelet")
	flag.StringVar(&f.args, "args", "", "flags of the kubelet besides, as in --step=CreateContainer")
	flag.IntVar(&f.verbosity, "v", 2, "log verbosity of the kubelet")
	flag.BoolVar(&f.standalone, "standalone", false, "no control plane, the kubelet's embedded runtime, and images from archives")
	flag.BoolVar(&f.once, "once", false, "end when all pods are Ready instead of waiting for Ctrl-C")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	start := run
	if f.standalone {
		start = runStandalone
	}
	if err := start(ctx, f); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// sayer prints one line of progress with the time since the start.
type sayer func(format string, args ...any)

func newSayer() sayer {
	start := time.Now()
	return func(format string, args ...any) {
		fmt.Printf("%7.2fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
}

// onStack starts a stack with the example's image and the static pods, and has use start a kubelet there, which closes
// ready when all is Ready. It takes everything down when it is told to, when the kubelet ends, or with -once then. Where
// there is again, that starts a kubelet in the place of one that was killed.
func onStack(ctx context.Context, f flags, o stack.Options, again func(*stack.Stack) (*stack.Kubelet, error), use func(s *stack.Stack, say sayer, pods []string, ready chan<- struct{}) (*stack.Kubelet, error)) (err error) {
	say := newSayer()
	o.BinDir, o.Progress = f.bin, say
	s, err := stack.Start(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		say("taking everything down")
		err = errors.Join(err, s.Close())
	}()
	if err := publishHello(ctx, s, f.examples); err != nil {
		return err
	}
	pods, err := copyManifests(f.examples, s)
	if err != nil {
		return err
	}
	ready := make(chan struct{})
	k, err := use(s, say, pods, ready)
	if err != nil {
		return err
	}
	if !f.once {
		ready = nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ready:
			return nil
		case <-k.Done():
		}
		if again == nil || !strings.Contains(fmt.Sprint(k.Wait(ctx)), "killed") {
			return fmt.Errorf("the kubelet has ended; its log ends:\n%s", k.LogTail(20))
		}
		if k, err = again(s); err != nil {
			return err
		}
		say("the kubelet was killed and is started again, pid %d; its pods have gone on", k.Pid())
	}
}

func run(ctx context.Context, f flags) error {
	if f.kubelet != "upstream" && f.kubelet != "minikubelet" {
		return fmt.Errorf("unknown kubelet %q: minikubelet or upstream", f.kubelet)
	}
	o := stack.Options{Runtime: f.runtime, Scheduler: true}
	return onStack(ctx, f, o, nil, func(s *stack.Stack, say sayer, pods []string, ready chan<- struct{}) (*stack.Kubelet, error) {
		k, err := startKubelet(s, f)
		if err != nil {
			return nil, err
		}
		kubeconfig, err := forwardAPI(ctx, s)
		if err != nil {
			return nil, err
		}
		show(s, k, kubeconfig)
		if f.dlv == "" {
			say("started the kubelet, pid %d", k.Pid())
		} else if err := offerDebugger(ctx, s, say, k); err != nil {
			return nil, err
		}
		if err := deploy(ctx, s, f.examples); err != nil {
			return nil, fmt.Errorf("deploy %s: %w", f.examples, err)
		}
		deployed, err := s.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		for _, pod := range deployed.Items {
			pods = append(pods, podKey(pod.Namespace, pod.Name))
		}
		go watch(ctx, s, say, pods, ready)
		if f.kubelet == "minikubelet" && f.dlv == "" {
			go tellWhy(ctx, s, say)
		}
		return k, nil
	})
}

// offerDebugger waits until the debugger has built the kubelet and listens, and makes it reachable from outside.
func offerDebugger(ctx context.Context, s *stack.Stack, say sayer, k *stack.Kubelet) error {
	say("building the kubelet for the debugger")
	if err := debugger.WaitListening(ctx, k); err != nil {
		return err
	}
	if _, err := listenAndForward(ctx, s, dlvAddress, dlvAddress); err != nil {
		return err
	}
	say("the kubelet waits for a debugger: dlv connect %s (or an IDE's remote session), then continue", dlvAddress)
	return nil
}

// startKubelet starts the wanted kubelet, under a debugger if wanted.
func startKubelet(s *stack.Stack, f flags) (*stack.Kubelet, error) {
	o := stack.KubeletOptions{Upstream: f.kubelet == "upstream", Verbosity: f.verbosity, Args: strings.Fields(f.args)}
	if f.dlv == "" {
		return s.StartKubelet(o)
	}
	module, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	o.Args = append([]string{"--debug-hold"}, o.Args...)
	o.Wrap = func(args []string) []string {
		// dlv builds the program itself, without optimizations.
		debug := []string{"env", "-C", module, "CGO_ENABLED=0", f.dlv, "debug", "--headless", "--listen=" + dlvAddress,
			"--accept-multiclient", "--api-version=2", "--output=" + filepath.Join(s.Dir, "kubelet.debug"), "./cmd/kubelet", "--"}
		return append(debug, args[1:]...)
	}
	return s.StartKubelet(o)
}

// copyManifests copies DIR/static/* to the kubelet's manifest directory and
// returns the keys of the pods that the apiserver will show for them.
func copyManifests(examples string, s *stack.Stack) ([]string, error) {
	if examples == "" {
		return nil, nil
	}
	files, err := filepath.Glob(filepath.Join(examples, "static", "*.yaml"))
	if err != nil {
		return nil, err
	}
	var mirrors []string
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var pod corev1.Pod
		if err := yaml.Unmarshal(data, &pod); err != nil {
			return nil, fmt.Errorf("parse %s: %w", file, err)
		}
		if pod.Namespace == "" {
			pod.Namespace = corev1.NamespaceDefault
		}
		mirrors = append(mirrors, podKey(pod.Namespace, pod.Name+"-"+s.NodeName))
		if err := os.WriteFile(filepath.Join(s.ManifestDir(), filepath.Base(file)), data, 0o644); err != nil {
			return nil, err
		}
	}
	return mirrors, nil
}

// publishHello makes the image of examples/hello: one static program.
func publishHello(ctx context.Context, s *stack.Stack, examples string) error {
	if examples == "" {
		return nil
	}
	program, err := s.BuildProgram(ctx, "examples/hello")
	if err != nil {
		return err
	}
	image, err := stack.BuildImage([]stack.File{{Path: "/hello", Data: program, Mode: 0o755}}, v1.Config{Entrypoint: []string{"/hello"}})
	if err != nil {
		return err
	}
	return s.Publish(ctx, "hello:1", image)
}

// deploy applies the manifests to the apiserver.
func deploy(ctx context.Context, s *stack.Stack, examples string) error {
	if examples == "" {
		return nil
	}
	dir, err := filepath.Abs(filepath.Join(examples, "cluster"))
	if err != nil {
		return err
	}
	_, err = s.Kubectl(ctx, "apply", "-f", dir)
	return err
}

// forwardAPI makes the apiserver reachable from the host and writes a kubeconfig
// that says so.
func forwardAPI(ctx context.Context, s *stack.Stack) (string, error) {
	inside := stack.NodeIP + ":6443"
	outside, err := listenAndForward(ctx, s, "127.0.0.1:0", inside)
	if err != nil {
		return "", err
	}
	config, err := os.ReadFile(s.AdminKubeconfig)
	if err != nil {
		return "", err
	}
	path := filepath.Join(s.Dir, "kubeconfig")
	return path, os.WriteFile(path, []byte(strings.ReplaceAll(string(config), inside, outside)), 0o600)
}

// listenAndForward connects a port of the host's loopback interface with an
// address in the stack.
func listenAndForward(ctx context.Context, s *stack.Stack, outside, inside string) (string, error) {
	l, err := net.Listen("tcp", outside)
	if err != nil {
		return "", fmt.Errorf("listen for %s: %w", inside, err)
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				server, err := s.DialContext(ctx, "tcp", inside)
				if err != nil {
					return
				}
				defer server.Close()
				splice(client, server)
			}()
		}
	}()
	return l.Addr().String(), nil
}

// splice copies in both directions until one ends.
func splice(a, b net.Conn) {
	var once sync.WaitGroup
	once.Add(1)
	end := sync.OnceFunc(once.Done)
	go func() { _, _ = io.Copy(a, b); end() }()
	go func() { _, _ = io.Copy(b, a); end() }()
	once.Wait()
}

// show prints how to look at the cluster.
func show(s *stack.Stack, k *stack.Kubelet, kubeconfig string) {
	fmt.Printf(`
  kubectl       export KUBECONFIG=%s
                %s get pods -A -o wide
  crictl        crictl -r unix://%s pods
  kubelet log   %s
  other logs    %s
  pod logs      %s
  network       nsenter --net=%s

`, kubeconfig, s.Program("kubectl"), s.RuntimeSocket, k.LogPath, filepath.Dir(k.LogPath), s.PodLogsDir(), s.NetnsPath())
}

// watch prints the changes of node and pods, and closes ready once the node and
// the awaited pods are Ready.
func watch(ctx context.Context, s *stack.Stack, say sayer, await []string, ready chan<- struct{}) {
	nodes, err := s.Client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
	if err != nil {
		say("watch nodes: %v", err)
		return
	}
	defer nodes.Stop()
	pods, err := s.Client.CoreV1().Pods("").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		say("watch pods: %v", err)
		return
	}
	defer pods.Stop()
	seen := map[string]string{}
	pending := map[string]bool{nodeKey(s.NodeName): true}
	for _, key := range await {
		pending[key] = true
	}
	tell := func(key, state string, ok bool) {
		if seen[key] == state {
			return
		}
		seen[key] = state
		say("%s %s", key, state)
		if ok {
			delete(pending, key)
		}
		if len(pending) == 0 && ready != nil {
			say("everything is Ready")
			close(ready)
			ready = nil
		}
	}
	for {
		select {
		case e, ok := <-nodes.ResultChan():
			if !ok {
				return
			}
			if node, is := e.Object.(*corev1.Node); is {
				tell(nodeKey(node.Name), nodeState(node), stack.NodeReady(node))
			}
		case e, ok := <-pods.ResultChan():
			if !ok {
				return
			}
			if pod, is := e.Object.(*corev1.Pod); is {
				tell(podKey(pod.Namespace, pod.Name), podState(pod), stack.PodReady(pod))
			}
		}
	}
}

func nodeKey(name string) string { return "node " + name }

func podKey(namespace, name string) string { return "pod  " + namespace + "/" + name }

func nodeState(node *corev1.Node) string {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return fmt.Sprintf("NotReady (%s)", c.Reason)
		}
	}
	if stack.NodeReady(node) {
		return "Ready"
	}
	return "registered"
}

// podState says in a few words how far a pod is.
func podState(pod *corev1.Pod) string {
	if pod.DeletionTimestamp != nil {
		return "Terminating"
	}
	if stack.PodReady(pod) {
		return fmt.Sprintf("Ready at %s", pod.Status.PodIP)
	}
	for _, c := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		if w := c.State.Waiting; w != nil && w.Reason != "" {
			return fmt.Sprintf("%s (%s: %s)", pod.Status.Phase, c.Name, w.Reason)
		}
	}
	return string(pod.Status.Phase)
}
