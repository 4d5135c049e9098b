package testkit

import "testing"

func TestGoroutinesOfAPackageAreFound(t *testing.T) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		<-end
	}()
	if goroutinesOf("internal/testkit.") == "" {
		t.Error("one is at work, and is not found")
	}
	close(end)
	<-ended
	Eventually(t, "it is found no more", func() bool { return goroutinesOf("internal/testkit.") == "" })
}
