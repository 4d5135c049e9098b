package main

import "context"

func startHandshakes(ctx context.Context) (meter, error) { return pending(ctx) }
