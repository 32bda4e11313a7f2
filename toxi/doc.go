// Package toxi breaks connections on purpose. A [Proxy] stands between a client and
// its MySQL, Redis, memcached, or whatever else speaks over a stream, and on command
// delays, throttles, stalls, cuts, resets or refuses what passes. It turns "what
// happens to checkout when Redis hangs?" into a test:
//
//	redis, err := toxi.Listen("127.0.0.1:6379", nil)
//	…
//	store := NewStore(redis.Addr())
//	redis.Blackhole(func() {
//		// what does a checkout answer now?
//	})
//
// In tests start with package toxi/toxitest, which closes the proxy, fails the test
// on errors and logs what happened on the wire when the test has failed. Package toxi/matrix
// makes a table of such tests. Package toxi/toxiproxy serves Toxiproxy's HTTP API for clients in
// other languages.
//
// # Toxics
//
// [Proxy.Down], [Proxy.Slow], [Proxy.Blackhole] and [Proxy.Reset] are what most tests need. [Proxy.With] does
// the same with any toxic, and [Proxy.Add] without a block:
//
//	Latency, Bandwidth, Slicer, PacketLoss   slow
//	Stall, Timeout                           hung, with and without what was sent meanwhile
//	ResetPeer, Cut, LimitData, SlowClose     ended, late or in mid-stream
//	Corrupt                                  wrong
//	Hang, SlowConnect, Reject                strike a connection before its first byte
//	Refuse, ConnectBlackhole                 make the whole server one that is down, or gone
//	MySQL, Redis, Memcached                  strike a statement or command
//
// A toxic by itself strikes every connection, in the direction from server to
// client. A [Fault] says more: both directions, a share of the connections, the first three, those of one client.
// [Proxy.Play] plays a script of faults over time.
//
// # What it promises
//
// Without toxics a proxy passes bytes on as they are, in either direction by itself:
// the end of one direction is passed on as such and a reset as a reset. No
// toxic loses, doubles or reorders bytes, but for those whose job it is: Timeout and LimitData drop,
// Corrupt changes, what cuts a connection cuts off what was under way. Delays of several toxics add up. When a
// toxic goes, what it held back goes on its way at once, in order.
//
// Every byte that reaches the proxy after Add has returned meets the toxic, on connections that were open before, too.
// No method waits for data, for a slow reader or for the upstream.
//
// Chance is seeded: whether a toxic with a Toxicity strikes a connection depends on
// the proxy's seed, the fault's name and the connection's number, and on nothing else. So it
// is the same for the life of a connection, whatever else comes and goes, and the
// same in the next run with the same [Options.Seed], if connections come in the same
// order.
//
// # What it does not
//
// It works on streams, not on packets: PacketLoss is a delay, as loss is to those
// who use TCP. It doesn't look into TLS: the protocol-aware toxics let a connection that is encrypted or compressed
// pass. A direction that is stalled holds its connection until the toxic goes or
// the proxy is closed, though both ends may have given up: the proxy hasn't heard of
// it, as a server behind a pulled cable hasn't. Unix sockets know no RST; there a reset
// is a close.
//
// # Cost
//
// A connection has two goroutines, and buffers only while bytes pass. Without toxics these
// are read and written by the goroutine of their direction, or spliced by the system when there are many.
//
// # Concurrency
//
// All methods of a Proxy may be called by any goroutine at any time. What hooks and
// Fault.Only are given may be kept. A proxy listens on 127.0.0.1 unless told
// otherwise; whoever reaches it reaches the upstream.
//
// # Sources
//
// The toxics of Toxiproxy have its names and its documented semantics
// (github.com/Shopify/toxiproxy). PacketLoss draws losses by the Gilbert–Elliott
// model. Bandwidth books a line, which is the leaky bucket as a queue.
package toxi
