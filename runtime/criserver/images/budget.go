package images

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// checkEvery is how much is written between two looks at how much is free.
const checkEvery = 16 << 20

// nameCost is about what a map takes for a name besides the name.
const nameCost = 128

// budget is what the files of one image may take of the disk.
type budget struct {
	store *Store
	spent atomic.Int64
	// checked is set once the free space was looked at.
	checked atomic.Bool
}

func (s *Store) newBudget() *budget { return &budget{store: s} }

// count is for what takes space already.
func (b *budget) count(n int64) error {
	if limit := b.store.options.Limits.ImageBytes; b.spent.Add(n) > limit {
		return fmt.Errorf("the image's files take more than %d bytes", limit)
	}
	return nil
}

// spend is called before something is written.
func (b *budget) spend(n int64) error {
	if err := b.count(n); err != nil {
		return err
	}
	now := b.spent.Load()
	if before := now - n; b.checked.CompareAndSwap(false, true) || before/checkEvery != now/checkEvery {
		return b.store.checkFree(n)
	}
	return nil
}

// checkFree tells whether enough of the file system remains free for others when so many bytes are taken.
func (s *Store) checkFree(bytes int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.options.Root, &fs); err != nil {
		return fmt.Errorf("look at free space of %s: %w", s.options.Root, err)
	}
	free, all := int64(fs.Bavail)*fs.Bsize, int64(fs.Blocks)*fs.Bsize
	if reserve := min(s.options.Limits.FreeBytes, all/20); free-bytes < reserve {
		return fmt.Errorf("%w: of %d free bytes of the file system of %s %d are to remain free", unix.ENOSPC, free, s.options.Root, reserve)
	}
	if fs.Files > 0 && fs.Ffree < fs.Files/20 { // some file systems do not count
		return fmt.Errorf("%w: the file system of %s has only %d of %d inodes left", unix.ENOSPC, s.options.Root, fs.Ffree, fs.Files)
	}
	return nil
}
