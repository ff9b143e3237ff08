package kind

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/e2e/stack"
)

// nodes are the cluster's.
var nodes = []string{control, worker, extra}

// workloads runs what users run.
func (c *cluster) workloads() {
	c.run("kubectl", "apply", "-f", c.here+"/testdata/metrics-server.yaml", "-f", c.here+"/testdata/workloads.yaml")
	c.run("kubectl", "wait", "--for=condition=Complete", "job/sum", "--timeout=90s")
	for _, of := range []string{"daemonset/probe", "deployment/web", "statefulset/db"} {
		c.run("kubectl", "rollout", "status", of, "--timeout=90s")
	}
	c.allReady()
	if logs := c.run("kubectl", "logs", "job/sum"); !strings.HasSuffix(logs, "42\n") {
		c.Errorf("the job's log is %q", logs)
	}
	where := map[string]bool{}
	for _, pod := range c.pods("-l", "app=web") {
		where[pod.Spec.NodeName] = true
	}
	if len(where) < 2 {
		c.Errorf("the Deployment's pods are all on %v", where)
	}
}

// probe is the DaemonSet's pod on a node.
func (c *cluster) probe(node string) string {
	c.Helper()
	for _, pod := range c.pods("-l", "app=probe", "--field-selector=spec.nodeName="+node) {
		return pod.Name
	}
	c.Fatalf("no probe on %s", node)
	return ""
}

// get asks from a node's probe, which resolves names as Go programs do.
func (c *cluster) get(node, url string) string {
	c.Helper()
	var body string
	c.eventually(url+" from "+node, time.Minute, func() (err error) {
		body, err = c.try("kubectl", "exec", c.probe(node), "--", "busybox", "wget", "-qO-", "http://127.0.0.1:8080/get?url="+url)
		return err
	})
	return strings.TrimSpace(body)
}

// network asks by name from every node for what runs on others.
func (c *cluster) network() {
	for _, node := range nodes {
		for _, pod := range []string{"db-0", "db-1"} {
			if got := c.get(node, "http://"+pod+".db.default.svc.cluster.local:8080/"); got != pod {
				c.Errorf("from %s %s answers %q", node, pod, got)
			}
		}
		if got := c.get(node, "http://web/"); !strings.HasPrefix(got, "web-") {
			c.Errorf("from %s the service answers %q", node, got)
		}
	}
	// A ConfigMap is in the environment and in a volume, where a change arrives.
	if got := c.get(worker, "http://db-0.db:8080/file?path=/settings/greeting"); got != "hello" {
		c.Errorf("the volume says %q", got)
	}
	if got := c.get(worker, "http://db-0.db:8080/env"); !strings.Contains(got, "GREETING=hello") {
		c.Errorf("the environment is %q", got)
	}
	c.run("kubectl", "patch", "configmap", "settings", "-p", `{"data":{"greeting":"changed"}}`)
	c.eventually("the change of a ConfigMap in a volume", time.Minute, func() error {
		if got := c.get(worker, "http://db-0.db:8080/file?path=/settings/greeting"); got != "changed" {
			return fmt.Errorf("the volume says %q", got)
		}
		return nil
	})
}

// kubectl does to a pod on each node what goes through the kubelet's server.
func (c *cluster) kubectl() {
	local := filepath.Join(c.stack.Dir, "file")
	if err := os.WriteFile(local, []byte("content\n"), 0o644); err != nil {
		c.Fatal(err)
	}
	for i, node := range nodes {
		pod := c.probe(node)
		if logs := c.run("kubectl", "logs", pod); !strings.Contains(logs, "serving") {
			c.Errorf("the log on %s is %q", node, logs)
		}
		if got := c.run("kubectl", "exec", pod, "--", "sh", "-c", "echo $((6*7)) $HOSTNAME"); got != "42 "+pod+"\n" {
			c.Errorf("exec on %s printed %q", node, got)
		}
		c.run("kubectl", "cp", local, pod+":/tmp/copy")
		c.run("kubectl", "cp", pod+":/tmp/copy", local+node)
		if data, err := os.ReadFile(local + node); string(data) != "content\n" {
			c.Errorf("the file that went to %s and back: %q, %v", node, data, err)
		}
		port := fmt.Sprint(18080 + i)
		forward, err := c.stack.Spawn("port-forward-"+node, c.in, "kubectl", "port-forward", "pod/"+pod, port+":8080")
		if err != nil {
			c.Fatal(err)
		}
		c.eventually("port-forward to "+node, 20*time.Second, func() error {
			response, err := c.stack.HTTP.Get("http://127.0.0.1:" + port + "/")
			if err != nil {
				return err
			}
			defer response.Body.Close()
			if body, err := io.ReadAll(response.Body); string(body) != pod+"\n" {
				return fmt.Errorf("%q, %w", body, err)
			}
			return nil
		})
		if err := forward.Kill(); err != nil {
			c.Error(err)
		}
	}
}

// top compares what kubectl says of the nodes with what their containers use: in a container, the machine's own figures are not the
// node's.
func (c *cluster) top() {
	c.eventually("kubectl top pods", 2*time.Minute, func() error {
		out, err := c.try("kubectl", "top", "pods", "-A", "--no-headers")
		if err == nil && len(strings.Split(strings.TrimSpace(out), "\n")) < 15 {
			return fmt.Errorf("only:\n%s", out)
		}
		return err
	})
	for line := range strings.Lines(c.run("kubectl", "top", "nodes", "--no-headers")) {
		fields := strings.Fields(line)
		var mib int
		if _, err := fmt.Sscanf(fields[3], "%dMi", &mib); err != nil {
			c.Fatalf("%q: %v", line, err)
		}
		stats := c.run("docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", fields[0])
		var used float64
		var unit string
		if _, err := fmt.Sscanf(stats, "%f%3s", &used, &unit); err != nil {
			c.Fatalf("%q: %v", stats, err)
		}
		if unit == "GiB" {
			used *= 1024
		}
		c.Logf("%s: kubectl top %d MiB, its container %.0f MiB", fields[0], mib, used)
		if float64(mib) < used/2 || float64(mib) > used*2 {
			c.Errorf("kubectl top says that %s uses %d MiB; its container uses %.0f", fields[0], mib, used)
		}
	}
}

// drain empties a node and gives it back.
func (c *cluster) drain() {
	c.run("kubectl", "drain", worker, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")
	for key, pod := range c.pods("--field-selector=spec.nodeName=" + worker) {
		if pod.Status.Phase != corev1.PodSucceeded && !strings.HasPrefix(pod.Name, "probe-") {
			c.Errorf("%s is still on the drained node: %s", key, pod.Status.Phase)
		}
	}
	c.allReady()
	c.run("kubectl", "uncordon", worker)
	c.run("kubectl", "rollout", "restart", "deployment/web")
	c.run("kubectl", "rollout", "status", "deployment/web", "--timeout=90s")
}

// restart restarts each node's machine, as far as a container is one.
func (c *cluster) restart() {
	for _, node := range nodes {
		before := c.pods("-A", "--field-selector=spec.nodeName="+node)
		c.run("docker", "restart", node)
		c.eventually("the apiserver", time.Minute, func() error {
			_, err := c.try("kubectl", "get", "--raw", "/readyz")
			return err
		})
		c.eventually(node+"'s pods to be Ready once more", 2*time.Minute, func() error {
			after := c.pods("-A", "--field-selector=spec.nodeName="+node)
			for key, pod := range before {
				now, is := after[key]
				switch {
				case pod.Status.Phase == corev1.PodSucceeded:
				case !is || now.UID != pod.UID:
					return fmt.Errorf("%s is gone", key)
				case !stack.PodReady(&now) || now.Status.ContainerStatuses[0].RestartCount <= pod.Status.ContainerStatuses[0].RestartCount:
					return fmt.Errorf("%s is not back: %v", key, now.Status.ContainerStatuses)
				}
			}
			return nil
		})
	}
	c.allReady()
	c.get(worker, "http://web/")
}

// containers says of each pod on a node which it is, and which containers it has, with their restart counts.
func (c *cluster) containers(node string) map[string]string {
	c.Helper()
	containers := map[string]string{}
	for key, pod := range c.pods("-A", "--field-selector=spec.nodeName="+node) {
		var text strings.Builder
		fmt.Fprintf(&text, "%s %s", pod.UID, pod.Annotations["kubernetes.io/config.hash"])
		for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			fmt.Fprintf(&text, " %s %s %d", status.Name, status.ContainerID, status.RestartCount)
		}
		containers[key] = text.String()
	}
	return containers
}

// swap puts upstream's kubelet onto each node and this one back. Every pod stays as it is, those of the control plane too, and each
// kubelet can do with them what the other could.
func (c *cluster) swap() {
	before := map[string]map[string]string{}
	for _, node := range nodes {
		before[node] = c.containers(node)
	}
	for _, step := range []struct {
		command string
		ours    bool
	}{{"swap-back", false}, {"swap", true}} {
		for _, node := range nodes {
			c.script(step.command, "NODE="+node)
			// A kubelet that has started a new pod has looked at the old ones.
			c.run("kubectl", "run", "new", "--image=test/app:1", "--overrides", `{"spec":{"nodeName":"`+node+`","terminationGracePeriodSeconds":1}}`)
			c.run("kubectl", "wait", "--for=condition=Ready", "pod/new", "--timeout=90s")
			c.run("kubectl", "delete", "pod", "new", "--timeout=90s")
			c.run("kubectl", "exec", c.probe(node), "--", "sh", "-c", "echo")
			c.run("kubectl", "logs", c.probe(node))
		}
		for node, version := range c.versions() {
			if strings.Contains(version, "+minikubelet") != step.ours {
				c.Errorf("after %s %s has kubelet %s", step.command, node, version)
			}
		}
		c.allReady()
		for _, node := range nodes {
			if after := c.containers(node); !maps.Equal(before[node], after) {
				for key, was := range before[node] {
					if after[key] != was {
						c.Errorf("after %s, %s on %s was %s and is %s", step.command, key, node, was, after[key])
					}
				}
				c.Logf("pods now: %v", slices.Collect(maps.Keys(after)))
			}
		}
	}
	// The next restart counts on from what the kubelets before had counted.
	pod := c.probe(control)
	was := c.pods()["default/"+pod].Status.ContainerStatuses[0].RestartCount
	_, _ = c.try("kubectl", "exec", pod, "--", "busybox", "wget", "-qO-", "--post-data=", "http://127.0.0.1:8080/exit?code=3")
	c.eventually("a container to be restarted", time.Minute, func() error {
		status := c.pods()["default/"+pod].Status.ContainerStatuses[0]
		if last := status.LastTerminationState.Terminated; !status.Ready || status.RestartCount != was+1 || last == nil || last.ExitCode != 3 {
			return fmt.Errorf("it had %d restarts and is %v", was, status)
		}
		return nil
	})
	c.run("kubectl", "logs", "--previous", pod)
}

// refuse swaps a kubelet in that does not run: the reason is told, and the node has its own again.
func (c *cluster) refuse() {
	c.script("swap-back", "NODE="+worker)
	out, err := c.try("env", "NODE="+worker, "KUBELET=/bin/false", c.here+"/kind.sh", "swap")
	if err == nil || !strings.Contains(out, worker+" did not get Ready") || !strings.Contains(out, "Main process exited, code=exited, status=1/FAILURE") {
		c.Errorf("a kubelet that ends at once: %v:\n%s", err, out)
	}
	if version := c.versions()[worker]; strings.Contains(version, "+minikubelet") {
		c.Errorf("the kubelet is %s", version)
	}
	c.run("docker", "exec", worker, "sh", "-c", "! ls /usr/local/lib/minikubelet && /usr/bin/kubelet --version | grep -v minikubelet")
	c.script("swap", "NODE="+worker)
}

// embedded joins a node that runs its pods without containerd.
func (c *cluster) embedded() {
	const node = name + "-embedded"
	c.script("node", "NODE="+node, "RUNTIME=embedded")
	c.run("kubectl", "rollout", "status", "daemonset/probe", "--timeout=90s")
	if runtime := c.run("kubectl", "get", "node", node, "-o", "jsonpath={.status.nodeInfo.containerRuntimeVersion}"); strings.HasPrefix(runtime, "containerd") {
		c.Errorf("the runtime is %s", runtime)
	}
	if got := c.get(node, "http://web/"); !strings.HasPrefix(got, "web-") {
		c.Errorf("from %s the service answers %q", node, got)
	}
	c.run("kubectl", "logs", c.probe(node))
	c.script("node-delete", "NODE="+node)
}

// delete takes all away again.
func (c *cluster) delete() {
	c.run("kubectl", "delete", "-f", c.here+"/testdata/workloads.yaml", "--timeout=90s")
	c.eventually("the pods to be gone", time.Minute, func() error {
		if left := c.pods(); len(left) > 0 {
			return fmt.Errorf("left: %v", slices.Collect(maps.Keys(left)))
		}
		return nil
	})
	c.script("node-delete", "NODE="+extra)
	if versions := c.versions(); len(versions) != 2 {
		c.Errorf("the nodes are %v", versions)
	}
	c.script("delete")
	if left := c.run("docker", "ps", "-aq"); left != "" {
		c.Errorf("containers are left: %s", left)
	}
}
