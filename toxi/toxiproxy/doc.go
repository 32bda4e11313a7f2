// Package toxiproxy commands the proxies of package toxi over HTTP, in the language of
// Toxiproxy 2.12: its clients for Go, Ruby, Java, Python, Node and others, and its
// command toxiproxy-cli, work unchanged. Use it where the tests are not written in Go,
// or where people break connections by hand; a Go test has it easier with packages toxi
// and toxitest.
//
//	api, err := toxiproxy.New(nil)
//	// …
//	defer api.Close()
//	http.ListenAndServe("127.0.0.1:8474", api)
//
// The program examples/toxid is this package as a daemon that takes the place of
// toxiproxy-server.
//
// It guarantees that a request that is answered with 400 has changed nothing; that no
// request waits for data, for a client that doesn't read or for an upstream that
// doesn't answer; that requests about one proxy take turns, and wait for no request
// about another; and that looking waits for nobody. It does not guarantee that a
// proxy listens again where it listened before: somebody may have taken the port while
// it was disabled. It keeps nothing on disk.
//
// # Security
//
// Whoever reaches the API can open ports on this machine, on whatever address a
// proxy's listen says, and through them reach whatever this process reaches; a listen that is a
// path makes a socket there. Serve it on a loopback address, or behind the
// application's own authentication. Requests that browsers send for a page are
// refused, so that a page can't use the browser on the developer's machine as its way in.
//
// # Toxics
//
// The types and their attributes, which are integers unless said otherwise and 0,
// false or empty unless given. Those from latency to packet_loss are Toxiproxy's. What each does is
// documented at the toxic of the same name in package toxi; the unit KB is 1000 bytes.
//
//	type               attributes
//	latency            latency ms, jitter ms
//	bandwidth          rate KB/s, shared (true or false)
//	slow_close         delay ms
//	timeout            timeout ms
//	reset_peer         timeout ms
//	slicer             average_size bytes, size_variation bytes, delay µs
//	limit_data         bytes bytes
//	noop               none
//	packet_loss        loss_rate (a number from 0 to 1), correlation (a number from 0 to 1), retransmit ms
//	corrupt            rate (a number over 0, up to 1)
//	stall              after ms, bytes bytes
//	cut                after ms, bytes bytes, reset (true or false)
//	hang               none
//	slow_connect       delay ms
//	reject             reset (true or false)
//	refuse             none
//	connect_blackhole  none
//	mysql              match (a regular expression), times, delay ms, delay_reply ms, fail_code, fail_state (a string), fail_message (a string), cut ("none", "before" or "after"), reset (true or false)
//	redis              match (a regular expression), times, delay ms, delay_reply ms, fail (a string), cut ("none", "before" or "after"), reset (true or false)
//	memcached          match (a regular expression), times, delay ms, delay_reply ms, fail (a string), cut ("none", "before" or "after"), reset (true or false)
//
// A loss_rate that is not given is 0.1. The stream of a toxic is downstream unless given,
// or upstream, or both. Toxics from hang on work on connections, and take no
// stream; refuse and connect_blackhole work on the whole proxy, and take no toxicity either.
//
// # Deviations
//
// All else is as in Toxiproxy 2.12, to the letter of its error messages.
//
//	in Toxiproxy                                        here
//	an unknown field or attribute is ignored            400, with the names that are known
//	a value out of range is taken, some crash it        400, with the range
//	text behind the JSON value is ignored               400
//	a body may be of any size                           413 above 4 MiB
//	a PATCH that fails half-way has changed half        nothing is changed
//	errors come as text/plain                           as application/json, which they are
//	errors about JSON name Go types                     say what is there and what is wanted
//	proxies have a field Logger                         they don't; it is ignored when sent
//	an upstream without a port is found out later       400; a path is a unix socket
//	no listen: a free port of all interfaces            a free port of 127.0.0.1; in an update, no change
//	an update may take the upstream away                400
//	a new listen is taken: the proxy is disabled        it stays where it was
//	toxics sent with a proxy are ignored                made with it; ignored when it is updated
//	populate of nothing answers null                    an empty array
//	populate with a name twice: the last one counts     400
//	populate of a proxy that is there, with toxics      they replace what it had
//	reset ends at the first proxy that can't listen     goes on with the others
//	browsers are known by User-Agent: Mozilla/…         and by Origin and Sec-Fetch-Site
//	a name with a slash is out of reach                 is found
//	a path with // or .. in it is redirected            404, or a name
//	toxicity is rounded to 32 bits                      isn't
//	/metrics is there if asked for                      is there
//	bytes are counted when a connection ends            as they pass
//	the seed does nothing                               decides all that is left to chance
//	toxicity is drawn anew when toxics change           once a connection and toxic
//	timeout counts from the last data                   from the beginning
//	packet_loss tears holes into the stream             delays, as TCP does
//
// # Metrics
//
// GET /metrics answers in the text format of Prometheus. The labels are proxy, listener
// and upstream; bytes have a direction too. Counters go on while a proxy is
// disabled and enabled, begin again at 0 when its address or upstream changes,
// and are gone when it is deleted.
//
//	toxiproxy_proxy_received_bytes_total  toxiproxy_proxy_connections
//	toxiproxy_proxy_sent_bytes_total      toxiproxy_proxy_connections_total
//	                                      toxiproxy_proxy_dial_errors_total
package toxiproxy
