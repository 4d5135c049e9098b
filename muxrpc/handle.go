package muxrpc

import (
	"context"
	"iter"
)

// HandleAsync registers a method that answers once.
//
// A says what the handler takes: None for no arguments, Args for all of them, and any other type for the first one,
// whose zero value stands for a missing one. R is encoded as described in the package's documentation.
func HandleAsync[A, R any](r Registrar, name string, fn func(ctx context.Context, args A) (R, error)) error {
	return r.Handle(Method{Name: name, Type: TypeAsync, Handler: answering(fn)})
}

// HandleSync is HandleAsync with another entry in the manifest, for methods that JavaScript peers know as sync. Calls
// of it may still run at the same time.
func HandleSync[A, R any](r Registrar, name string, fn func(ctx context.Context, args A) (R, error)) error {
	return r.Handle(Method{Name: name, Type: TypeSync, Handler: answering(fn)})
}

func answering[A, R any](fn func(context.Context, A) (R, error)) Handler {
	return func(ctx context.Context, call *CallInfo) (any, error) {
		args, err := decodeArgs[A](call.Args)
		if err != nil {
			return nil, err
		}
		return fn(ctx, args)
	}
}

// HandleSource registers a method that sends the items it yields. An error that is yielded ends the stream with it.
// Yield returns false when the caller has left.
func HandleSource[A, T any](r Registrar, name string, fn func(ctx context.Context, args A) iter.Seq2[T, error]) error {
	return r.Handle(Method{Name: name, Type: TypeSource, Handler: func(ctx context.Context, call *CallInfo) (any, error) {
		args, err := decodeArgs[A](call.Args)
		if err != nil {
			return nil, err
		}
		return untyped(fn(ctx, args)), nil
	}})
}

// untyped returns items as values of type any.
func untyped[T any](items iter.Seq2[T, error]) iter.Seq2[any, error] {
	return func(yield func(any, error) bool) {
		if items == nil {
			return
		}
		for item, err := range items {
			if !yield(item, err) {
				return
			}
		}
	}
}

// HandleSink registers a method that takes items. They end with an error if the caller ended with one; otherwise, what
// fn returns is the caller's result. Leaving the items before they end tells the caller to stop.
func HandleSink[A, T any](r Registrar, name string, fn func(ctx context.Context, args A, items iter.Seq2[T, error]) error) error {
	return r.Handle(Method{Name: name, Type: TypeSink, Handler: func(ctx context.Context, call *CallInfo) (any, error) {
		args, err := decodeArgs[A](call.Args)
		if err != nil {
			return nil, err
		}
		return nil, fn(ctx, args, receive[T](ctx, call.Stream.st))
	}})
}

// HandleDuplex registers a method that takes and sends items. The stream ends when fn returns, with its error if it
// returns one. A duplex has no half-close: see Stream.
func HandleDuplex[A, In, Out any](r Registrar, name string, fn func(ctx context.Context, args A, s *Stream[In, Out]) error) error {
	return r.Handle(Method{Name: name, Type: TypeDuplex, Handler: func(ctx context.Context, call *CallInfo) (any, error) {
		args, err := decodeArgs[A](call.Args)
		if err != nil {
			return nil, err
		}
		return nil, fn(ctx, args, &Stream[In, Out]{call.Stream.st})
	}})
}

// HandleManifest registers the method "manifest", with which peers ask what can be called.
func HandleManifest(m *Mux) error {
	return HandleSync(m, "manifest", func(context.Context, None) (Manifest, error) { return m.Manifest(), nil })
}

// decodeArgs makes of the arguments what a handler takes.
func decodeArgs[A any](args Args) (A, error) {
	var a A
	switch dst := any(&a).(type) {
	case *None:
		return a, nil
	case *Args:
		*dst = args
		return a, nil
	}
	return a, args.Decode(&a)
}
