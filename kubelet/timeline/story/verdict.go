package story

import (
	"fmt"
	"regexp"
	"strings"
)

// verdicts are the reasons with which a node refuses a pod, or ends one on its own account. $1 and so on are what the
// pattern finds in the status's message.
var verdicts = map[string]struct {
	pattern, text, remedy string
}{
	"NodePorts":       {"", "a host port that it asks for is another pod's already", "Use another hostPort, or none and a Service."},
	"NodeAffinity":    {"", "its node selector or required node affinity does not match the node's labels", "Label the node, or correct the selector; the pod has to be created anew."},
	"NodeName":        {"", "it is meant for another node", "Correct spec.nodeName, or leave it out and let the scheduler choose."},
	"TaintToleration": {"", "the node has a taint with effect NoExecute that it does not tolerate", "Add a toleration, or remove the taint from the node."},
	"PodOSNotSupported": {"", "its field spec.os names another operating system than the node has",
		"Correct spec.os.name, or have it run on a node of that system."},
	"PodOSSelectorNodeLabelDoesNotMatch": {"", "its node selector asks for another operating system", "Correct the label kubernetes.io/os in nodeSelector."},
	"SysctlForbidden":                    {`(?:forbidden sysctl: )?(.*)`, "it sets a sysctl that this node does not allow: $1", "Allow it with --allowed-unsafe-sysctls if it is namespaced, or take it out of the pod."},
	"AppArmor":                           {`(.*)`, "it asks for an AppArmor profile, which the node cannot give: $1", "Take the profile out, or use a node that has AppArmor."},
	"NodeShutdown":                       {"", "the node is shutting down", "It has to be created anew, here after the node has come back, or elsewhere."},
	"Terminated":                         {"", "the node was shut down, and it was ended in good time before that", "Its controller creates it anew elsewhere; without one, create it again."},
	"Preempting":                         {"", "a pod of higher priority needed its room", "Its controller creates it anew elsewhere; give it a higher priority class if it must stay."},
	"DeadlineExceeded":                   {"", "it ran longer than activeDeadlineSeconds allows", "Raise activeDeadlineSeconds, or make its work shorter."},
	"UnexpectedAdmissionError":           {`(.*)`, "something that it needs could not be given to it: $1", "See the kubelet's log, and the device plugin's if it asks for devices."},
	"Stopped":                            {"", "it was stopped on this node by hand (kubelet stop)", "It starts again when its manifest changes or the kubelet is started."},
}

var (
	shortOf   = regexp.MustCompile(`(?:resource: (\S+), )?requested: (\d+), used: (\d+), capacity: (\d+)`)
	lowOn     = regexp.MustCompile(`low on resource: ([^.\s]+)\.`)
	condition = regexp.MustCompile(`The node had condition: \[([^\]]+)\]`)
	ownLimit  = regexp.MustCompile(`(?i)exceed`)
)

// verdict is why the node refused the pod, or ended it.
func (t teller) verdict() *answer {
	s := &t.Pod.Status
	refused := strings.HasPrefix(s.Message, "Pod was rejected")
	did := "The node ended the pod"
	if refused {
		did = "The node did not take the pod"
	}
	if name, ok := strings.CutPrefix(s.Reason, "OutOf"); ok {
		return t.outOf(name)
	}
	if s.Reason == "Evicted" {
		return t.evicted()
	}
	if v, ok := verdicts[s.Reason]; ok {
		text := v.text
		if v.pattern != "" {
			message := strings.TrimPrefix(s.Message, "Pod was rejected: ")
			re := regexp.MustCompile("(?s)^" + v.pattern + "$")
			text = string(re.ExpandString(nil, v.text, firstLine(message), re.FindStringSubmatchIndex(firstLine(message))))
		}
		return &answer{s.Reason, fmt.Sprintf("%s, because %s.", did, text), v.remedy}
	}
	return &answer{s.Reason, fmt.Sprintf("%s (%s): %s", did, s.Reason, firstLine(s.Message)), ""}
}

// outOf is a node that has not enough of something left.
func (t teller) outOf(name string) *answer {
	text := fmt.Sprintf("The node did not take the pod, because it has not enough %s left", name)
	remedy := "Lower resources.requests, end other pods, or use a larger node. The pod has to be created anew."
	unit := ""
	switch name {
	case "cpu":
		unit = "m"
	case "pods":
		remedy = "End other pods, or raise maxPods."
	}
	if m := shortOf.FindStringSubmatch(t.Pod.Status.Message); m != nil {
		text += fmt.Sprintf(": it asks for %s%s, others have %s%s of %s%s", m[2], unit, m[3], unit, m[4], unit)
	}
	return &answer{"OutOf" + name, text + ".", remedy}
}

// evicted is a pod that had to go, or could not come, since the node is short of something, or that used more than it may.
func (t teller) evicted() *answer {
	message := t.Pod.Status.Message
	switch {
	case condition.MatchString(message):
		return &answer{"Evicted", fmt.Sprintf("The node did not take the pod, because it is short of resources (%s).", condition.FindStringSubmatch(message)[1]),
			"Wait until the condition has passed; the pod has to be created anew. Critical pods come in all the same."}
	case lowOn.MatchString(message):
		short := lowOn.FindStringSubmatch(message)[1]
		return &answer{"Evicted", fmt.Sprintf("The node ended the pod (eviction), because the node was low on %s: %s", short, firstLine(message)),
			fmt.Sprintf("Give pods that matter a request of %s that covers what they use, or a higher priority; free %s on the node.", short, short)}
	case ownLimit.MatchString(message):
		return &answer{"EvictedOwnLimit", "The node ended the pod (eviction), because it used more local storage than its limit: " + firstLine(message),
			"Raise the limit (ephemeral-storage, or the emptyDir's sizeLimit), or have it write less."}
	}
	return &answer{"Evicted", "The node ended the pod (eviction): " + firstLine(message), ""}
}
