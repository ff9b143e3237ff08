package main

import (
	"context"
	"fmt"
	"time"

	"minikubelet/e2e/stack"
)

// runStandalone runs the kubelet alone: it is its own runtime, and its pods are the manifests in examples/static.
func runStandalone(ctx context.Context, f flags) error {
	if f.kubelet != "minikubelet" {
		return fmt.Errorf("-standalone needs this project's kubelet, not %q", f.kubelet)
	}
	o := stack.Options{Runtime: stack.Embedded, NoControlPlane: true, NoRegistry: true}
	return onStack(ctx, f, o, func(s *stack.Stack, say sayer, pods []string, ready chan<- struct{}) (*stack.Kubelet, error) {
		// Without a client authority a token opens the kubelet's server.
		config := map[string]any{"authentication": nil}
		k, err := s.StartKubelet(stack.KubeletOptions{Standalone: true, Verbosity: f.verbosity, Config: config})
		if err != nil {
			return nil, err
		}
		say("started the kubelet, pid %d", k.Pid())
		showStandalone(s, k)
		go watchStandalone(ctx, s, say, pods, ready)
		return k, nil
	})
}

// showStandalone prints how to look at the pods.
func showStandalone(s *stack.Stack, k *stack.Kubelet) {
	inside := "nsenter --net=" + s.NetnsPath()
	fmt.Printf(`
  healthz       %[1]s curl -s http://127.0.0.1:10248/healthz
  pods          %[1]s curl -s http://127.0.0.1:10255/pods
  metrics       %[1]s curl -s http://127.0.0.1:10255/metrics
  all the rest  %[1]s curl -sk -H "Authorization: Bearer $(cat %[6]s/server-token)" https://127.0.0.1:10250/runningpods/
  the runtime   crictl -r unix://%[2]s pods
  kubelet log   %[3]s
  pod logs      %[4]s
  manifests     %[5]s (what comes here runs, what goes ends)

`, inside, s.RuntimeSocket, k.LogPath, s.PodLogsDir(), s.ManifestDir(), s.RootDir())
}

// watchStandalone prints the changes of the pods, and closes ready once the awaited ones are Ready. Without an apiserver
// there is nothing to watch, but the kubelet tells when asked.
func watchStandalone(ctx context.Context, s *stack.Stack, say sayer, await []string, ready chan<- struct{}) {
	seen := map[string]string{}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		pods, err := s.StandalonePods(ctx)
		if err != nil {
			continue // it is starting
		}
		for _, pod := range pods {
			key, state := podKey(pod.Namespace, pod.Name), podState(&pod)
			if seen[key] == state {
				continue
			}
			if seen[key] = state; state == "" {
				continue // not tried yet
			}
			say("%s %s", key, state)
			if stack.PodReady(&pod) && pod.Name == "hello-"+s.NodeName {
				say("try: nsenter --net=%s curl http://%s:8080", s.NetnsPath(), pod.Status.PodIP)
			}
			if await = without(await, key, stack.PodReady(&pod)); len(await) == 0 && ready != nil {
				say("everything is Ready; Ctrl-C ends it")
				close(ready)
				ready = nil
			}
		}
	}
}

// without removes a key that is done.
func without(keys []string, key string, done bool) []string {
	var rest []string
	for _, k := range keys {
		if k != key || !done {
			rest = append(rest, k)
		}
	}
	return rest
}
