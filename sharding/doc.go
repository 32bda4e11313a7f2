// Package sharding gives every unit of work of a multi-tenant application one
// shop, and every shop one pod.
//
// Inside a shop's [Scope] every query goes to the pod that owns the shop;
// anything else is an error: a query without a scope, with a released one, or
// for another pod. A pod's *sql.DB is a real one, so sqlx, sqlc, gorm and ent
// run on it unchanged.
//
// # The write fence
//
// Every write transaction, and every single write statement outside of one,
// first takes a shared lock on the shop's row in the pod's table podworks_fence
// and goes on only if the pod owns the shop at the epoch the scope named. A
// mover takes the exclusive lock on the same row. So a shop can be moved while
// it trades, and no process, however late, stale or frozen, can write to a pod
// its shop has left. The fence costs one statement per transaction, three per
// single write, and none per read.
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
//   - Connectors that allow several statements in one text are refused.
//   - The server ends sessions that are idle for a minute.
//
// What is not promised: reads are not fenced. A process that has not heard of a
// move reads the old pod's rows until its next look at the directory (see
// DirectoryOptions.Poll) or its next refused write.
//
// # Use
//
// Wrap the handlers with [Cluster.Middleware], take the scope with
// [FromContext], and write through [Scope.Tx], which waits out a move and goes
// on in the new pod:
//
//	err := sharding.FromContext(ctx).Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
//		_, err := tx.ExecContext(ctx, `UPDATE products SET …`)
//		return err
//	})
//
// Work without a request uses [Cluster.Do].
//
// # Privileges
//
// The application's user needs SELECT, INSERT, UPDATE and DELETE on its tables
// and SELECT, INSERT and UPDATE on podworks_fence. Locking a row in share mode
// needs no more than that. Nothing here needs a privilege that managed servers
// withhold.
package sharding
