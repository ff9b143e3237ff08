package resize

import (
	"testing"
)

func TestCompare(t *testing.T) {
	for _, tc := range []struct {
		before, after *int64
		want          int
	}{
		{nil, nil, 0}, {new(int64(1)), nil, 0}, {nil, new(int64(1)), 0},
		{new(int64(1)), new(int64(2)), 1}, {new(int64(2)), new(int64(1)), -1}, {new(int64(2)), new(int64(2)), 0},
		{new(int64(-1)), new(int64(2)), -1}, {new(int64(2)), new(int64(-1)), 1}, {new(int64(-1)), new(int64(-1)), 0},
	} {
		if got := compare(tc.before, tc.after); got != tc.want {
			t.Errorf("compare(%v, %v) = %d, want %d", tc.before, tc.after, got, tc.want)
		}
	}
}
