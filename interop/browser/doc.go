// Package browser drives the hub's pages in headless Chromium, as people do.
package browser
