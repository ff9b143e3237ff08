package criserver

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"minikubelet/runtime/criserver/diskusage"
	"minikubelet/runtime/criserver/store"
)

// slowImages has one writable layer whose measurement does not end; its last one is an hour old.
type slowImages struct {
	slow string
	last diskusage.Usage
}

func (s slowImages) SnapshotUsage(ctx context.Context, key string) (diskusage.Usage, error) {
	if key != s.slow {
		return diskusage.Usage{Bytes: 4096, Inodes: 1, At: time.Now()}, ctx.Err()
	}
	<-ctx.Done()
	return s.last, nil
}

// TestSlowLayer: a container with millions of files does not keep statistics from the others, and its last figures are told
// with their time.
func TestSlowLayer(t *testing.T) {
	var containers []*container
	for i := range 20 {
		config := store.ContainerConfig{CgroupsPath: "/none"}
		record, err := store.Create(t.TempDir(), fmt.Sprint("c", i), config, store.ContainerState{})
		if err != nil {
			t.Fatal(err)
		}
		containers = append(containers, &container{Record: record})
	}
	synctest.Test(t, func(t *testing.T) {
		old := diskusage.Usage{Bytes: 1 << 30, Inodes: 5_000_000, At: time.Now().Add(-time.Hour)}
		s := &Server{}
		start := time.Now()
		disk := layerUsages(t.Context(), containers, slowImages{slow: "c0", last: old}.SnapshotUsage)
		if took := time.Since(start); took > diskPatience || len(disk) != len(containers) {
			t.Errorf("%d of %d containers after %v", len(disk), len(containers), took)
		}
		for _, c := range containers {
			layer := s.containerStats(c, disk).GetWritableLayer()
			if want := disk[c.ID]; layer.GetUsedBytes().GetValue() != uint64(want.Bytes) || layer.GetTimestamp() != want.At.UnixNano() {
				t.Errorf("%s: %v, want %+v", c.ID, layer, want)
			}
		}
		if disk["c0"] != old || disk["c19"].Bytes != 4096 {
			t.Errorf("the slow one is %+v, another %+v", disk["c0"], disk["c19"])
		}
	})
}
