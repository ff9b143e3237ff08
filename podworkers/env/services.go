package env

import (
	"cmp"
	"fmt"
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
	vars := map[string]string{}
	sorted := slices.Clone(services)
	// The pod's own namespace comes last and wins over the apiserver's service of the same name.
	slices.SortFunc(sorted, func(a, b *corev1.Service) int {
		if (a.Namespace == namespace) != (b.Namespace == namespace) {
			if a.Namespace == namespace {
				return 1
			}
			return -1
		}
		return strings.Compare(a.Name, b.Name)
	})
	for _, s := range sorted {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		master := s.Namespace == corev1.NamespaceDefault && s.Name == "kubernetes"
		if master || links && s.Namespace == namespace {
			addService(vars, s)
		}
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
