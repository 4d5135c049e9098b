package main

import "context"

func startBoxStream(ctx context.Context) (meter, error) { return pending(ctx) }

func countBoxAllocations(context.Context) (float64, error) { return 0, errPending }
