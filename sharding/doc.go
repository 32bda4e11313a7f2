// Package sharding gives every unit of work of a multi-tenant application one
// shop, and every shop one pod.
//
// Inside a shop's [Scope] every query goes to the pod that owns the shop;
// anything else is an error: a query without a scope, with a released one, or
// for another pod. A pod's *sql.DB is a real one, so sqlx, sqlc, gorm, ent and
// squirrel run on it unchanged.
//
// # Use
//
// Wrap the handlers with [Cluster.Middleware], take the scope with
// [FromContext], read through [Scope.DB], and write through [Scope.Tx], which
// waits out a move and goes on in the new pod:
//
//	shop := sharding.FromContext(r.Context())
//	err := shop.Tx(r.Context(), func(ctx context.Context, tx *sharding.Tx) error {
//		_, err := tx.ExecContext(ctx, `UPDATE products SET …`)
//		return err
//	})
//
// Work without a request uses [Cluster.Do], and a framework that can't use a
// closure [Cluster.Acquire]. The scope is the context of its unit of work: what
// is derived from it carries it, and each query is given such a context. Other
// stores of the pod, or an ORM, come from a [PerPod].
//
// # What a scope promises
//
//	a scope of the same shop inside of it   joins it
//	a scope of another shop inside of it    *CrossPodError, with the lines of both
//	a query without a scope                 ErrNoScope
//	any use after its end                   ErrReleased
//	a pool, statement, transaction or
//	connection of another pod               *CrossPodError
//	a transaction or *sql.Conn of another
//	scope, of the same pod too              *CrossPodError
//	a handle from before the shop moved     ErrStale
//
// Each error names the line that acquired the scope and the line that used it.
// Two things can't be told. Rows take no context when they are read, so those of
// a scope that still lives can be read by anybody who holds them. And a
// statement that was prepared on a pool is its text and no more: the pod's other
// shops may run it, in scopes of their own, as libraries that keep one do.
//
// When the shop moves, the scope rebinds as a whole, at the first call of
// Scope.DB or PerPod.Get after the directory has heard, or at its next refused
// write. Everything it gives out from then on is of the new pod, and what it
// gave out before is of no more use, so that no unit of work is in two pods.
//
// # The write fence
//
// Every write transaction, and every single write statement outside of one,
// first takes a shared lock on the shop's row in the pod's table podworks_fence
// and goes on only if the pod owns the shop at the epoch the scope named. A
// mover takes the exclusive lock on the same row. So a shop can be moved while
// it trades, and no process, however late, stale or frozen, can write to a pod
// its shop has left. The fence costs one statement per transaction, three per
// single write, and none per read or read-only transaction.
//
// What keeps the lock from being lost:
//
//   - Sessions are read-only by default (SET SESSION TRANSACTION READ ONLY) and
//     only fenced transactions are READ WRITE, so a write that found a way
//     around the fence is refused by the server.
//   - A list says which statements keep the lock. What could end the transaction
//     (DDL, TRUNCATE, LOCK TABLES, XA, COMMIT as text, CALL, MariaDB's compound
//     statements), and what the list doesn't know, is refused with [ErrRefused].
//   - A transaction that the server itself has rolled back, as after a deadlock,
//     takes no more statements, and its end says so.
//   - Connectors that allow several statements in one text are refused, and so
//     are Galera clusters and multi-primary groups, where a lock on one server
//     keeps nobody from writing to another.
//   - The server ends sessions that are idle for a minute: a frozen process can
//     hold a shop for no longer.
//
// A write statement that returns rows (INSERT … RETURNING) outside of a
// transaction comes as a query, and the server refuses it: run it in Scope.Tx.
//
// What is not promised: reads are not fenced. A process that has not heard of a
// move reads the old pod's rows until it has, within DirectoryOptions.Poll, or
// some 10 ms with a Push, or until its next refused write.
//
// # One pod can't take the process down
//
// Each pod has a pool of its own, and the scopes of one pod can be at most 70 %
// of those the process allows (Options.MaxScopes, PodShare): while a pod hangs,
// its requests are shed with [ErrBusy], and the others' go on. Options.Admit puts
// an application's own bulkhead in that place. A request holds its place for as
// long as its stores hold it, so give each a deadline; a COMMIT or ROLLBACK that is
// under way is given up after ten seconds. The write transactions that one
// shop has open through one process are bounded as well, and wait for their turn
// in order.
//
// # What it costs
//
// Measured on two cores that the servers share with their clients, both with
// durable settings; "of plain" is the rate of the same work on a plain pool, the
// median of ten alternating pairs. Run make bench-sharding for those of your
// machine.
//
//	                                       MariaDB 10.11   MySQL 9.7
//	reads, 1 worker, of plain                       0.99        0.98
//	reads, 16 workers                               0.96        0.97
//	transactions of 2 writes, 1 writer              0.80        0.78
//	the same, 16 writers                            0.80        0.83
//	the same, 512 open                              0.82        0.83
//	single writes, 1 writer                         0.59        0.65
//	single writes, 16 writers                       0.62        0.54
//	statements added: read, transaction, write   0, 1, 3     0, 1, 3
//
//	acquiring and releasing a scope           130 to 150 ns, 1 allocation
//	directory look-up among 1,000,000 shops   30 ns in sequence, 9 ns one shop,
//	                                          103 ns at random; no allocation
//	the directory's memory                    17 to 34 MB for 1,000,000 shops
//	a change is known to all processes after  12 ms with a Push, 0.26 s without
//
// A plain pool that sends the fence's SELECT by hand in each transaction keeps
// 0.82 to 0.84 at 16 writers there: both cores are busy, and each statement counts.
//
// # Privileges
//
// The application's user needs SELECT, INSERT, UPDATE and DELETE on its tables
// and SELECT, INSERT and UPDATE on podworks_fence. Locking a row in share mode
// needs no more than that. Migrate needs CREATE. Nothing here needs a privilege
// that managed servers withhold.
package sharding
