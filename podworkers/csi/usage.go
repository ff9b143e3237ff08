package csi

import (
	"context"
	"errors"
	"fmt"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
)

// ErrNoStats says that a driver does not tell what its volumes hold.
var ErrNoStats = errors.New("the CSI driver has no statistics of volumes")

// Usage is what a volume holds, as its driver says.
type Usage struct{ Bytes, Inodes Amount }

// Amount is nil where the driver says nothing.
type Amount struct{ Total, Used, Available *uint64 }

// Usage asks the volume's driver what the volume that stands for the pod holds.
//
// Upstream: pkg/volume/csi/csi_metrics.go GetMetrics.
func (m *Manager) Usage(ctx context.Context, r *Request) (*Usage, error) {
	conn, can, err := m.dial(ctx, r.Driver)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if !can[csiapi.NodeServiceCapability_RPC_GET_VOLUME_STATS] {
		return nil, ErrNoStats
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := conn.NodeGetVolumeStats(ctx, &csiapi.NodeGetVolumeStatsRequest{VolumeId: r.Handle, VolumePath: m.target(r)})
	if err != nil {
		return nil, fmt.Errorf("ask the CSI driver what volume %s holds: %w", r.Handle, err)
	}
	usage := &Usage{}
	for _, u := range answer.GetUsage() {
		switch u.GetUnit() {
		case csiapi.VolumeUsage_BYTES:
			usage.Bytes = amount(u)
		case csiapi.VolumeUsage_INODES:
			usage.Inodes = amount(u)
		}
	}
	return usage, nil
}

// amount leaves out what is negative, which drivers must not send.
func amount(u *csiapi.VolumeUsage) Amount {
	number := func(n int64) *uint64 {
		if n < 0 {
			return nil
		}
		return new(uint64(n))
	}
	return Amount{number(u.GetTotal()), number(u.GetUsed()), number(u.GetAvailable())}
}
