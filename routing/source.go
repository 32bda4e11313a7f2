package routing

import (
	"context"

	"github.com/podworks/podworks"
)

// A Source is where the routing table comes from: the shop directory, read from
// a replica near this edge. A Router asks it for what changed, a few times a
// second, for as long as it runs.
//
// Package routingtest checks an implementation against this contract.
type Source interface {
	// Hosts calls each for every host whose route changed after version since,
	// and returns the version to pass the next time. Since 0 asks for all hosts.
	// What changes a route is a host given to a shop or taken from it, a move of
	// the shop, and its pod becoming active in another region.
	//
	//	route               what it says about host
	//	Shop, Pod, Epoch    it leads there; host may be in any of the forms
	//	                    that Lookup understands
	//	zero Route          it leads nowhere any more; a host leaves the table
	//	                    only in this way, never by not being named
	//
	// A version stands for all changes up to it. It grows with every change, is
	// never used twice, and is since itself when nothing changed. Versions have
	// to become visible in their order: a change that commits after a higher
	// version was returned is never asked for again. (Numbers taken from an
	// AUTO_INCREMENT column do commit out of order; a counter row that every
	// change locks does not.) The version must not be newer than the rows, so
	// read both in one snapshot, or the version first. A lower version than
	// since, from a replica that is behind, is allowed: what changed after it is
	// asked for again.
	//
	// A router makes one call at a time. Each is to be called by the goroutine
	// that called Hosts, before it returns, for each host in any order; the router
	// keeps the strings. Hosts returns soon after ctx has ended. On an error
	// the router drops what it was told and asks with the same since again.
	Hosts(ctx context.Context, since uint64, each func(host string, route podworks.Route)) (version uint64, err error)
}

// SourceFunc makes a function a Source.
type SourceFunc func(ctx context.Context, since uint64, each func(host string, route podworks.Route)) (version uint64, err error)

var _ Source = SourceFunc(nil)

// Hosts calls f.
func (f SourceFunc) Hosts(ctx context.Context, since uint64, each func(string, podworks.Route)) (uint64, error) {
	return f(ctx, since, each)
}
