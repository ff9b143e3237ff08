// Package e2enode pins Kubernetes' own node suite, which build.sh builds. The suite is the tests of a package, so that what
// they import, and other modules would not bring, is named here.
package e2enode

import (
	_ "k8s.io/dynamic-resource-allocation/kubeletplugin"
	_ "k8s.io/kubernetes/test/e2e/common"
	_ "k8s.io/kubernetes/test/e2e_node/criproxy"
	_ "k8s.io/kubernetes/test/e2e_node/runner/node"
	_ "k8s.io/kubernetes/test/e2e_node/services"
	_ "k8s.io/system-validators/validators"
)
