package main

import (
	"strings"
	"testing"
)

// TestWrongCommands: what is wrong with a command line is said before a kubelet is asked, and names the flag or the form.
func TestWrongCommands(t *testing.T) {
	for line, want := range map[string]string{
		"explain pod":                    "explain: the command is: kubelet explain pod [NAMESPACE/]NAME",
		"explain node a":                 `explain: only a pod can be explained, not "node"`,
		"explain pod a -o yaml":          "explain: --output=yaml: only json can be chosen",
		"pods a":                         "pods: the command is: kubelet pods",
		"logs a b":                       "logs: the command is: kubelet logs [NAMESPACE/]POD",
		"logs a -- b":                    "logs: the command is: kubelet logs [NAMESPACE/]POD",
		"logs a --grace-period=1":        "logs: unknown flag: --grace-period",
		"exec a ls":                      "exec: the command is: kubelet exec [NAMESPACE/]POD -- COMMAND [ARGS...]",
		"exec a -t -- ls":                "exec: --tty needs --stdin",
		"watch --root-dir=/none":         "no kubelet answers on /none/local/kubelet.sock",
		"logs a --root-dir=/none":        "no kubelet answers on /none/local/kubelet.sock",
		"exec a --root-dir=/none -- ls":  "no kubelet answers on /none/local/kubelet.sock",
		"stop a --root-dir /none -n b":   "no kubelet answers on /none/local/kubelet.sock",
		"explain --root-dir=/none pod a": "no kubelet answers on /none/local/kubelet.sock",
	} {
		words := strings.Fields(line)
		if err := find(words).ask(words[1:], t.Output()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
}
