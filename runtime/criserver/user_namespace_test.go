package criserver

import (
	"errors"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/oci"
)

func TestValidateUserNamespace(t *testing.T) {
	s := &Server{runtimes: map[string]*monitor.Runtime{"able": {}, "unable": {NoUserNamespaces: errors.New("the kernel is too old")}}}
	good := []*runtimeapi.IDMapping{{HostId: 100, Length: 10}, {HostId: 1000, ContainerId: 10, Length: 10}}
	for what, tc := range map[string]struct {
		users *runtimeapi.UserNamespace
		err   error
	}{
		"none":        {nil, nil},
		"the node's":  {&runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE}, nil},
		"of the pod":  {&runtimeapi.UserNamespace{Uids: good, Gids: good}, nil},
		"other modes": {&runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_TARGET, Uids: good, Gids: good}, oci.ErrInvalid},
		"no users":    {&runtimeapi.UserNamespace{Gids: good}, oci.ErrInvalid},
		"no groups":   {&runtimeapi.UserNamespace{Uids: good}, oci.ErrInvalid},
		"no root":     {&runtimeapi.UserNamespace{Uids: good[1:], Gids: good}, oci.ErrInvalid},
		"too many":    {&runtimeapi.UserNamespace{Uids: make([]*runtimeapi.IDMapping, 341), Gids: good}, oci.ErrInvalid},
		"real root":   {&runtimeapi.UserNamespace{Uids: []*runtimeapi.IDMapping{{Length: 1}}, Gids: good}, oci.ErrInvalid},
		"no length":   {&runtimeapi.UserNamespace{Uids: []*runtimeapi.IDMapping{{HostId: 7}}, Gids: good}, oci.ErrInvalid},
		"too long":    {&runtimeapi.UserNamespace{Uids: []*runtimeapi.IDMapping{{HostId: 7, Length: 1<<32 - 1}}, Gids: good}, oci.ErrInvalid},
	} {
		err := s.validateUserNamespace("able", &runtimeapi.NamespaceOption{UsernsOptions: tc.users, Pid: runtimeapi.NamespaceMode_CONTAINER})
		if !errors.Is(err, tc.err) {
			t.Errorf("%s: %v, want %v", what, err, tc.err)
		}
	}
	asked := &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Uids: good, Gids: good}}
	err := s.validateUserNamespace("unable", asked)
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "too old") {
		t.Errorf("where they do not work: %v", err)
	}
	asked.Network = runtimeapi.NamespaceMode_NODE
	if err := s.validateUserNamespace("able", asked); !errors.Is(err, oci.ErrInvalid) {
		t.Errorf("in the node's network: %v", err)
	}
}
