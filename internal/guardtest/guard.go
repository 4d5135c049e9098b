// Package guardtest holds the project to its own rules: which package may import which, that every package says what
// it is for, and that every section of docs/PROTOCOL.md that the code cites exists. It has no code of its own.
package guardtest
