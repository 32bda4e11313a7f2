// Package semian keeps a dependency that is slow or down from taking the process with it:
// a circuit breaker stops calling what fails, and a bulkhead bounds how many calls are
// under way at once. In an application of pods each store of each pod is a [Resource] of
// its own, so that a dead pod costs its own shops, and nobody else a worker.
//
//	r, err := semian.New("mysql of pod 7", &semian.Options{Concurrency: 200})
//	…
//	err = r.Do(ctx, func(ctx context.Context) error {
//		return db.QueryRowContext(ctx, query).Scan(&n)
//	})
//	if errors.Is(err, semian.ErrOpen) || errors.Is(err, semian.ErrBusy) {
//		// nobody was asked; show what can be shown without it
//	}
//
// # The breaker
//
// It is closed until too large a share of the calls of the last seconds has failed or
// was slow, and open then: calls are refused at once, with an error that says why and when
// to come again. After a while it is half-open and lets a few calls through as probes; a
// probe that fails opens it for twice as long, and when enough succeeded it
// closes, at first for a tenth of the calls and a second later for all.
//
//	closed ──too many failed──▸ open ──OpenFor──▸ half-open ──CloseAfter succeeded──▸ ramping ──Ramp──▸ closed
//	                             ▴                   │ one failed                        │ too many failed
//	                             └───────────────────┴───────────────────────────────────┘
//
// What is promised:
//   - A call counts when it ends, in the window of then, however long it took. So calls that hang
//     count once their deadline ends them, and not before.
//   - What comes of a call counts only if the circuit hasn't opened, half-opened or
//     closed since it was admitted.
//   - No more than Options.Probes calls are under way while it is half-open. One that never
//     comes back is given up after Options.ProbeLease.
//   - Nothing of this package's, and no hook of the application's, fails a call, but by ErrOpen
//     and ErrBusy. A hook that panics is logged.
//
// And what isn't: successes are put into the window some at a time, 64 at most for each of
// up to eight stripes, so rates are exact to that; and the state is this process's alone.
//
// # The bulkhead
//
// Options.Tickets bounds how many calls are under way, or Options.Quota of
// Options.Concurrency does: by default no resource may take more than 70 % of the process. Callers
// may wait for a ticket, as many as Options.Queue, first come first served. A ticket is given back
// when the call ends, whatever way: by a panic and by runtime.Goexit too.
// With Options.ShopShare one shop can't hold them all.
//
// # Errors
//
// What an error says about the dependency is decided by Options.Classify, and the
// call's own code knows best: [Answered], [Failed], [Ignored] and [Misrouted] wrap an error with its
// outcome. A missing key, a duplicate one and a refusal are answers.
package semian
