// Package patch computes strategic merge patches between two versions of an API object.
package patch

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// Diff returns the strategic merge patch that makes after of before, nil if they are encoded alike: they may still differ
// in what the API has no room for, such as parts of a second.
func Diff[T any](before, after *T) ([]byte, error) {
	b, err := json.Marshal(before)
	if err != nil {
		return nil, fmt.Errorf("encode the object as it is: %w", err)
	}
	a, err := json.Marshal(after)
	if err != nil {
		return nil, fmt.Errorf("encode the object as it should be: %w", err)
	}
	body, err := strategicpatch.CreateTwoWayMergePatch(b, a, new(T))
	if err != nil || string(body) == "{}" {
		return nil, err
	}
	return body, nil
}
