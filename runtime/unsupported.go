package runtime

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
)

// Infeasible is why a pod cannot get the resources that it wants while it runs, "" if it can.
func (r *Runtime) Infeasible(wanted, has *corev1.Pod) string {
	return r.opts.Node.Infeasible(wanted, has)
}

// Unsupported names the first field of the pod that asks for what this kubelet cannot do. Volumes have their own
// check.
func Unsupported(pod *corev1.Pod) error {
	if len(pod.Spec.ResourceClaims) > 0 {
		return errors.New("spec.resourceClaims: dynamic resource allocation is not supported (left out by decision)")
	}
	if os := pod.Spec.OS; os != nil && os.Name != corev1.Linux {
		return fmt.Errorf("spec.os.name: %q cannot run on this node", os.Name)
	}
	for container := range podinfo.AllContainers(pod) {
		field := "container " + container.Name
		if len(container.Resources.Claims) > 0 {
			return fmt.Errorf("%s: resources.claims: dynamic resource allocation is not supported (left out by decision)", field)
		}
		for _, rule := range container.RestartPolicyRules {
			switch rule.Action {
			case corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers:
			default:
				return fmt.Errorf("%s: restartPolicyRules: action %q is not supported", field, rule.Action)
			}
		}
	}
	return nil
}
