// Package packaging holds what turns secretstack into packages and a container image, and the tests of these. It is a
// module of its own, so that the tools' dependencies reach nobody.
package packaging
