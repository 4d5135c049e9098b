package main

import (
	"context"

	"google.golang.org/protobuf/types/known/wrapperspb"
)

func startGRPCCalls(inFlight int) func(context.Context) (meter, error) {
	return func(ctx context.Context) (meter, error) {
		pair, err := newGRPCPair(ctx)
		if err != nil {
			return nil, err
		}
		call := func(ctx context.Context) error {
			reply := new(wrapperspb.StringValue)
			if err := pair.client.Invoke(ctx, grpcEcho, wrapperspb.String(echoText), reply); err != nil {
				return err
			}
			if reply.Value != echoText {
				return errWrongEcho
			}
			return nil
		}
		return held{calls(inFlight, call), pair.Close}, nil
	}
}
