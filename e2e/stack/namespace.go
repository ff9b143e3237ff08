package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"minikubelet/runtime/criserver/namespaces"
)

// NodeIP is the node's address inside every stack's network namespace. Stacks
// do not see each other, so they can all use the same one.
const NodeIP = "10.89.0.2"

// PodCIDR is where pods get their addresses from.
const PodCIDR = "10.88.0.0/16"

// namespace is a network namespace with one OS thread that lives in it.
//
// Everything the stack starts is forked from that thread, for two reasons: a
// child inherits the network namespace of the thread that forked it (so no
// wrapper is needed, and the mount namespace stays the host's), and PDEATHSIG
// fires when the forking thread ends, not the process, so the thread has to
// outlive its children.
type namespace struct {
	path  string // bind mount of the namespace, for nsenter --net=
	calls chan func()
	done  chan struct{}
}

// newNamespace makes a network namespace, pins it at path and gives it a node
// address and a default route. The thread that lives in it begins with more.
func newNamespace(path string, more func() error) (*namespace, error) {
	n := &namespace{path: path, calls: make(chan func()), done: make(chan struct{})}
	ready := make(chan error)
	namespaces.OnThread(func() {
		defer close(n.done)
		err := enterNew(path)
		if err == nil {
			err = more()
		}
		if err != nil {
			ready <- err
			return
		}
		ready <- nil
		for call := range n.calls {
			call()
		}
	})
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("create network namespace %s: %w", path, err)
	}
	return n, nil
}

// enterNew moves the calling thread into a fresh network namespace.
func enterNew(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	if err := unix.Mount(self, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind mount %s: %w", self, err)
	}
	return configureNetwork()
}

// configureNetwork brings up lo and a veth pair whose two ends both stay in the
// namespace: one carries the node's address, the other only gives it a carrier.
// The default route leads nowhere; it is there because kube-apiserver and the
// kubelet look for their address on the interface of the default route.
func configureNetwork() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	node := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "node0"}, PeerName: "node0peer"}
	if err := netlink.LinkAdd(node); err != nil {
		return fmt.Errorf("add node0: %w", err)
	}
	for _, name := range []string{"node0", "node0peer"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring up %s: %w", name, err)
		}
		if name != "node0" {
			continue
		}
		addr, err := netlink.ParseAddr(NodeIP + "/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("give node0 its address: %w", err)
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IPv4(10, 89, 0, 1)}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("add default route: %w", err)
		}
	}
	return nil
}

// do runs fn on the thread that lives in the namespace.
func (n *namespace) do(fn func() error) error {
	result := make(chan error, 1)
	select {
	case n.calls <- func() { result <- fn() }:
		return <-result
	case <-n.done:
		return errors.New("network namespace is closed")
	}
}

// close ends the namespace's thread. Children still running get their PDEATHSIG.
func (n *namespace) close() {
	close(n.calls)
	<-n.done
}

// listen opens a listener inside the namespace.
func (n *namespace) listen(address string) (net.Listener, error) {
	var l net.Listener
	err := n.do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	return l, err
}

// listenPacket opens a UDP socket inside the namespace.
func (n *namespace) listenPacket(address string) (net.PacketConn, error) {
	var c net.PacketConn
	err := n.do(func() (err error) {
		c, err = net.ListenPacket("udp", address)
		return err
	})
	return c, err
}

// dialContext connects from inside the namespace. A socket belongs to the
// namespace of the thread that created it, so only its creation happens on a
// borrowed thread; a slow dial blocks nobody else.
func (n *namespace) dialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if network == "unix" {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	type result struct {
		conn net.Conn
		err  error
	}
	c := make(chan result, 1)
	namespaces.OnThread(func() {
		conn, err := n.dialHere(ctx, network, address)
		c <- result{conn, err}
	})
	r := <-c
	return r.conn, r.err
}

// dialHere dials from the namespace on the calling (locked) thread.
func (n *namespace) dialHere(ctx context.Context, network, address string) (net.Conn, error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	target, err := os.Open(n.path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer target.Close()
	if err := unix.Setns(int(target.Fd()), syscall.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter network namespace %s: %w", n.path, err)
	}
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, address)
	if back := unix.Setns(int(home.Fd()), syscall.CLONE_NEWNET); back == nil {
		runtime.UnlockOSThread()
	}
	return conn, err
}
