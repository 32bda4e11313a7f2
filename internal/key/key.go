// Package key holds the keys of the context values that podworks.RouteFrom and
// podworks.TxFrom look for, so that a context type of our own can answer them.
package key

// Route is the key of a *podworks.Route.
type Route struct{}

// Tx is the key of a podworks.Tx.
type Tx struct{}
