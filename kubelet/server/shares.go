package server

import (
	"net/netip"
	"slices"
	"sync"

	"minikubelet/kubelet/server/auth"
)

// shares are a number of places of which each holder gets only so many, so that one alone never has them all.
type shares struct {
	mu   sync.Mutex
	most int
	all  int
	by   map[string]int
}

// claim is a holder and how many places it may have.
type claim struct {
	holder string
	most   int
}

func newShares(most int) *shares { return &shares{most: most, by: map[string]int{}} }

// take takes one place for all claimants together, and returns how to give it back. It takes none if there is no
// place or one of them has all that it may have.
func (s *shares) take(claims ...claim) (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= s.most || slices.ContainsFunc(claims, func(c claim) bool { return s.by[c.holder] >= c.most }) {
		return nil, false
	}
	s.add(claims, 1)
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.add(claims, -1)
	}), true
}

func (s *shares) add(claims []claim, n int) {
	s.all += n
	for _, c := range claims {
		if s.by[c.holder] += n; s.by[c.holder] == 0 {
			delete(s.by, c.holder)
		}
	}
}

// share returns the claims of a user and of the address that it comes from to three quarters of the places each.
// Users that are not known are told apart by their address alone.
func (s *shares) share(user *auth.User, address string) []claim {
	most := s.most - s.most/4
	claims := []claim{{"address " + hostOf(address), most}}
	if user.Known() {
		claims = append(claims, claim{"user " + user.Name, most})
	}
	return claims
}

// hostOf is the IP address of host:port, without zone.
func hostOf(address string) string {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return address
	}
	return at.Addr().Unmap().WithZone("").String()
}

// networkOf is the network that the peer at host:port can take addresses of: all of loopback, and elsewhere what is
// usually given to a node for its pods.
func networkOf(address string) string {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return address
	}
	ip := at.Addr().Unmap().WithZone("")
	bits := 64
	switch {
	case ip.IsLoopback():
		return "loopback"
	case ip.Is4():
		bits = 24
	}
	network, err := ip.Prefix(bits)
	if err != nil {
		return address
	}
	return network.String()
}
