// Package peer holds toxi against its peer, Toxiproxy 2.12.0, and against a proxy
// that only copies. It is a module of its own, so that nobody who imports toxi pays for
// Toxiproxy's dependencies, and it has nothing to import: everything is in its tests.
//
// The tests drive toxi's HTTP API with Toxiproxy's own Go client and command, and
// Toxiproxy's server with the same, and compare what comes back. What differs on
// purpose is in one table, deviations.
//
// The benchmarks are contests: every kind of proxy takes its turn in each round, first
// one and then another, so that a machine that has other things to do treats all alike.
// A line is one kind; its figures are medians of the rounds, and its ratios are
// medians of the ratios of each round. Client, server and each proxy are processes of
// their own, except where the name says Embedded.
//
//	go test -run '^$' -bench . ./toxi/peer             all of them: three to four minutes
//	go test -run '^$' -bench Throughput ./toxi/peer -rounds 30
//	go test -run '^$' -bench . -short ./toxi/peer      one small round each
package peer
