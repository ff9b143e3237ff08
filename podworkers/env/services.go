package env

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// serviceVars returns the variables that tell of services: of the pod's namespace if links are wanted, and always
// those of the apiserver's own service.
//
// Upstream: pkg/kubelet/kubelet_pods.go getServiceEnvVarMap and pkg/kubelet/envvars/envvars.go FromServices.
func serviceVars(services []*corev1.Service, namespace string, links bool) map[string]string {
	chosen := map[string]*corev1.Service{}
	for _, s := range services {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		_, have := chosen[s.Name]
		master := s.Namespace == corev1.NamespaceDefault && s.Name == "kubernetes"
		if links && s.Namespace == namespace || master && !have { // the pod's own namespace wins
			chosen[s.Name] = s
		}
	}
	vars := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(chosen)) {
		addService(vars, chosen[name])
	}
	return vars
}

func addService(vars map[string]string, s *corev1.Service) {
	name, ip := variable(s.Name), s.Spec.ClusterIP
	vars[name+"_SERVICE_HOST"] = ip
	vars[name+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
	for i, port := range s.Spec.Ports {
		number := strconv.Itoa(int(port.Port))
		if port.Name != "" {
			vars[name+"_SERVICE_PORT_"+variable(port.Name)] = number
		}
		protocol := string(cmp.Or(port.Protocol, corev1.ProtocolTCP))
		prefix := fmt.Sprintf("%s_PORT_%s_%s", name, number, strings.ToUpper(protocol))
		url := fmt.Sprintf("%s://%s", strings.ToLower(protocol), net.JoinHostPort(ip, number))
		if i == 0 {
			vars[name+"_PORT"] = url
		}
		vars[prefix] = url
		vars[prefix+"_PROTO"] = strings.ToLower(protocol)
		vars[prefix+"_PORT"] = number
		vars[prefix+"_ADDR"] = ip
	}
}

func variable(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }
