package store

import (
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// SandboxConfig is what a sandbox was asked to be.
type SandboxConfig struct {
	Config         *runtimeapi.PodSandboxConfig `json:"config"`
	RuntimeHandler string                       `json:"runtimeHandler,omitempty"`
	CreatedAt      time.Time                    `json:"createdAt"`
}

// SandboxPhase says how far a sandbox has come.
type SandboxPhase string

// The phases of a sandbox. One that is found Creating at start is taken down.
const (
	SandboxCreating SandboxPhase = "Creating"
	SandboxReady    SandboxPhase = "Ready"
	SandboxStopped  SandboxPhase = "Stopped"
)

// SandboxState is what has become of a sandbox.
type SandboxState struct {
	Phase SandboxPhase `json:"phase"`
	IPs   []string     `json:"ips,omitempty"`
	Pause Process      `json:"pause,omitzero"`
	// Resources are the pod's latest, after UpdatePodSandboxResources.
	Resources *runtimeapi.LinuxContainerResources `json:"resources,omitempty"`
}

// ContainerConfig is what a container was asked to be.
type ContainerConfig struct {
	SandboxID     string                       `json:"sandboxID"`
	Config        *runtimeapi.ContainerConfig  `json:"config"`
	SandboxConfig *runtimeapi.PodSandboxConfig `json:"sandboxConfig"` // a sandbox can be found again by it
	ImageID       string                       `json:"imageID"`
	ImageRef      string                       `json:"imageRef"`
	LogPath       string                       `json:"logPath,omitempty"`
	StopSignal    string                       `json:"stopSignal,omitempty"` // of config or image
	CgroupsPath   string                       `json:"cgroupsPath,omitempty"`
	CreatedAt     time.Time                    `json:"createdAt"`
}

// ContainerPhase says how far a container has come.
type ContainerPhase string

// The phases of a container. One that is found Creating at start is taken down.
const (
	ContainerCreating ContainerPhase = "Creating"
	ContainerCreated  ContainerPhase = "Created"
	ContainerRunning  ContainerPhase = "Running"
	ContainerExited   ContainerPhase = "Exited"
)

// ContainerState is what has become of a container.
type ContainerState struct {
	Phase      ContainerPhase                      `json:"phase"`
	User       *runtimeapi.ContainerUser           `json:"user,omitempty"`
	ImageRefs  map[string]string                   `json:"imageRefs,omitempty"` // IDs of mounted images by container path
	Process    Process                             `json:"process,omitzero"`
	StartedAt  time.Time                           `json:"startedAt,omitzero"`
	FinishedAt time.Time                           `json:"finishedAt,omitzero"`
	ExitCode   int32                               `json:"exitCode,omitempty"`
	Reason     string                              `json:"reason,omitempty"`
	Message    string                              `json:"message,omitempty"`
	Resources  *runtimeapi.LinuxContainerResources `json:"resources,omitempty"`
}

// Process names a container's first process and its conmon. By the time a new server looks,
// a PID may belong to another process, so each comes with its start time.
type Process struct {
	PID         int    `json:"pid,omitempty"`
	Start       uint64 `json:"start,omitempty"` // field 22 of /proc/PID/stat
	Conmon      int    `json:"conmon,omitempty"`
	ConmonStart uint64 `json:"conmonStart,omitempty"`
}
