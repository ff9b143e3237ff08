package logs

import (
	"slices"
	"strings"
)

// plan says which rotated logs of name stay and which are removed before one more rotation: what an interrupted rotation left, and
// the oldest above maxFiles. The log itself and the one that it becomes are two of maxFiles. Both lists are sorted, oldest first.
func plan(entries []string, name string, maxFiles int) (keep, remove []string) {
	for _, entry := range entries {
		suffix, ours := strings.CutPrefix(entry, name+".")
		switch {
		case !ours || suffix == "":
		case strings.HasSuffix(entry, tmpSuffix), slices.Contains(entries, entry+compressSuffix):
			remove = append(remove, entry)
		default:
			keep = append(keep, entry)
		}
	}
	slices.Sort(keep)
	excess := max(len(keep)-max(maxFiles-2, 0), 0)
	remove = append(remove, keep[:excess]...)
	slices.Sort(remove)
	return keep[excess:], remove
}
