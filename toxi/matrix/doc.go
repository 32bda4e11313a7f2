// Package matrix answers a question about an application: do you know what
// happens when memcached goes down? It keeps the answers as a table of sections
// and faults, and makes a test of every cell.
//
// A table in a wiki is true on the day it is written. This one stands in a test:
//
//	func TestMatrix(t *testing.T) {
//		s := start(t) // the shop, on real servers, behind proxies
//		matrix.Run(t, matrix.Matrix{
//			Name: "shop",
//			Sections: []matrix.Section{
//				{Name: "storefront", Owner: "web", Runbook: "https://…", Probe: s.storefront},
//				{Name: "checkout", Owner: "payments", Runbook: "https://…", Probe: s.checkout},
//			},
//			Dependencies: []matrix.Dependency{
//				{Name: "memcached", Faults: []matrix.Fault{
//					{Name: "down", Inject: s.memcached.down},
//					{Name: "hung", Inject: s.memcached.hung},
//				}},
//			},
//			Expect: `
//				            memcached/down   memcached/hung
//				storefront  degraded         degraded
//				checkout    up               up
//			`,
//			Golden: "RESILIENCY.md",
//		})
//	}
//
// A probe makes one request and says what its user saw; a fault returns how to
// heal it:
//
//	func (s *shop) storefront(ctx context.Context) matrix.Seen {
//		res, err := s.get(ctx, "/")
//		switch {
//		case err != nil:
//			return matrix.Down(err.Error())
//		case res.StatusCode != http.StatusOK:
//			return matrix.Down(res.Status)
//		case !strings.Contains(res.body, "<form id=search>"):
//			return matrix.Degraded("no search box")
//		}
//		return matrix.Up(res.Status)
//	}
//
// # What is guaranteed
//
//   - A green cell was tested in this run: the section was up, the fault was
//     injected, the user got what is declared, the fault was healed, and the
//     section was up again within its time.
//   - Better than declared is red as well as worse: a table that is too modest
//     hides the day on which it becomes true.
//   - An untested cell is red. Deleting a probe or a fault doesn't delete the
//     promise, which stands in the table.
//   - A fault that was injected is healed, whatever probes do: panic, end their
//     goroutine, or never return.
//   - The golden file is written by runs in which every cell passed, and by no
//     others. It has no durations and no dates: a difference is one of behaviour.
//
// # What is not
//
//   - A probe sees one moment. A fault that comes and goes (flapping) is met by
//     luck, unless the probe makes as many requests as it takes.
//   - Faults come one at a time. Two at once are a fault of their own, with an
//     Inject that does both.
//   - The package injects nothing itself: a fault is whatever Inject does, with
//     package toxi or by stopping a server.
//   - When go test's own -timeout ends the process, nothing is healed. Faults in
//     what outlives the process need another safeguard.
//
// # Several packages
//
// With MATRIX_DIR set, each Run leaves its report in that folder; [Join] makes one
// of them, as examples/matrix does for the command line:
//
//	MATRIX_DIR=$PWD/out go test -count=1 ./...
//	make matrix ARGS="-o $PWD/matrix.html $PWD/out/*.json"
package matrix
