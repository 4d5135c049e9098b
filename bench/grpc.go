package main

import (
	"bytes"
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const grpcNote = "grpc-go as shipped: loopback TCP, TLS off"

const (
	grpcEcho   = "/bench.Bench/Echo"
	grpcItems  = "/bench.Bench/Items"
	grpcChunks = "/bench.Bench/Chunks"
)

// grpcService is what a generated file would say about a service with one call and two streams, whose messages are
// protobuf's own wrappers of a string and of bytes.
func grpcService() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "bench.Bench",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Echo", Handler: grpcEchoHandler}},
		Streams: []grpc.StreamDesc{
			{StreamName: "Items", ServerStreams: true, Handler: grpcSource(bytes.Repeat([]byte("i"), itemSize))},
			{StreamName: "Chunks", ServerStreams: true, Handler: grpcSource(newChunk())},
		},
	}
}

func grpcEchoHandler(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	message := new(wrapperspb.StringValue)
	return message, decode(message)
}

// grpcSource sends the same bytes until the caller goes.
func grpcSource(value []byte) grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		if err := stream.RecvMsg(new(emptypb.Empty)); err != nil {
			return err
		}
		for {
			if err := stream.SendMsg(&wrapperspb.BytesValue{Value: value}); err != nil {
				return err
			}
		}
	}
}

// grpcPair is a server and a client connected to it.
type grpcPair struct {
	server *grpc.Server
	client *grpc.ClientConn
}

func newGRPCPair(ctx context.Context) (*grpcPair, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer()
	server.RegisterService(grpcService(), nil)
	go func() { _ = server.Serve(listener) }()
	client, err := grpc.NewClient("passthrough:///"+listener.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		server.Stop()
		return nil, err
	}
	return &grpcPair{server: server, client: client}, nil
}

func (p *grpcPair) Close() error {
	err := p.client.Close()
	p.server.Stop()
	return err
}

// read calls a stream and tells got the size of each message, until the context ends.
func (p *grpcPair) read(ctx context.Context, method string, got func(int)) error {
	stream, err := p.client.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(new(emptypb.Empty)); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	message := new(wrapperspb.BytesValue)
	for {
		if err := stream.RecvMsg(message); err != nil {
			return err
		}
		got(len(message.Value))
	}
}
