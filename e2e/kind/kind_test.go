// Package kind tests the kubelet in clusters of the real kind: kubeadm's control plane, systemd, containerd and kube-proxy in the
// containers of Debian's Docker engine, which runs in a network namespace and a cgroup of the test's own.
package kind

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/e2e/stack"
)

// DirEnv names the directory that build.sh makes.
const DirEnv = "E2E_KIND"

const (
	name    = "e2e" // of the cluster
	control = name + "-control-plane"
	worker  = name + "-worker"
	extra   = name + "-minikubelet" // the node that joins later
)

// cluster is a kind cluster and the Docker engine it runs in.
type cluster struct {
	*testing.T
	stack  *stack.Stack
	here   string // this directory
	in     string // a script that runs a program with the engine's environment
	broken bool   // a step has not come to its end
}

// TestKind goes through a cluster's life.
func TestKind(t *testing.T) {
	c := start(t)
	t.Run("create", c.step(c.create))
	t.Run("join", c.step(c.join))
	t.Run("run", c.step(c.workloads))
	t.Run("network", c.step(c.network))
	t.Run("kubectl", c.step(c.kubectl))
	t.Run("top", c.step(c.top))
	t.Run("drain", c.step(c.drain))
	t.Run("restart", c.step(c.restart))
	t.Run("swap", c.step(c.swap))
	t.Run("refuse", c.step(c.refuse))
	t.Run("embedded", c.step(c.embedded))
	t.Run("delete", c.step(c.delete))
	t.Run("debug", c.step(c.debug))
}

// step is a subtest that is left out once one has not come to its end, since each builds on those before.
func (c *cluster) step(do func()) func(*testing.T) {
	whole := c.T
	return func(t *testing.T) {
		if c.broken {
			t.Skip("a step before has not come to its end")
		}
		c.T, c.broken = t, true
		defer func() {
			if t.Failed() {
				c.report()
			}
			c.T = whole
		}()
		do()
		c.broken = false
	}
}

// report logs what tells why a step failed.
func (c *cluster) report() {
	pods, _ := c.try("kubectl", "get", "pods", "-A", "-o", "wide")
	c.Log(pods)
	running, _ := c.try("docker", "ps", "--format", "{{.Names}}")
	for node := range strings.FieldsSeq(running) {
		log, _ := c.try("docker", "exec", node, "journalctl", "--no-pager", "-o", "cat", "-n", "40", "-u", "kubelet")
		c.Logf("the end of the log of %s's kubelet:\n%s", node, log)
	}
}

// start starts the Docker engine and gives it the node image.
func start(t *testing.T) *cluster {
	dir := os.Getenv(DirEnv)
	if dir == "" {
		t.Skipf("%s is not set; make test-kind sets it", DirEnv)
	}
	s, err := stack.Start(t.Context(), stack.Options{Runtime: stack.Embedded, NoControlPlane: true, NoRegistry: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{T: t, stack: s, here: here, in: filepath.Join(s.Dir, "in")}
	docker := filepath.Join(dir, "docker/usr")
	for script, text := range map[string]string{
		// The stack's runc in place of the package's, which is older than the wrapper's and the nodes' programs.
		"runc": "RUNC=" + s.Program("runc") + " exec " + c.here + "/runc.sh",
		"in": "export PATH=" + strings.Join([]string{s.Dir, dir + "/bin", s.BinDir, docker + "/bin", docker + "/sbin", "$PATH"}, ":") +
			" LD_LIBRARY_PATH=$(echo " + dir + "/docker/lib/*) DOCKER_HOST=unix://" + s.Dir + "/docker.sock KIND=kind KUBELET=" + s.KubeletBinary +
			" CLUSTER=" + name + " IMAGE=minikubelet-test/node:upstream CONFIG=" + c.here + "/testdata/cluster.yaml; exec",
	} {
		if err := os.WriteFile(filepath.Join(s.Dir, script), []byte("#!/bin/sh\n"+text+" \"$@\"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	daemon, err := s.Spawn("dockerd", c.in, "dockerd", "--host=unix://"+s.Dir+"/docker.sock", "--data-root="+s.Dir+"/docker", "--exec-root="+s.Dir+"/d",
		"--pidfile="+s.Dir+"/docker.pid", "--storage-driver=overlay2", "--cgroup-parent=/"+s.CgroupName()+"/docker")
	if err != nil {
		t.Fatal(err)
	}
	c.eventually("the Docker engine to answer", time.Minute, func() error {
		select {
		case <-daemon.Done():
			t.Fatalf("the Docker engine has ended:\n%s", daemon.LogTail(20))
		default:
		}
		_, err := c.try("docker", "version")
		return err
	})
	c.run("docker", "load", "-i", filepath.Join(dir, "node.tar"))
	return c
}

// try runs a program in the engine's network namespace; run fails the test with it.
func (c *cluster) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(c.Context(), 6*time.Minute)
	defer cancel()
	return c.stack.Exec(ctx, append([]string{c.in}, args...)...)
}

func (c *cluster) run(args ...string) string {
	c.Helper()
	start := time.Now()
	out, err := c.try(args...)
	if err != nil {
		c.Fatal(err)
	}
	if took := time.Since(start); took > time.Second {
		c.Logf("%5.1fs %s", took.Seconds(), strings.Join(args, " "))
	}
	return out
}

// script runs kind.sh as make does.
func (c *cluster) script(command string, env ...string) string {
	c.Helper()
	return c.run(slices.Concat([]string{"env"}, env, []string{c.here + "/kind.sh", command})...)
}

func (c *cluster) eventually(what string, within time.Duration, try func() error) {
	c.Helper()
	start := time.Now()
	for last := error(nil); ; time.Sleep(200 * time.Millisecond) {
		err := try()
		if err == nil {
			c.Logf("%5.1fs for %s", time.Since(start).Seconds(), what)
			if time.Since(start) > 10*time.Second {
				c.Logf("       where this was last: %.300v", last)
			}
			return
		}
		if last = err; time.Since(start) > within {
			c.Fatalf("waited %s for %s: %v", within, what, err)
		}
	}
}

// pods are those of a namespace that a selector selects, or all, by namespace and name.
func (c *cluster) pods(args ...string) map[string]corev1.Pod {
	c.Helper()
	var list corev1.PodList
	if err := json.Unmarshal([]byte(c.run(append([]string{"kubectl", "get", "pods", "-o", "json"}, args...)...)), &list); err != nil {
		c.Fatal(err)
	}
	pods := map[string]corev1.Pod{}
	for _, pod := range list.Items {
		pods[pod.Namespace+"/"+pod.Name] = pod
	}
	return pods
}

// allReady waits until every pod of the cluster is Ready or done, and so is every node.
func (c *cluster) allReady() {
	c.Helper()
	c.run("kubectl", "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=120s")
	c.eventually("all pods to be Ready", 2*time.Minute, func() error {
		for key, pod := range c.pods("-A") {
			if pod.Status.Phase != corev1.PodSucceeded && (!stack.PodReady(&pod) || pod.DeletionTimestamp != nil) {
				return fmt.Errorf("%s on %s is %s: %v", key, pod.Spec.NodeName, pod.Status.Phase, pod.Status.ContainerStatuses)
			}
		}
		return nil
	})
}

// create makes a cluster with this kubelet on all nodes. That kubeadm goes on means that the kubelet has started its static pods.
func (c *cluster) create() {
	c.Log(c.script("create"))
	c.run("kubectl", "apply", "-f", c.here+"/testdata/agent.yaml")
	c.allReady()
	for node, version := range c.versions() {
		if !strings.Contains(version, "+minikubelet") {
			c.Errorf("node %s has kubelet %s", node, version)
		}
	}
	for _, component := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		if _, is := c.pods("-A")["kube-system/"+component+"-"+control]; !is {
			c.Errorf("%s has no mirror pod", component)
		}
	}
}

// versions are the nodes' kubelets.
func (c *cluster) versions() map[string]string {
	c.Helper()
	versions := map[string]string{}
	for line := range strings.Lines(c.run("kubectl", "get", "nodes", "--no-headers", "-o", "custom-columns=:.metadata.name,:.status.nodeInfo.kubeletVersion")) {
		if fields := strings.Fields(line); len(fields) == 2 {
			versions[fields[0]] = fields[1]
		}
	}
	return versions
}

func (c *cluster) join() {
	c.Log(c.script("node"))
	c.allReady()
	if versions := c.versions(); len(versions) != 3 || !strings.Contains(versions[extra], "+minikubelet") {
		c.Errorf("the nodes are %v", versions)
	}
}
