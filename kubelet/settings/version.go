package settings

import (
	"fmt"
	"io"
	"runtime"

	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/version"
)

// Version is what --version prints and the node reports: the version of Kubernetes whose kubelet this one stands for, which kubeadm,
// kubectl and controllers compare, and this project's release as build metadata. The build sets it.
var Version = KubernetesVersion + "+minikubelet.dev"

// KubernetesVersion is the release whose APIs and behaviour this kubelet has. A test keeps it that of the libraries in go.mod.
const KubernetesVersion = "v1.37.2"

// printVersion answers --version and --version=raw.
//
// Upstream: staging/src/k8s.io/component-base/version/verflag/verflag.go PrintAndExitIfRequested.
func printVersion(out io.Writer, raw bool) {
	if !raw {
		fmt.Fprintln(out, "Kubernetes", Version)
		return
	}
	v := utilversion.MustParseSemantic(KubernetesVersion)
	fmt.Fprintf(out, "%#v\n", version.Info{
		Major: fmt.Sprint(v.Major()), Minor: fmt.Sprint(v.Minor()), GitVersion: Version,
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	})
}

// reportedVersion is the version that the node reports, given --version=vX.Y.Z. One that is not of this release is not reported, since
// it would be false; distributions leave the flag behind when the binary is exchanged.
func reportedVersion(asked string) (reported, warning string, err error) {
	v, err := utilversion.ParseSemantic(asked)
	if err != nil {
		return "", "", fmt.Errorf("--version: %q is neither true, false, raw nor a version such as %s", asked, KubernetesVersion)
	}
	release := utilversion.MustParseSemantic(KubernetesVersion)
	if v.Major() != release.Major() || v.Minor() != release.Minor() || v.Patch() != release.Patch() {
		return Version, fmt.Sprintf("--version=%s has no effect: this is %s", asked, Version), nil
	}
	return asked, "", nil
}
