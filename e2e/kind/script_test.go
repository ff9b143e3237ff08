package kind

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fakeDocker stands in for Docker: it writes down what it is asked, and answers as for the control plane of a cluster.
const fakeDocker = `#!/bin/sh
echo "$*" >>"$TOLD"
case "$*" in
  *'-a -q'*) ;;
  'run '*) [ -z "$BUSY" ] || { echo port is already allocated >&2; exit 125; } ;;
  'ps '*) echo c-control-plane ;;
  *GlobalIPv6Address*) echo "172.18.0.5 $IPV6" ;;
  *'get node c-control-plane'*) echo "$ADDRESSES" ;;
  *is-active*) echo active ;;
  *'token create'*) echo kubeadm join c:6443 --token a.b --discovery-token-ca-cert-hash sha256:c ;;
  *'sed -n'*) echo kubeadm.k8s.io/v1beta4 ;;
  *tee*) cat >"$JOIN" ;;
  *curl*) echo ok ;;
  *'get node'*) echo 'v1.0.0+minikubelet Ready=True ' ;;
esac
`

// script runs kind.sh beside that Docker, and returns what it says, what Docker was asked, and how the node was to join.
func script(t *testing.T, command string, env ...string) (out, told, join string, err error) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(fakeDocker), 0o755); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(text)
	}
	cmd := exec.Command("./kind.sh", command)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "KUBELET=/bin/true", "CLUSTER=c", "TOLD="+dir+"/told", "JOIN="+dir+"/join")
	cmd.Env = append(cmd.Env, env...)
	text, err := cmd.CombinedOutput()
	return string(text), read("told"), read("join"), err
}

// TestScriptNode: a node that joins has an address of each family that the cluster has, in its order.
func TestScriptNode(t *testing.T) {
	for _, tc := range []struct{ cluster, ipv6, want string }{
		{"172.18.0.2", "", "172.18.0.5"},
		{"172.18.0.2", "fc00::5", "172.18.0.5"},
		{"fc00::2", "fc00::5", "fc00::5"},
		{"172.18.0.2 fc00::2", "fc00::5", "172.18.0.5,fc00::5"},
		{"fc00::2 172.18.0.2", "fc00::5", "fc00::5,172.18.0.5"},
	} {
		out, told, join, err := script(t, "node", "ADDRESSES="+tc.cluster, "IPV6="+tc.ipv6)
		if want := `{name: "node-ip", value: "` + tc.want + `"}`; err != nil || !strings.Contains(join, want) {
			t.Errorf("%v: %v, %s\n%s\nwant %s", tc, err, out, join, want)
		}
		if strings.Contains(told, "disable_ipv6=0") != strings.Contains(tc.cluster, ":") {
			t.Errorf("%v: docker was asked\n%s", tc, told)
		}
	}
	out, told, _, err := script(t, "node", "ADDRESSES=fc00::2", "IPV6=")
	if err == nil || !strings.Contains(out, "no address of the family of fc00::2") || !strings.Contains(told, "rm -f -v c-minikubelet") {
		t.Errorf("without an IPv6 address: %v, %s\n%s", err, out, told)
	}
	out, told, _, err = script(t, "node", "BUSY=1")
	if err == nil || !strings.Contains(out, "port is already allocated") || !strings.HasSuffix(told, "rm -f -v c-minikubelet\n") {
		t.Errorf("with a port that is taken: %v, %s\n%s", err, out, told)
	}
}

// TestScriptRefuses: what is wrong with a variable is said in one line, before anything is made.
func TestScriptRefuses(t *testing.T) {
	for _, tc := range []struct{ command, variable, want string }{
		{"create", "NODES=some", "kind-create: NODES must be all, worker or control-plane, not some"},
		{"create", "CONFIG=/none", "kind-create: CONFIG=/none is no file that can be read"},
		{"node", "RUNTIME=docker", "kind-node: RUNTIME must be containerd or embedded, not docker"},
		{"swap", "NODE=", "kind-swap: NODE=name says which node"},
		{"swap-back", "NODE=none", "kind-swap-back: none is no node of a kind cluster"},
		{"none", "NODE=none", "kind-none: unknown command"},
	} {
		out, told, _, err := script(t, tc.command, tc.variable)
		if err == nil || !strings.HasPrefix(out, tc.want) || strings.Count(out, "\n") != 1 {
			t.Errorf("%s %s: %v, %s\nwant %s", tc.command, tc.variable, err, out, tc.want)
		}
		for _, verb := range []string{"create", "run", "cp", "commit", "rm", "exec"} {
			if strings.HasPrefix(told, verb+" ") || strings.Contains(told, "\n"+verb+" ") {
				t.Errorf("%s %s: docker was asked\n%s", tc.command, tc.variable, told)
			}
		}
	}
}
