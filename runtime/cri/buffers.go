package cri

import (
	"fmt"

	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
)

// Above 32 KiB grpc has only buffers of 1 MiB, and would use one for each list of a hundred containers. Other sizes can be set in
// an init function only.
func init() {
	pool, err := mem.NewBinaryTieredBufferPool(8, 12, 14, 15, 16, 17, 18, 19, 20) // powers of two
	if err != nil {
		panic(fmt.Errorf("make the buffers of grpc: %w", err))
	}
	experimental.SetDefaultBufferPool(pool)
}
