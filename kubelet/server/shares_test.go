package server

import (
	"testing"

	"minikubelet/kubelet/server/auth"
)

// held is how many places are taken.
func (s *shares) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all
}

// TestShares: a user gets no more than its share from however many addresses, nor an address with however many users.
func TestShares(t *testing.T) {
	bob, eve, nobody := &auth.User{Name: "bob"}, &auth.User{Name: "eve"}, &auth.User{Name: "system:anonymous"}
	s := newShares(8)
	take := func(user *auth.User, address string, want bool) func() {
		t.Helper()
		leave, ok := s.take(s.share(user, address)...)
		if ok != want {
			t.Fatalf("%s from %s with %d taken: %v", user.Name, address, s.held(), ok)
		}
		return leave
	}
	var leave []func()
	for _, address := range []string{"10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3", "10.0.0.2:1", "10.0.0.2:2", "10.0.0.3:1"} {
		leave = append(leave, take(bob, address, true))
	}
	take(bob, "10.0.0.4:1", false)
	last := take(eve, "10.0.0.4:1", true)
	last()
	for _, l := range leave {
		l()
	}
	if len(s.by) != 0 || s.held() != 0 {
		t.Errorf("left over: %v, %d", s.by, s.held())
	}
	for range 6 {
		take(nobody, "10.0.0.1:9", true)
	}
	take(eve, "10.0.0.1:10", false)
	take(nobody, "[::ffff:10.0.0.1]:10", false)
	take(nobody, "10.0.0.2:10", true)
	take(eve, "[fe80::1%eth0]:10", true)
	take(bob, "10.0.0.3:10", false)
}

func TestNetworks(t *testing.T) {
	for address, want := range map[string][2]string{
		"127.0.0.1:1": {"127.0.0.1", "loopback"}, "127.9.9.9:1": {"127.9.9.9", "loopback"}, "[::1]:1": {"::1", "loopback"},
		"10.1.2.3:1": {"10.1.2.3", "10.1.2.0/24"}, "[::ffff:10.1.2.3]:1": {"10.1.2.3", "10.1.2.0/24"},
		"[fd00:1:2:3:4::5]:1": {"fd00:1:2:3:4::5", "fd00:1:2:3::/64"}, "[fe80::1%lo]:1": {"fe80::1", "fe80::/64"}, "@": {"@", "@"},
	} {
		if got := [2]string{hostOf(address), networkOf(address)}; got != want {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
}
