package csi

import (
	"testing"

	"minikubelet/e2e/fulldisk"
)

// TestNoSpace: the record of a mounted volume is as it was before, or as it is meant to be.
func TestNoSpace(t *testing.T) {
	save := func(handle string) func(dir string) error {
		return data{Driver: "driver.example.com", Handle: handle}.save
	}
	fulldisk.Each(t, "", save("before"), save("after"))
}
