// Package binlog follows the binary log of a MySQL or MariaDB server: every
// change of every row, in the order of the commits, with the values before and
// after, from a position on, and goes on where it stopped.
//
// # What is guaranteed
//
//   - Every committed change of a wanted table is delivered, in the log's order,
//     and none twice after its Commit. Connections that break, logs that rotate,
//     and, with GTIDs, a failover to a replica change nothing about that.
//   - What can't be delivered is an error, never silence: a log that is gone, a
//     server that lacks what was delivered, an incident, a type that can't be
//     read. Changes of the schema and writes that are logged as text are events.
//   - A value is what the server has, or says that it isn't there ([Absent],
//     [PartialJSON]).
//   - With binlog_row_metadata=FULL a column is called what it was called when the
//     row was written. Without it, see below.
//   - Memory is bounded by some MB and a few times the largest event, not by
//     transactions. But a compressed transaction of MySQL is one event.
//
// # What is not
//
//   - A transaction is delivered as it is read, so a consumer must be able to
//     forget one: see [Restart], and [RollbackTo].
//   - What is not in the log: changes that foreign keys cascade, where the server
//     doesn't log them (see [Rows]), and the work of sessions with sql_log_bin=0.
//   - Column names are certain only where the log has them. Without
//     binlog_row_metadata=FULL they come from information_schema when a table is
//     first seen. A stream that is behind a change of the table at that moment ends
//     with [ErrSchema], at the latest at that change: rows before it may have been
//     delivered under the names that came later.
//   - COMPRESSED columns of MariaDB can't be read, and a partial update of a JSON
//     document is told and not applied.
//   - A server without GTIDs is followed only as itself, from its own files.
//
// # Server settings
//
// log_bin, and binlog_format=ROW, the default. Better: binlog_row_metadata=FULL
// (both families), gtid_mode=ON (MySQL), and binlog_row_image=FULL, also the
// default. binlog_expire_logs_seconds must be longer than a consumer may be away.
//
// # Privileges
//
// REPLICATION SLAVE and REPLICATION CLIENT (in MariaDB also called BINLOG
// MONITOR), and SELECT on the wanted tables, without which their columns are not
// even seen in information_schema.
package binlog
