// Package netns is networks for tests that pull the plug: network namespaces of Linux, joined by cables that can be cut.
package netns
