package kubelet

import (
	"context"
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"minikubelet/runtime/spec"
)

// checkResolvConf returns what tells once, by an event of the node, that pods cannot have all that resolvConf says.
func checkResolvConf(b *base, c *core) func(context.Context) {
	path, domain := *b.settings.ResolverConfig, b.settings.ClusterDomain
	return func(context.Context) {
		if path == "" {
			return
		}
		if trouble := resolvTrouble(path, domain); trouble != "" {
			b.events.Event(c.node.Ref(), corev1.EventTypeWarning, "CheckLimitsForResolvConf", trouble)
		}
	}
}

// resolvTrouble is what of the file pods cannot have, in upstream's words; "" for nothing. Three of the domains that a resolver
// searches are the cluster's, if it has a domain.
//
// Upstream: pkg/kubelet/network/dns/dns.go CheckLimitsForResolvConf.
func resolvTrouble(path, clusterDomain string) string {
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	config, err := spec.ParseResolvConf(file)
	if err != nil {
		return err.Error()
	}
	most := spec.MaxSearchPaths
	if clusterDomain != "" {
		most -= 3
	}
	if len(config.Searches) > most {
		return fmt.Sprintf("Resolv.conf file '%s' contains search line consisting of more than %d domains!", path, most)
	}
	for _, search := range config.Searches {
		if len(search) > validation.DNS1123SubdomainMaxLength {
			return fmt.Sprintf("Resolv.conf file %q contains a search path which length is more than allowed %d chars!", path, validation.DNS1123SubdomainMaxLength)
		}
	}
	if len(strings.Join(config.Searches, " ")) > spec.MaxSearchLineLen {
		return fmt.Sprintf("Resolv.conf file '%s' contains search line which length is more than allowed %d chars!", path, spec.MaxSearchLineLen)
	}
	return ""
}
