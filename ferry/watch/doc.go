// Package watch is a page on which operators see a process's moves and steer
// them: how far each is, how fast, how far behind, and buttons to pause, resume
// and undo it, also after it was made, for as long as the way back is kept
// ([Options.Back]).
//
//	page, err := watch.New(f, func(r *http.Request) (string, error) {
//		return sessions.Operator(r) // the application's own: who it is, or why not
//	}, nil)
//	mux.Handle("/ops/moves", page)
//
// It is one URL, wherever it is mounted. Nobody sees or does anything whom the
// application's function doesn't let in, and nothing is done by a request that
// another site had a browser make: without TLS that is known by its Host, which
// proxies in front must leave as it is. The page needs nothing from elsewhere. Without
// JavaScript it is the same page, loaded again every five seconds.
//
// It shows the moves of the [ferry.Ferry] that it was made for, and so of this
// process. A page for several processes asks each of them.
package watch
