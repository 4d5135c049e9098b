module github.com/secretstack/secretstack/interop

go 1.26.0


replace github.com/secretstack/secretstack => ..
