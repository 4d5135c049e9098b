// Package guardtest holds the project to its own rules: which package may import which, that every package says what
// it is for, that every section of docs/PROTOCOL.md that the code cites exists, that every test that docs/ACCEPTANCE.md
// names exists, and that the README shows code that runs. It has no code of its own.
package guardtest
