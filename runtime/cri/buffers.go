package cri

import (
	"fmt"

	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
)

// Of buffers above 32 KiB, grpc knows those of 1 MiB only, and would use one for each list of a hundred containers.
// Its codec can be told of others in an init function alone.
func init() {
	pool, err := mem.NewBinaryTieredBufferPool(8, 12, 14, 15, 16, 17, 18, 19, 20) // powers of two
	if err != nil {
		panic(fmt.Errorf("make the buffers of grpc: %w", err))
	}
	experimental.SetDefaultBufferPool(pool)
}
