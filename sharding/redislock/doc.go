// Package redislock is a lock for many writers or one mover per shop, kept in a
// pod's Redis. It plays the role of package sharding's write fence for
// applications that cannot add the table podworks_fence to their databases.
//
// Prefer the table. Its lock lives in the same transaction as the data, so no
// writer can outlive it. This one is a lease in another server, and promises less.
//
// # Use
//
// A writer takes the shared side before START TRANSACTION, which tells it whether
// the pod owns the shop at its route's epoch, checks it directly before COMMIT,
// and releases it when COMMIT or ROLLBACK was answered. Where the answer to COMMIT
// is lost, the server may still be at it: don't release, and let the lease lapse.
//
//	lease, err := lock.Lease(ctx, route) // sharding.ErrMoved: elsewhere
//	…
//	… // START TRANSACTION, statements
//	if err := lease.Check(ctx); err != nil {
//		… // ROLLBACK
//	}
//	… // COMMIT
//	lease.Release()
//
// [Lock.Share] is the same in the shape that package sharding asks for. A mover
// uses [Lock.Incoming], [Lock.Close], [Lock.Open], [Lock.Reopen] and
// [Lock.Entomb] as it does the fence: same states, same tokens, same errors.
//
// It costs a writer two round trips to Redis, and one more for a transaction that
// takes longer than half of [Options].Lease.
//
// # What is promised
//
// While Redis keeps what it was told and the clocks run at the same speed:
//
//   - Between a Check that returned nil and half of Options.Lease later, no mover
//     has the exclusive side. So what is committed within that time is committed
//     before Close calls its drain, or never.
//   - A writer that is paused after Check for longer than that (a debugger, a
//     suspended machine) cannot commit either, provided that its MySQL session's
//     wait_timeout is less than half of Options.Lease: 4 s by the defaults. The
//     server then ends the session, and with it the transaction, before the lease
//     lapses. Without that time-out it commits to a pod that the shop has left.
//   - A mover that is paused, replaced or late changes nothing: Redis asks whose
//     the exclusive side is, and looks at its own clock, when it writes the row.
//   - A dead writer keeps movers waiting for Options.Lease, a dead mover writers
//     for its budget. Neither side can starve the other.
//   - A shop that Redis knows nothing of is absent: its writes are refused. All of
//     a shop's state is one key, so an eviction, FLUSHALL or a restart without
//     persistence loses it whole, and makes shops unwritable but never writable in
//     two pods. [Lock.Create] opens them again, when the directory says that they
//     are here and the journal that no move of them is unfinished.
//
// # What is not
//
// Redis must not go back in time. A replica that is promoted without the last
// writes, a backup, or an append-only file that was synced once a second brings
// back an old state: leases are missing, so that a mover passes their writers; or
// the shop is open again in a pod that it has left, and writers with an old route
// write there. WAIT and min-replicas-to-write make that rarer, not impossible. So
// let this Redis lose everything instead (no persistence, no automatic failover),
// or delete all keys under Options.Prefix after a failover, before writers reach
// the new primary, and then Create the pod's shops.
//
// Redis' clock must not jump forward by half of Options.Lease or more: leases
// would lapse that are relied on. Have it slewed. A jump back makes leases of the
// dead last longer.
//
// A COMMIT that the server has received, and executes for longer than the rest of
// the lease (a stalled disk, a semi-synchronous replica that is gone), is ended by
// no session time-out, and may become visible after the mover's drain. Have
// Options.Lease well above what a COMMIT can take.
//
// A transaction that is committed without Check, by autocommit or by a statement
// that commits implicitly, has no more than the time that was left by chance.
// Reads take no lease.
//
// [Lease.Release] says ErrLapsed when a lease did not last: if its transaction was
// committed, look whether the shop was moved meanwhile.
//
// # Settings
//
// Redis: maxmemory-policy noeviction, for an evicted key is an unwritable shop;
// about 250 bytes per shop, and 100 for each open transaction. MySQL sessions of
// writers: wait_timeout below half of Options.Lease, and in the pool a shorter
// SetConnMaxIdleTime. The client: ContextTimeoutEnabled.
//
// # Fencing tokens
//
// Every exclusive holder gets a number that is higher than those of all leases
// before it, and no lease after it gets a lower one: drain is given it, and
// [Lease.Token] returns it. A resource that remembers the highest number it has
// seen can so refuse a writer that came too late, whatever became of its lease:
// where a mover writes its number into a row, a writer's
//
//	UPDATE stock SET n = n - 1 WHERE id = ? AND fencing <= ?
//
// with its own number matches nothing afterwards.
package redislock
