// Command agent is the network of the test's kind cluster, in place of kind's own, which is no Go module: a DaemonSet's pod on each
// node that writes the configuration of the node's CNI plugins once the node has a range of addresses for its pods, and keeps
// routes to the pods of the other nodes.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// configuration is where the runtime, whose directory is mounted there, looks for it.
const configuration = "/etc/cni/net.d/10-agent.conflist"

const plugins = `{
  "cniVersion": "1.0.0",
  "name": "agent",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": [[{"subnet": "%s"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`

func main() {
	config, err := rest.InClusterConfig()
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
	client := kubernetes.NewForConfigOrDie(config)
	for {
		if err := follow(context.Background(), client, os.Getenv("NODE_NAME")); err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
		}
		time.Sleep(time.Second)
	}
}

// follow does what each change of a node asks for, until the watch ends.
func follow(ctx context.Context, client kubernetes.Interface, self string) error {
	nodes, err := client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	defer nodes.Stop()
	for event := range nodes.ResultChan() {
		node, is := event.Object.(*corev1.Node)
		if !is || node.Spec.PodCIDR == "" {
			continue
		}
		if node.Name == self {
			err = configure(node.Spec.PodCIDR)
		} else {
			err = route(node, event.Type == "DELETED")
		}
		if err != nil {
			return fmt.Errorf("node %s: %w", node.Name, err)
		}
	}
	return errors.New("the watch has ended")
}

// configure writes the configuration, whole or not at all.
func configure(subnet string) error {
	text := fmt.Sprintf(plugins, subnet)
	if old, err := os.ReadFile(configuration); err == nil && string(old) == text {
		return nil
	}
	temporary := filepath.Join(filepath.Dir(configuration), ".agent")
	if err := os.WriteFile(temporary, []byte(text), 0o644); err != nil {
		return err
	}
	fmt.Println("the pods of this node are in", subnet)
	return os.Rename(temporary, configuration)
}

// route sends what is for a node's pods to the node, or no longer once the node is gone.
func route(node *corev1.Node, gone bool) error {
	_, subnet, err := net.ParseCIDR(node.Spec.PodCIDR)
	if err != nil {
		return err
	}
	if gone {
		_ = netlink.RouteDel(&netlink.Route{Dst: subnet})
		return nil
	}
	for _, address := range node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			return netlink.RouteReplace(&netlink.Route{Dst: subnet, Gw: net.ParseIP(address.Address)})
		}
	}
	return nil
}
