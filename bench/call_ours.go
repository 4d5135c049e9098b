package main

import (
	"context"

	"github.com/secretstack/secretstack/muxrpc"
)

func startCalls(inFlight int) func(context.Context) (meter, error) {
	return func(ctx context.Context) (meter, error) {
		pair, err := newStackPair(ctx)
		if err != nil {
			return nil, err
		}
		call := func(ctx context.Context) error {
			reply, err := muxrpc.Call[string](ctx, pair.client, "echo", echoText)
			if err == nil && reply != echoText {
				err = errWrongEcho
			}
			return err
		}
		return held{calls(inFlight, call), pair.Close}, nil
	}
}
