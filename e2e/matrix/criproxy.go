package matrix

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

const maxMessage = 16 << 20 // bytes, as kubelets have it

// CRIProxy stands between a kubelet and its runtime and passes on every call as the bytes it is. Of the methods it knows
// nothing but that each has one request, which is true of all of the CRI's. A call that a fault is meant for meets it.
type CRIProxy struct {
	Socket string
	faults faults

	server  *grpc.Server
	runtime *grpc.ClientConn

	mu    sync.Mutex // guards what follows
	conns map[net.Conn]bool
	calls map[string]int // by method
}

// StartCRIProxy listens at socket for what goes to the runtime's socket. Neither need the runtime run yet.
func StartCRIProxy(socket, runtime string) (*CRIProxy, error) {
	conn, err := grpc.NewClient("unix://"+runtime, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("connect to the runtime: %w", err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listen for the kubelet's calls: %w", err)
	}
	p := &CRIProxy{Socket: socket, runtime: conn, conns: map[net.Conn]bool{}, calls: map[string]int{}}
	p.server = grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(p.handle),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	go func() { _ = p.server.Serve(countedListener{l, p}) }()
	return p, nil
}

// Inject puts a fault in force.
func (p *CRIProxy) Inject(f Fault) *Injection { return p.faults.inject(f) }

// Close ends the proxy and the calls that it passes on.
func (p *CRIProxy) Close() {
	p.faults.healAll()
	p.server.Stop()
	_ = p.runtime.Close()
}

// Methods are those that were called so far, with the number of calls.
func (p *CRIProxy) Methods() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.calls)
}

// handle passes one call on, or has it meet its fault.
func (p *CRIProxy) handle(_ any, kubelet grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(kubelet)
	method := path.Base(full)
	var request []byte
	if err := kubelet.RecvMsg(&request); err != nil {
		return err
	}
	p.mu.Lock()
	p.calls[method]++
	p.mu.Unlock()
	subject := p.faults.subjectOf(request)
	fault := p.faults.take(method, subject)
	if fault == nil {
		return p.pass(kubelet.Context(), full, request, subject, kubelet.SendMsg)
	}
	defer fault.done()
	ctx, cancel := context.WithCancel(kubelet.Context())
	defer cancel()
	nobody := func(any) error { return nil }
	switch fault.Kind {
	case Failing:
		return status.Error(codes.Unknown, cmp.Or(fault.Message, "a fault was injected before the call"))
	case FailingLate:
		fault.wait(ctx, fault.Delay)
		return status.Error(codes.Unknown, "a fault was injected before the call, after a while")
	case Hanging:
		fault.wait(ctx, forever)
		return unanswered(kubelet.Context())
	case AnswerLost: // the runtime does what was asked, and the kubelet never hears of it
		go func() { // a stream ends by itself only with the runtime
			fault.wait(ctx, forever)
			cancel()
		}()
		_ = p.pass(ctx, full, request, subject, nobody)
		<-ctx.Done()
		return unanswered(kubelet.Context())
	case Cut: // the runtime has the call when the connection goes
		timer := time.AfterFunc(fault.Delay, p.CutConnections)
		defer timer.Stop()
		_ = p.pass(ctx, full, request, subject, nobody)
		fault.wait(ctx, forever) // until the connection is cut
		return status.Error(codes.Unavailable, "a fault cut the connection")
	}
	return status.Error(codes.Internal, "unknown kind of fault "+string(fault.Kind))
}

// unanswered is how a call ends that got no answer: its time was over, which this side may see first, or the fault was healed.
func unanswered(call context.Context) error {
	return status.FromContextError(cmp.Or(call.Err(), context.Canceled)).Err()
}

// pass asks the runtime and sends on what it answers, one message or a stream of them.
func (p *CRIProxy) pass(ctx context.Context, method string, request []byte, subject *Subject, send func(any) error) error {
	stream, err := p.runtime.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&request); err != nil && !errors.Is(err, io.EOF) { // EOF: the status comes with RecvMsg
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		var answer []byte
		err := stream.RecvMsg(&answer)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		subject.learn(answer)
		if err := send(&answer); err != nil {
			return err
		}
	}
}

// CutConnections closes the kubelet's connections; it may connect again at once.
func (p *CRIProxy) CutConnections() {
	p.mu.Lock()
	conns := slices.Collect(maps.Keys(p.conns))
	p.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close()
	}
}

// countedListener keeps the proxy's connections, to cut them.
type countedListener struct {
	net.Listener
	p *CRIProxy
}

func (l countedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	counted := &countedConn{conn, l.p}
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	l.p.conns[counted] = true
	return counted, nil
}

type countedConn struct {
	net.Conn
	p *CRIProxy
}

func (c *countedConn) Close() error {
	c.p.mu.Lock()
	delete(c.p.conns, c)
	c.p.mu.Unlock()
	return c.Conn.Close()
}

// raw is the codec of messages that nobody looks into.
type raw struct{}

// Name is that of the codec which the bytes come from.
func (raw) Name() string { return "proto" }

// Marshal returns the bytes.
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	data, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("pass on a %T: not bytes", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*data)}, nil
}

// Unmarshal copies the bytes.
func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	to, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("pass on to a %T: not bytes", v)
	}
	*to = data.Materialize()
	return nil
}
