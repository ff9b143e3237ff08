package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"minikubelet/runtime/criserver/store"
)

type (
	config struct{ Name string }
	state  struct{ Phase string }
)

// TestRecord: what is written is found again, the broken is set aside, and a removal that was
// interrupted leaves nothing that could be taken for a record.
func TestRecord(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "records")
	if found, err := store.Load[config, state](parent); err != nil || len(found) != 0 {
		t.Fatalf("empty: %v, %v", found, err)
	}
	id := store.NewID()
	r, err := store.Create(parent, id, config{"a"}, state{"new"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Create(parent, id, config{"b"}, state{}); err == nil {
		t.Error("a second record of the same ID")
	}
	if err := os.Mkdir(filepath.Join(parent, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	old := r.State()
	if err := r.Update(func(s *state) { s.Phase = "old" }); err != nil || old.Phase != "new" || r.State().Phase != "old" {
		t.Errorf("update: %v, %v, %v", err, old, r.State())
	}
	found, err := store.Load[config, state](parent)
	if err != nil || len(found) != 1 || found[0].ConfigError != nil || found[0].StateError != nil || found[0].Config.Name != "a" || found[0].State().Phase != "old" {
		t.Fatalf("loaded: %+v, %v", found, err)
	}
	for _, file := range []string{"config.json", "state.json"} {
		if err := os.WriteFile(filepath.Join(r.Dir(), file), []byte(`{"Name":`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err = store.Load[config, state](parent)
	if err != nil || found[0].ConfigError == nil || found[0].StateError == nil || found[0].State().Phase != "" {
		t.Fatalf("broken: %+v, %v", found, err)
	}
	if err := found[0].Restore(config{"c"}); err != nil {
		t.Fatal(err)
	}
	found, err = store.Load[config, state](parent)
	if err != nil || found[0].ConfigError != nil || found[0].Config.Name != "c" || !errors.Is(found[0].StateError, fs.ErrNotExist) {
		t.Fatalf("restored: %+v, %v", found, err)
	}
	if err := os.Remove(filepath.Join(r.Dir(), "config.json")); err != nil {
		t.Fatal(err)
	}
	if found, err = store.Load[config, state](parent); err != nil || !errors.Is(found[0].ConfigError, fs.ErrNotExist) {
		t.Errorf("half removed: %+v, %v", found, err)
	}
	for range 2 {
		if err := r.Remove(); err != nil {
			t.Error(err)
		}
	}
}

// TestUpdate: a state that is longer or shorter than the one before, and one that is written over what a server that was
// killed left half written, is read back as it is.
func TestUpdate(t *testing.T) {
	parent, id := t.TempDir(), store.NewID()
	r, err := store.Create(parent, id, config{"a"}, state{"new"})
	if err != nil {
		t.Fatal(err)
	}
	for i, phase := range []string{"one", "a longer one", "1", "two"} {
		if i == 3 {
			if err := os.WriteFile(filepath.Join(r.Dir(), "state.json.tmp"), []byte(`{"Phase":"half of something long`), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Update(func(s *state) { s.Phase = phase }); err != nil {
			t.Fatal(err)
		}
		if got := store.Open[config, state](parent, id); got.State().Phase != phase || got.StateError != nil || got.Config.Name != "a" {
			t.Errorf("%+v, %v, want %q", got.State(), got.StateError, phase)
		}
	}
}

func TestIndex(t *testing.T) {
	x := store.NewIndex[string]()
	x.Add("abc1", "one")
	x.Add("abd2", "two")
	for _, tc := range []struct {
		id, want string
		ok, err  bool
	}{{"abc1", "one", true, false}, {"abc", "one", true, false}, {"ab", "", false, true}, {"x", "", false, false}, {"", "", false, false}} {
		if got, ok, err := x.Get(tc.id); got != tc.want || ok != tc.ok || (err != nil) != tc.err {
			t.Errorf("%q: %q, %v, %v", tc.id, got, ok, err)
		}
	}
	x.Delete("abc1")
	if len(x.All()) != 1 || len(store.NewID()) != 64 {
		t.Error("not deleted")
	}
}
