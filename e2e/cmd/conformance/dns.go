package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"minikubelet/e2e/stack"
)

// clusterDNS is the address that the stack's kubelets tell pods to ask.
const clusterDNS = "10.96.0.10"

// startDNS serves the names of the cluster's services, on the node, and makes the service whose address pods ask.
// It stands in for CoreDNS, which would be the longest to build of the whole stack.
func startDNS(ctx context.Context, s *stack.Stack) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	factory := informers.NewSharedInformerFactory(s.Client, 0)
	z := zone{services: factory.Core().V1().Services().Lister(), slices: factory.Discovery().V1().EndpointSlices().Lister()}
	synced := []cache.InformerSynced{factory.Core().V1().Services().Informer().HasSynced, factory.Discovery().V1().EndpointSlices().Informer().HasSynced}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		cancel()
		return nil, fmt.Errorf("read the cluster's services: %w", ctx.Err())
	}
	packets, err := s.ListenPacket(stack.NodeIP + ":53")
	if err != nil {
		cancel()
		return nil, fmt.Errorf("serve DNS: %w", err)
	}
	listener, err := s.Listen(stack.NodeIP + ":53")
	if err != nil {
		cancel()
		packets.Close()
		return nil, fmt.Errorf("serve DNS: %w", err)
	}
	go servePackets(packets, z)
	go serveStreams(listener, z)
	stop = func() {
		cancel()
		packets.Close()
		listener.Close()
		factory.Shutdown()
	}
	if err := createDNSService(ctx, s); err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// createDNSService gives the node's DNS the address that pods ask.
func createDNSService(ctx context.Context, s *stack.Stack) error {
	udp, tcp, dns, dnsTCP, port := corev1.ProtocolUDP, corev1.ProtocolTCP, "dns", "dns-tcp", int32(53)
	meta := metav1.ObjectMeta{Name: "kube-dns", Namespace: metav1.NamespaceSystem, Labels: map[string]string{discoveryv1.LabelServiceName: "kube-dns"}}
	_, err := s.Client.CoreV1().Services(meta.Namespace).Create(ctx, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
		ClusterIP: clusterDNS, Ports: []corev1.ServicePort{{Name: dns, Protocol: udp, Port: port}, {Name: dnsTCP, Protocol: tcp, Port: port}},
	}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create the service of DNS: %w", err)
	}
	_, err = s.Client.DiscoveryV1().EndpointSlices(meta.Namespace).Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{stack.NodeIP}}},
		Ports: []discoveryv1.EndpointPort{{Name: &dns, Protocol: &udp, Port: &port}, {Name: &dnsTCP, Protocol: &tcp, Port: &port}},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create the endpoint of DNS: %w", err)
	}
	return nil
}

// servePackets answers until the socket is closed. An answer is a look into a cache, so one goroutine is enough.
func servePackets(c net.PacketConn, z zone) {
	buf := make([]byte, 4096)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		if reply := z.respond(buf[:n], 512); reply != nil {
			_, _ = c.WriteTo(reply, from)
		}
	}
}

func serveStreams(l net.Listener, z zone) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			for serveStream(c, z) == nil { // a client may ask again on the same connection
			}
		}()
	}
}

// serveStream answers one question of a TCP connection: a length, then a message.
func serveStream(c io.ReadWriter, z zone) error {
	var length uint16
	if err := binary.Read(c, binary.BigEndian, &length); err != nil {
		return err
	}
	query := make([]byte, length)
	if _, err := io.ReadFull(c, query); err != nil {
		return err
	}
	reply := z.respond(query, 1<<16-1)
	if reply == nil {
		return io.ErrUnexpectedEOF
	}
	_, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
	return err
}

// respond answers a message; nil is no answer to what is no question.
func (z zone) respond(query []byte, limit int) []byte {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil || header.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	answers, code := z.answer(q)
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired, RecursionAvailable: true, RCode: code},
		Questions: []dnsmessage.Question{q}, Answers: answers,
	}
	reply, err := m.Pack()
	if err == nil && len(reply) > limit { // ask again over TCP
		m.Answers, m.Truncated = nil, true
		reply, err = m.Pack()
	}
	if err != nil {
		return nil
	}
	return reply
}
