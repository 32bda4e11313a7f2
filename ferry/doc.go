// Package ferry moves one shop from a pod's MySQL to another pod's while the
// shop trades.
//
// A move copies the shop's rows in chunks read without locks, follows the
// source's binary log and applies what changes meanwhile, compares both sides
// both ways with checksums that the servers compute, and then cuts over: it
// takes the exclusive lock on the shop's row in the source's write fence, so
// that the shop's writers wait; drains the log up to a marker; compares what
// changed since the last clean comparison; closes the source; decides in the
// directory; opens the target. The writers that waited go on in the target.
//
// # What is guaranteed
//
//   - No write that was acknowledged is lost, and none happens in both pods,
//     whoever dies, freezes or is cut off when. DESIGN.md in this directory
//     has the protocol and its reasons.
//   - The write pause has a budget ([Options.PauseBudget]). When it would be
//     exceeded, the move steps back, lets the writers go and tries again.
//   - After a mover's death any other process finishes or undoes the move:
//     [Ferry.Run] does it within seconds. Until then at worst one shop waits.
//   - Input that can't be moved safely is refused before anything is touched.
//
// # What is not
//
//   - Tables need the shop's column and a primary key of one integer column,
//     alone or after the shop's. Source and target are of one server family.
//   - Schema changes in the middle of a move end it: the shop stays where it was.
//   - Only row-based binary logs with full images, commits in log order, and
//     servers with one writable primary: no Galera, no multi-primary groups.
//   - A lossy failover of the target between decision and opening needs a human.
//   - Reads are not fenced; the source's rows stay until [Ferry.Clean].
//
// # Privileges
//
// On both databases: SELECT and TRIGGER on all tables; without them a table, a
// trigger or a foreign key that speaks against the move is not even seen. SELECT,
// INSERT, UPDATE and DELETE on the podworks_ tables.
//
// On the source: REPLICATION SLAVE and REPLICATION CLIENT (in MariaDB also called
// BINLOG MONITOR) for the log; PROCESS and CONNECTION ADMIN (CONNECTION_ADMIN in
// MySQL) for ending sessions of writers that froze; in MySQL also
// XA_RECOVER_ADMIN and SELECT on performance_schema. On the target: INSERT and
// DELETE on all tables, which [Ferry.Clean] needs where it cleans. Managed
// servers grant all of these, some through a role of their own.
package ferry
