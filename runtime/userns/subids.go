package userns

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"time"
)

// owner is whose subordinate IDs the pods get, if the machine has such a user.
const owner = "kubelet"

// SubIDs returns the IDs that the machine sets aside for pods: the subordinate ones of the user kubelet. It returns the zero Range where
// that is not set up.
//
// Upstream: pkg/kubelet/kubelet_pods.go getKubeletMappings
func SubIDs(ctx context.Context) (Range, error) {
	var unknown user.UnknownUserError
	if _, err := user.Lookup(owner); errors.As(err, &unknown) {
		return Range{}, nil
	} else if err != nil {
		return Range{}, fmt.Errorf("user namespaces: look up user %s: %w", owner, err)
	}
	program, err := exec.LookPath("getsubids")
	if err != nil {
		return Range{}, nil // as upstream: a user without subordinate IDs is just a user
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second) // it may ask a directory service
	defer cancel()
	users, err := exec.CommandContext(ctx, program, owner).Output()
	groups, groupsErr := exec.CommandContext(ctx, program, "-g", owner).Output()
	if err = errors.Join(err, groupsErr); err != nil {
		return Range{}, fmt.Errorf("user namespaces: subordinate IDs of %s: %w", owner, err)
	}
	if string(users) != string(groups) {
		return Range{}, fmt.Errorf("user namespaces: the subordinate user and group IDs of %s differ", owner)
	}
	return parseSubIDs(string(users))
}

// parseSubIDs reads the one line that getsubids must print: "0: kubelet 65536 7208960".
func parseSubIDs(output string) (Range, error) {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	fields := strings.Fields(lines[0])
	if len(lines) != 1 || len(fields) != 4 {
		return Range{}, fmt.Errorf("user namespaces: getsubids should print one range of IDs for %s, not %q", owner, output)
	}
	first, err := strconv.ParseUint(fields[2], 10, 32)
	if err != nil {
		return Range{}, fmt.Errorf("user namespaces: first subordinate ID: %w", err)
	}
	length, err := strconv.ParseUint(fields[3], 10, 32)
	if err != nil {
		return Range{}, fmt.Errorf("user namespaces: number of subordinate IDs: %w", err)
	}
	return Range{first, length}, nil
}
