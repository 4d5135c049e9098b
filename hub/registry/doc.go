// Package registry is the hub's memory: which id belongs to which key, on a storage engine of its own that runs inside the
// process.
package registry
