package kind

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"minikubelet/e2e/debugger"
)

// debug makes a cluster with this kubelet on its worker alone, under dlv, and stops it over the published port where a pod comes in.
func (c *cluster) debug() {
	dlv := os.Getenv(debugger.Env)
	if dlv == "" {
		c.Skipf("%s is not set; make test-kind sets it", debugger.Env)
	}
	binary := filepath.Join(c.stack.Dir, "kubelet.debug")
	if err := debugger.Build(c.Context(), "../..", binary); err != nil {
		c.Fatal(err)
	}
	c.script("create", "NODES=worker", "DLV="+dlv, "KUBELET="+binary)
	c.run("kubectl", "apply", "-f", c.here+"/testdata/agent.yaml")
	c.allReady()
	versions := c.versions()
	if len(versions) != 2 || strings.Contains(versions[control], "+minikubelet") || !strings.Contains(versions[worker], "+minikubelet") {
		c.Errorf("the nodes are %v", versions)
	}

	script := filepath.Join(c.stack.Dir, "stop.dlv")
	if err := os.WriteFile(script, []byte(`break turn minikubelet/syncloop.(*Loop).syncLoopIteration
break additions minikubelet/syncloop.(*Loop).HandlePodAdditions if len(pods) == 1 && pods[0].ObjectMeta.Name == "seen"
on additions print pods[0].ObjectMeta.Name
continue
`), 0o600); err != nil {
		c.Fatal(err)
	}
	var created chan error
	client := exec.CommandContext(c.Context(), "nsenter", "--net="+c.stack.NetnsPath(), dlv, "connect", "127.0.0.1:2345", "--init", script)
	stops, printed, err := debugger.Follow(client, func(stop string) string {
		if stop == "additions" {
			return "clearall\nquit -c\n"
		}
		created = make(chan error, 1)
		go func() { // both breakpoints are set by now
			_, err := c.try("kubectl", "run", "seen", "--image=test/app:1", "--overrides", fmt.Sprintf(`{"spec":{"nodeName":%q}}`, worker))
			created <- err
		}()
		return "clear turn\ncontinue\n"
	})
	if err != nil || !slices.Equal(stops, []string{"turn", "additions"}) || !strings.Contains(printed, `pods[0].ObjectMeta.Name: "seen"`) {
		c.Fatalf("stops %v, %v; dlv said:\n%s", stops, err, printed)
	}
	if err := <-created; err != nil {
		c.Fatal(err)
	}
	c.run("kubectl", "wait", "--for=condition=Ready", "pod/seen", "--timeout=90s")
	c.run("kubectl", "delete", "pod", "seen", "--timeout=90s")
	c.script("delete")
}
