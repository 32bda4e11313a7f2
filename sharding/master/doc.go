// Package master keeps what belongs to no shop: the global tables, names that
// are unique over all pods, and ids that are.
//
// They live in one database whose primary is in one region, with a replica in
// each. Reads stay in the region; writes, which are rare, go to the primary. The
// pods don't need it: while the primary is away only global writes fail, with
// ErrPrimary.
//
//	m, err := master.New(primary, sql.OpenDB(master.ReadOnly(connector)), nil)
//	ctx = m.WithSession(ctx, "")        // or Middleware, for requests
//	err = m.Tx(ctx, func(ctx context.Context, tx *master.Tx) error {
//		_, err := tx.ExecContext(ctx, `UPDATE plans SET …`)
//		return err
//	})
//	err = m.Read(ctx, func(ctx context.Context, q master.Querier) error {
//		return q.QueryRowContext(ctx, `SELECT … FROM plans`).Scan(…)
//	})
//
// # Reading one's own writes
//
// A session (WithSession, Middleware) remembers the GTID of what it wrote, and
// its reads wait until the replica has that. It is a wait for one fact, not for
// a length of time: on a replica that follows it takes one statement and no
// waiting, on one that doesn't the read goes to the primary. Token carries the
// session to a job, Middleware to the user's next request, in any process.
//
// What is not promised: a read does not see what other sessions wrote. On MySQL
// a session waits for all that was committed before its own write was named,
// because a session there can't tell its own GTID. Each read waits by itself, so
// two reads may see two states, though never one without the session's writes.
//
// # Names
//
// A domain or an e-mail address belongs to one shop, while shops live in many
// pods, so no pod's unique key can guard it. Claim reserves a name before it is
// used, Confirm keeps it, and a claim whose process died lapses.
//
// # Ids
//
// A shop can be moved only if its rows' keys are free in the other pod. Sequence
// hands out such ids from blocks that it takes from the primary: 30 ns each, and
// for a while without the primary. Its comment says what a failover may do.
//
// # Failure
//
// What was committed is as safe as the primary's commits. If it is lost, and a
// replica promoted that lacks its last ones, a name that was confirmed in them is
// free again, and ids that were taken in them are handed out twice unless Advance
// comes before. Semi-synchronous replication prevents both.
//
// Give both pools' connectors a Timeout and a ReadTimeout, or contexts a
// deadline: a server that hangs, rather than being dead, is else waited for. Bound
// the pools with SetMaxOpenConns; reads that find no replica become the
// primary's.
//
// Servers that certify writes instead of locking (Galera, multi-primary groups)
// are refused by Check.
//
// # Privileges
//
// On the primary SELECT, INSERT, UPDATE and DELETE on the tables, and CREATE for
// Migrate; on the replica SELECT.
package master
