package csi

import (
	"errors"
	"fmt"
)

// StepError is why a volume is not mounted, with the step of upstream's that failed, by the name that it has in events.
//
// Upstream: pkg/volume/util/operationexecutor/operation_generator.go GenerateMountVolumeFunc, GenerateMapVolumeFunc.
type StepError struct {
	Step string
	Err  error
}

// Error implements error.
func (e *StepError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *StepError) Unwrap() error { return e.Err }

var (
	// ErrNotAttached says that a volume was not attached to the node in time.
	ErrNotAttached = errors.New("timed out waiting for the volume to be attached")
	// ErrAttachLimit says that it was not since the node takes no more volumes of its driver.
	ErrAttachLimit = errors.New("the node takes no more volumes of the driver")
	// ErrInUse says that a volume is for one pod alone, and another has it.
	ErrInUse = errors.New("volume uses the ReadWriteOncePod access mode and is already in use by another pod")
)

// steps are the names of a request's steps: for a file system, or for a device.
type steps struct{ check, attach, stage, publish string }

func (r *Request) steps() steps {
	if r.Block {
		return steps{"MapVolume.SetUpDevice", "MapVolume.WaitForAttach", "MapVolume.SetUpDevice", "MapVolume.MapPodDevice"}
	}
	s := steps{"MountVolume.SetUp", "MountVolume.WaitForAttach", "MountVolume.MountDevice", "MountVolume.SetUp"}
	if r.ephemeral() {
		s.stage = s.publish
	}
	return s
}

func failedAt(step string, err error) error {
	if err == nil {
		return nil
	}
	return &StepError{step, err}
}

// absent is why a driver's volumes cannot be mounted that is not registered, in the words of the step that finds that out.
func (r *Request) absent(err error) error {
	switch {
	case r.Block:
		return failedAt(r.steps().stage, fmt.Errorf("%s: blockMapper.SetUpDevice failed to get CSI client: %w", pluginName, err))
	case r.ephemeral() || r.Remount:
		return failedAt(r.steps().publish, fmt.Errorf("%s: mounter.SetUpAt failed to get CSI client: %w", pluginName, err))
	}
	return failedAt(r.steps().stage, fmt.Errorf("%s: attacher.MountDevice failed to create newCsiDriverClient: %w", pluginName, err))
}
