package crifake

import (
	"context"
	"io"
	"path"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/cri"
)

// Direct returns a client that calls the server without a socket, so that everything stays in the bubble of a
// testing/synctest test. It has no deadlines and no metrics.
func (s *Server) Direct() *cri.Client {
	conn := directConn{s}
	return &cri.Client{Runtime: runtimeapi.NewRuntimeServiceClient(conn), Images: runtimeapi.NewImageServiceClient(conn)}
}

type directConn struct{ server *Server }

func (c directConn) Invoke(ctx context.Context, method string, request, reply any, _ ...grpc.CallOption) error {
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	decode := func(into any) error {
		proto.Merge(into.(proto.Message), request.(proto.Message))
		return nil
	}
	for _, desc := range []grpc.ServiceDesc{runtimeapi.RuntimeService_ServiceDesc, runtimeapi.ImageService_ServiceDesc} {
		for _, m := range desc.Methods {
			if method != "/"+desc.ServiceName+"/"+m.MethodName {
				continue
			}
			answer, err := m.Handler(c.server, ctx, decode, c.server.intercept)
			if err != nil {
				return status.Convert(err).Err()
			}
			proto.Merge(reply.(proto.Message), answer.(proto.Message))
			return nil
		}
	}
	return status.Errorf(codes.Unimplemented, "unknown method %s", method)
}

func (c directConn) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	if path.Base(method) != "GetContainerEvents" {
		return nil, status.Errorf(codes.Unimplemented, "unknown stream %s", method)
	}
	stream := &directStream{ctx: ctx, events: make(chan *runtimeapi.ContainerEventResponse), done: make(chan struct{})}
	go func() {
		stream.err = c.server.enter(ctx, path.Base(method), nil)
		if stream.err == nil {
			stream.err = c.server.GetContainerEvents(&runtimeapi.GetEventsRequest{}, stream)
		}
		close(stream.done)
	}()
	return directClientStream{stream}, nil
}

// directStream is the server's end.
type directStream struct {
	grpc.ServerStream
	ctx    context.Context
	events chan *runtimeapi.ContainerEventResponse
	done   chan struct{}
	err    error
}

func (d *directStream) Context() context.Context { return d.ctx }

func (d *directStream) Send(event *runtimeapi.ContainerEventResponse) error {
	select {
	case d.events <- proto.CloneOf(event):
		return nil
	case <-d.ctx.Done():
		return d.ctx.Err()
	}
}

type directClientStream struct{ stream *directStream }

func (d directClientStream) Header() (metadata.MD, error) { return nil, nil }
func (d directClientStream) Trailer() metadata.MD         { return nil }
func (d directClientStream) CloseSend() error             { return nil }
func (d directClientStream) Context() context.Context     { return d.stream.ctx }
func (d directClientStream) SendMsg(any) error            { return nil }

func (d directClientStream) RecvMsg(into any) error {
	select {
	case event := <-d.stream.events:
		proto.Merge(into.(proto.Message), event)
		return nil
	case <-d.stream.done:
		if d.stream.err == nil {
			return io.EOF
		}
		return status.Convert(d.stream.err).Err()
	case <-d.stream.ctx.Done():
		return status.FromContextError(d.stream.ctx.Err()).Err()
	}
}
