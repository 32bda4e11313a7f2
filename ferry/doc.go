// Package ferry moves one shop from a pod's MySQL to another pod's while the
// shop trades.
//
// A move copies the shop's rows in ranges that are read without locks and written
// several at once, follows the source's binary log and applies what changes meanwhile, compares
// both sides both ways with checksums that the servers compute, and then cuts over: it
// takes the exclusive lock on the shop's row in the source's write fence, so
// that the shop's writers wait; drains the log up to a marker; compares what
// changed since the last clean comparison; closes the source; decides in the
// directory; opens the target. The writers that waited go on in the target, while
// all rows are compared once more as both sides had them under the lock.
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
//   - A COMMIT whose answer is lost is looked up. If that can't be done either,
//     the error is podworks.ErrOutcomeUnknown, and Run finds out.
//   - A move can be taken back by a move back, without a new copy and without losing
//     what was written since, until the rows that were left are cleaned or the shop
//     moves on. [Ferry.Keep] makes that a matter of a comparison and a write pause.
//   - [Ferry.Tripwire] reports who writes to the old pod past the fence. [Ferry.Clean]
//     deletes nothing of another shop, nor of one that came back.
//   - What a shop has beside the pod's MySQL ([Options.Stores]: jobs, caches, blobs) is
//     finished or undone with every move, also when its mover died.
//   - A move leaves evidence ([Report], [Evidence]): all rows on both sides as of
//     the switch, by checksums that anybody can ask the servers for again.
//   - Input that can't be moved safely is refused before anything is touched.
//   - Who reads the target's log knows a mover's writes from others: see
//     [github.com/podworks/podworks/ferry/binlog.Origin].
//   - A transaction may be of any size. The mover holds at most some MB of it, besides
//     the keys of its rows.
//
// # What is not
//
//   - Every table has a column that names the shop, or refers to a row of one that
//     has ([Options.Column], [Options.Tables], [Options.Tenant]). Source and target are of one server
//     family.
//   - Refused are MariaDB's system-versioned tables, its COMPRESSED columns and its
//     VECTOR. All other types of both families move, and all that can be keys in
//     them can be keys here, but for FLOAT and DOUBLE; MariaDB's sequences are
//     neither moved nor handed over. A UUID that MariaDB took as bytes and doesn't take
//     as text, which some of version 8 and above are, ends the move in the copy.
//   - A table without a primary key, or a unique key of whole columns that are NOT
//     NULL, is copied again as a whole whenever it changes; it may have 10,000 rows
//     of the shop, of 32 MB in all.
//   - What foreign keys with CASCADE and SET NULL do isn't logged by MariaDB, by MySQL
//     before 9.6, and later with innodb_native_foreign_keys. There the target's foreign
//     keys, which must be the same, do it again. A move ends, and the shop stays where
//     it was, when they change the key of a row whose table isn't copied yet, or when a
//     row of the shop goes or changes with one that isn't the shop's. [Ferry.Plan]
//     refuses those that change whose a row is, and those that reach the shop's rows
//     through a table that isn't moved. While rows go that way, tables that refer to
//     them are copied in small pieces.
//   - Triggers on the target run for the rows that arrive, so each must do nothing
//     where the session's variable @podworks_ferry is 1. Exceptions: triggers for
//     UPDATE that are there when a move begins, and BEFORE INSERT triggers that only SET columns of NEW, whose work
//     is undone.
//   - A statement in the source's log that changes the schema of a moved table (or
//     empties it, renames it, gives it a trigger), or that names a column by which
//     rows belong to shops in any table, ends the move before the source is closed:
//     the shop stays where it was. Nobody recopies the table; move again when both
//     sides agree. Other tables may change.
//   - A failover of the source in the middle of a move is followed if the servers
//     have GTIDs and the pod's address, or its DialFunc, leads to the new primary
//     within 30 seconds. Otherwise, and if the new primary lacks what the mover
//     was sent, the move is undone.
//   - Only row-based binary logs with full images, commits in log order, and
//     servers with one writable primary: no Galera, no multi-primary groups.
//   - A lossy failover of a pod or of the master in the middle of a move is mended
//     if whoever fails it over raises the pod's epoch and reconciles its fence
//     before it takes writes; see DESIGN.md. Set [Options.Replicated] where one can be.
//   - Reads are not fenced; the source's rows stay until [Ferry.Clean].
//
// # Plan
//
// [Ferry.Plan] checks a move and touches nothing: schemas, rows and keys that are
// on the target already, indexes, privileges, settings, how long the log is kept,
// and how long the move and its write pause will take. It is a value and, printed,
// a report. Move makes the same checks. [Ferry.Rehearse] goes on from there: it copies
// and compares the shop, predicts the write pause, and deletes the copy.
//
// # Beside other tools
//
// What Ghostferry 1.3 (GF), Spirit's move (SP) and Vitess' MoveTables (VT) have of
// it, as read in their sources and documents in 2026: yes, part, or no. Each line
// names the test that shows ours.
//
//	                                      GF    SP    VT    test
//	one shop out of shared tables         yes   no    part  TestMoveTakesTheShopAndNothingElse
//	shops known by text or bytes          no    -     yes   TestAShopIsKnownByANumberATextOrBytes
//	rows that enter or leave the shop     no    -     yes   TestProbesAboutRowsInOneMove
//	the shop's own row                    part  -     part  TestTheShopsOwnRowComesAlong
//	tables reached through others, live   part  -     no    TestRowsBelongToTheShopThroughOthers
//	keys of any kind and collation        no    part  part  TestEveryKindOfKeyIsCopiedFollowedAndCompared
//	keys of 0 and below, and ''           no    yes   yes   TestProbesAboutRowsInOneMove
//	keys that change on their way         no    yes   yes   TestProbeM4KeysThatPassTheCopyOnItsWay
//	tables without a key                  no    no    no    TestATableWithoutAKeyIsMovedAsAWhole
//	triggers on the target                no    no    part  TestTheTargetsTriggersChangeNothing
//	AUTO_INCREMENT handed over            no    part  yes   TestIDsAreNotGivenAgainAfterTheMove
//	source rows read without locks        no    yes   part  TestALongTransactionDoesNotHoldUpTheCopy
//	all compared, both ways, at one place no    yes   part  TestTheEvidenceHasWhatTheServersSayOfTheSwitch
//	differences repaired                  no    yes   no    TestVerificationFindsAndMendsEveryKindOfDifference
//	evidence in a file                    no    no    no    TestAFileOfEvidenceIsAChain
//	keys of others on the target found    no    part  no    TestKeysThatAnotherShopHasOnTheTargetAreFoundBeforeTheCopy
//	schemas compared                      no    yes   part  TestEveryDifferenceOfTheSchemasIsAFindingThatSaysHowToMendIt
//	schema changes in the log are seen    no    yes   yes   TestStatementsDuringAMove
//	XA and compressed transactions        no    yes   yes   TestAnXATransactionFromBeforeTheMove
//	goes on after kill -9                 no    yes   yes   TestAKilledMoversWorkIsGoneOnWith
//	many shops, the log read once         no    no    no    TestMovesAtOnceReadTheLogOnce
//	failover of the source                no    part  yes   TestAMoveOutlivesAFailoverOfItsSource
//	a bounded pause, then a step back     no    part  yes   TestAMoveThatNeverFitsTheBudgetIsUndone
//	a rehearsal, taken back by itself     no    no    part  TestARehearsalLeavesNothingAndMakesNobodyWait
//	jobs, caches and blobs go along       no    no    no    TestTheStoresOfADeadMoverAreFinishedOrUndone
//	writers fenced, with epochs           no    no    part  TestEachProtectionKeepsTheShopsRows
//	routing decided with the switch       no    part  yes   TestFaultsAtEveryStep
//	recovery from every state             no    part  part  TestRecoverOfEveryCombination
//	a way back that loses nothing         no    part  yes   TestThePlaceOfTheWayBackIsFromBeforeTheOpening
//	writes to the old pod are reported    no    no    no    TestStragglersAreReportedAndNobodyElse
//	the old pod's rows are cleaned        no    no    no    TestCleanRestsAndGoesOnLater
//	throttled by lag and load             part  no    yes   TestAMoveWaitsForTheServers
//	paused and resumed, on a page         yes   no    yes   TestAnOperatorWatchesAndSteersAMove
//	a checked model                       part  no    no    spec
//	MariaDB and MySQL 9                   no    part  part  each of these
//
// # Many moves
//
// Moves from a pod that one Ferry makes at once read its log once. A [Queue] has
// moves as jobs in the master's database, which any process adds to and any number
// of them make, so many at a time in a pod.
//
// # While moves run
//
// A [Throttle] bounds what moves take of the servers: rows and bytes a second, the
// lag of the target's replicas, the statements that run at once. It is changed at
// any time. [Ferry.Moves] says how far each move is, and how fast; [Ferry.Pause],
// [Ferry.Resume] and [Ferry.Cancel] steer one. Package
// [github.com/podworks/podworks/ferry/watch] has all of it on a page.
//
// # Speed and size
//
// By make bench-ferry (which takes half an hour), on two cores (Xeon, 2.5 GHz) that both servers, the mover and the
// writers share; sync_binlog=1, innodb_flush_log_at_trx_commit=1, row images FULL, GTIDs.
// 300,000 rows of 80 to 250 bytes in two tables, from the call to the published route,
// while a process writes to the shop every few milliseconds; medians of two rounds, in
// turns. Ghostferry doesn't run on MariaDB. What the last two do isn't verified, and
// follows nothing.
//
//	                                   MySQL 9.7              MariaDB 10.11
//	LOAD DATA LOCAL                    70,000 rows/s          77,000 rows/s
//	INSERT (local_infile=OFF)          53,200                 54,900
//	Ghostferry 1.3, as it comes        19,600
//	Ghostferry 1.3, tuned              33,500
//	mysqldump | mysql                  55,400                 67,300
//	two LOAD DATA of ready files      144,600                170,500
//
// Writers waited, as they saw it themselves, in milliseconds:
//
//	                                   MySQL 9.7              MariaDB 10.11
//	                                   p50    p99    most     p50    p99    most
//	idle shops, 100 moves               9.3   13.6   15.0      6.5   10.0   11.6
//	900 writes/s to the shop, 100      19.4   27.7   84.4     10.1   16.7   18.0
//	50,000 joined rows, 10             10.2   11.7   11.7      6.6    9.0    9.0
//	a transaction of 50,000 rows
//	under way, 10, all tries together 214           242      202           227
//
// A move comes up with 1,000,000 changed rows that it is behind at 58,600 and 73,600
// rows/s. A [Queue] moves 200 shops of 1,000 rows, 8 at a time, in 15.9 and 12.7 s. Beside
// a throttled move another shop's sessions, which use up both cores, keep 0.90 and 0.88
// of their transactions: following their log is what is left. The mover takes 67 MB
// with LOAD DATA and 117 MB with INSERT.
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
// XA_RECOVER_ADMIN and SELECT on performance_schema. On the target: INSERT,
// UPDATE and DELETE on all tables; [Ferry.Clean] needs DELETE where it cleans, and
// [Ferry.Tripwire] the log where it watches. On the way back source and target change
// places.
//
// Good to have, but not needed: on the target the setting local_infile=ON, see above; on
// both, in MySQL REPLICATION CLIENT, for the evidence's place in the target's log, and in
// MariaDB BINLOG ADMIN, without which nobody can alter a table while the shop is compared
// after the switch. Managed servers grant all of these, some through a role of their own.
package ferry
