package csi

import (
	"context"
	"errors"
	"fmt"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrCannotExpand says that a driver does not grow volumes on the node.
var ErrCannotExpand = errors.New("NodeExpand is not supported by the CSI driver")

// Expand has the volume's driver grow what stands for the pod to size bytes: the file system, after the storage behind it has
// grown. It can be called again at any time.
//
// Upstream: pkg/volume/csi/expander.go nodeExpandWithClient.
func (m *Manager) Expand(ctx context.Context, r *Request, size int64) error {
	release, err := m.locks.Take(ctx, r.id())
	if err != nil {
		return err
	}
	defer release()
	conn, can, err := m.dial(ctx, r.Driver)
	if err != nil {
		return err
	}
	defer conn.Close()
	if !can.expand() {
		return fmt.Errorf("%w %s", ErrCannotExpand, r.Driver)
	}
	secrets, err := m.secret(ctx, r.ExpandSecret, "NodeExpandSecretRef")
	if err != nil {
		return err
	}
	request := &csiapi.NodeExpandVolumeRequest{
		VolumeId: r.Handle, VolumePath: m.target(r), CapacityRange: &csiapi.CapacityRange{RequiredBytes: size},
		VolumeCapability: can.capability(r), Secrets: secrets,
	}
	if can.stage() {
		request.StagingTargetPath = m.paths(r).staging
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := conn.NodeExpandVolume(ctx, request); err != nil {
		return fmt.Errorf("failed to expand the volume: %w", err)
	}
	return nil
}

// ExpansionError says what an error of Expand means: final that the driver does nothing more, infeasible that it never will for
// this size, inUse that it cannot while the volume is mounted here.
//
// Upstream: pkg/volume/csi/expander.go isInfeasibleError, inUseError.
func ExpansionError(err error) (final, infeasible, inUse bool) {
	var answer interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &answer) {
		return false, false, false
	}
	switch answer.GRPCStatus().Code() {
	case codes.InvalidArgument, codes.OutOfRange, codes.NotFound:
		infeasible = true
	case codes.FailedPrecondition:
		inUse = true
	}
	return isFinal(err), infeasible, inUse
}
