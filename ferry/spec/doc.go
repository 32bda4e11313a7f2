// Package spec has no code: it holds the models of a move that Spin checks, and
// the test that runs it ("make spec"). README.md says what is in them.
package spec
