package store

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// NewID returns a random ID of 64 hex digits, the form that crictl and cAdvisor expect.
func NewID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// ValidID tells an ID from the name of a directory that is not ours.
func ValidID(id string) bool {
	_, err := hex.DecodeString(id)
	return err == nil && len(id) == 64
}

// Index finds live objects by ID, or by an unambiguous beginning of it.
type Index[T any] struct {
	mu   sync.RWMutex
	byID map[string]T
}

// NewIndex returns an empty index.
func NewIndex[T any]() *Index[T] {
	return &Index[T]{byID: map[string]T{}}
}

// Add makes an object visible.
func (x *Index[T]) Add(id string, object T) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byID[id] = object
}

// Delete makes an object invisible.
func (x *Index[T]) Delete(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.byID, id)
}

// All returns every object, in no order.
func (x *Index[T]) All() []T {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Collect(maps.Values(x.byID))
}

// Get finds an object by its ID or a beginning of it that no other has.
func (x *Index[T]) Get(id string) (object T, ok bool, err error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if object, ok = x.byID[id]; ok || id == "" {
		return object, ok, nil
	}
	matches := 0
	for full, candidate := range x.byID {
		if strings.HasPrefix(full, id) {
			object = candidate
			matches++
		}
	}
	if matches > 1 {
		var none T
		return none, false, fmt.Errorf("%q is the beginning of %d IDs", id, matches)
	}
	return object, matches == 1, nil
}
