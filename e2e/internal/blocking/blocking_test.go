package blocking

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestCheck: of what the loop of testdata does, that is found which waits.
func TestCheck(t *testing.T) {
	p, err := Load("testdata/loop", ".")
	if err != nil {
		t.Fatal(err)
	}
	found := p.Check("(*loop.loop).turn", map[string][]string{"loop.loop.hook": {"loop.hooked"}})
	want := []string{
		"(*loop.loop).sync: os.Remove",
		"(*loop.loop).turn: calls (loop.part).act",
		"(*loop.loop).turn: calls loop.loop.unknown",
		"loop.hooked: receive from make(chan int)",
		"loop.loop.mu held by (*loop.loop).sendsUnderLock: (*loop.loop).send: send to l.news",
		"loop.loop.mu held by (*loop.loop).turn: (*loop.loop).sync: os.Remove",
		"loop.loop.mu held by (*loop.loop).turn: (*loop.loop).turn: calls (loop.part).act",
		"loop.loop.mu held by (*loop.loop).turn: (*loop.loop).turn: calls loop.loop.unknown",
		"loop.loop.mu held by (*loop.loop).turn: loop.hooked: receive from make(chan int)",
		"loop.loop.other held by (*loop.loop).sendsAfterEarlyReturn: (*loop.loop).sendsAfterEarlyReturn: select of <-l.news",
	}
	if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if way := found["loop.hooked: receive from make(chan int)"]; len(way) != 2 || !strings.HasSuffix(way[1], "loop.go:44") {
		t.Errorf("the way is %q", way)
	}
	if len(p.Check("none", nil)) != 1 {
		t.Error("a root that there is not")
	}
}
