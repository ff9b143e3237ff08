package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// KubeletOptions says which kubelet to run, and how.
type KubeletOptions struct {
	// Upstream runs the Kubernetes project's kubelet instead of this one.
	Upstream bool
	// Standalone gives the kubelet no kubeconfig.
	Standalone bool
	// Config is laid over the generated KubeletConfiguration; nil values delete.
	Config map[string]any
	// Args are added to the generated flags.
	Args []string
	// Wrap changes the command line, for instance to put a debugger before it.
	Wrap func(args []string) []string
	// Verbosity is klog's -v; 0 means 2.
	Verbosity int
}

// readOnlyPort is where a standalone kubelet shows its pods, on the namespace's loopback interface and to pods.
const readOnlyPort = 10255

// StandalonePods asks a standalone kubelet for its pods and how they are.
func (s *Stack) StandalonePods(ctx context.Context) ([]corev1.Pod, error) {
	body, err := s.Get(ctx, fmt.Sprintf("http://127.0.0.1:%d/pods", readOnlyPort))
	if err != nil {
		return nil, err
	}
	var list corev1.PodList
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		return nil, fmt.Errorf("read pods of the kubelet: %w", err)
	}
	return list.Items, nil
}

// Kubelet is a running kubelet.
type Kubelet struct {
	*Process
	ConfigPath string
}

// RootDir is the kubelet's root directory.
func (s *Stack) RootDir() string { return filepath.Join(s.Dir, "kubelet") }

// PodLogsDir is where containers' logs are written.
func (s *Stack) PodLogsDir() string { return filepath.Join(s.Dir, "podlogs") }

// CDIDir is where runtimes look for the descriptions of CDI devices.
func (s *Stack) CDIDir() string { return filepath.Join(s.Dir, "cdi") }

// ManifestDir is where the kubelet looks for static pods.
func (s *Stack) ManifestDir() string { return filepath.Join(s.Dir, "manifests") }

// StartKubelet starts a kubelet with the node's credentials inside the stack.
// It does not wait for the node: WaitNodeReady does. One kubelet at a time may
// run, since each owns every pod of the runtime.
func (s *Stack) StartKubelet(o KubeletOptions) (*Kubelet, error) {
	name, binary := "kubelet", s.KubeletBinary
	if o.Upstream && s.options.Runtime == Embedded {
		return nil, errors.New("start kubelet: upstream's has no embedded runtime")
	}
	if o.Upstream {
		name, binary = "kubelet-upstream", s.Program("kubelet")
	}
	if _, err := os.Stat(binary); err != nil {
		return nil, fmt.Errorf("find kubelet (make build makes ours): %w", err)
	}
	config := s.kubeletConfig(o)
	maps.Copy(config, o.Config)
	maps.DeleteFunc(config, func(_ string, v any) bool { return v == nil })
	data, err := yaml.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("marshal kubelet configuration: %w", err)
	}
	k := &Kubelet{ConfigPath: filepath.Join(s.Dir, name+".yaml")}
	if err := os.WriteFile(k.ConfigPath, data, 0o600); err != nil {
		return nil, err
	}
	verbosity := o.Verbosity
	if verbosity == 0 {
		verbosity = 2
	}
	args := []string{
		binary, "--config=" + k.ConfigPath, "--hostname-override=" + s.NodeName, "--node-ip=" + NodeIP,
		"--root-dir=" + s.RootDir(), "--pod-manifest-path=" + s.ManifestDir(), fmt.Sprintf("--v=%d", verbosity),
	}
	args = append(args, s.runtimeArgs...)
	if !o.Standalone {
		args = append(args, "--kubeconfig="+s.NodeKubeconfig)
	}
	if o.Upstream {
		// Its own /var/lib/kubelet and the like stay out of it as far as they can.
		args = append(args, "--cert-dir="+filepath.Join(s.RootDir(), "pki"))
	}
	args = append(args, o.Args...)
	if o.Wrap != nil {
		args = o.Wrap(args)
	}
	k.Process, err = s.Spawn(name, args...)
	return k, err
}

// kubeletConfig is the KubeletConfiguration both kubelets get.
func (s *Stack) kubeletConfig(o KubeletOptions) map[string]any {
	config := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": !o.Standalone},
			"x509":      map[string]any{"clientCAFile": s.ca.path()},
		},
		"authorization":     map[string]any{"mode": "Webhook"},
		"cgroupDriver":      "cgroupfs",
		"cgroupRoot":        "/" + s.Name,
		"clusterDNS":        []string{"10.96.0.10"},
		"clusterDomain":     "cluster.local",
		"failCgroupV1":      false,
		"failSwapOn":        false,
		"maxPods":           250,
		"podLogsDir":        s.PodLogsDir(),
		"resolvConf":        filepath.Join(s.Dir, "resolv.conf"),
		"tlsCertFile":       s.kubeletServing.Cert,
		"tlsPrivateKeyFile": s.kubeletServing.Key,
		// A developer's disk is often fuller than a node's may be.
		"evictionHard":                map[string]string{"memory.available": "50Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
		"imageGCHighThresholdPercent": 100,
		"serializeImagePulls":         false,
	}
	if o.Standalone {
		config["authorization"] = map[string]any{"mode": "AlwaysAllow"}
		config["readOnlyPort"] = readOnlyPort
	}
	if o.Upstream {
		config["volumePluginDir"] = filepath.Join(s.Dir, "volume-plugins")
	}
	return config
}
