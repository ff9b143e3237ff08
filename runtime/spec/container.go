package spec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Container is what has to be looked up before a container can be described.
type Container struct {
	Attempt   uint32
	ImageRef  string    // what the pull returned
	ImageUser ImageUser // who the image runs as
	Users     *runtimeapi.UserNamespace
	// TargetName is the container whose processes an ephemeral container is to see, TargetID its ID if there is one.
	TargetName, TargetID string
	Command, Args        []string // with references to the environment replaced
	Env                  []*runtimeapi.KeyValue
	Mounts               []*runtimeapi.Mount
	Assigned             *runtimeapi.ContainerConfig // what device plugins give: devices, CDI devices, annotations
}

// ContainerConfig describes the container in the CRI's terms. The runtime knows nothing of pods; what follows from the pod
// is decided here.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go generateContainerConfig
func (n *Node) ContainerConfig(pod *corev1.Pod, container *corev1.Container, in Container) (*runtimeapi.ContainerConfig, error) {
	annotations, err := containerAnnotations(pod, container, in.Attempt)
	if err != nil {
		return nil, err
	}
	for name, value := range in.Assigned.GetAnnotations() {
		if _, ours := annotations[name]; !ours {
			annotations[name] = value
		}
	}
	security, err := n.containerSecurity(pod, container, in.ImageUser, in.Users)
	if err != nil {
		return nil, err
	}
	if in.TargetName != "" && security.NamespaceOptions.Pid == runtimeapi.NamespaceMode_CONTAINER {
		if in.TargetID == "" {
			return nil, fmt.Errorf("unable to find target container %s", in.TargetName)
		}
		security.NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET
		security.NamespaceOptions.TargetId = in.TargetID
	}
	return &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: container.Name, Attempt: in.Attempt},
		Image:       &runtimeapi.ImageSpec{Image: in.ImageRef, UserSpecifiedImage: container.Image},
		Command:     in.Command,
		Args:        in.Args,
		WorkingDir:  container.WorkingDir,
		Envs:        in.Env,
		Mounts:      in.Mounts,
		Labels:      containerLabels(pod, container),
		Annotations: annotations,
		LogPath:     LogPath(container.Name, in.Attempt),
		Stdin:       container.Stdin,
		StdinOnce:   container.StdinOnce,
		Tty:         container.TTY,
		Linux:       &runtimeapi.LinuxContainerConfig{Resources: n.ContainerResources(pod, container), SecurityContext: security},
		Devices:     in.Assigned.GetDevices(),
		CDIDevices:  in.Assigned.GetCDIDevices(),
	}, nil
}
