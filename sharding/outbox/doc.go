// Package outbox tells others what a shop's transaction did: a message is a row
// written in the transaction, and delivered after it has committed. So an e-mail,
// a webhook or an event on a bus can't be forgotten by a process that dies after
// COMMIT, nor go out for an order that was rolled back.
//
//	box, err := outbox.New(cluster, func(ctx context.Context, m outbox.Message) error {
//		return publish(ctx, m.Topic, m.ID, m.Payload)
//	}, nil)
//	go box.Run(ctx)
//
//	err = scope.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
//		// … write the order …
//		return box.Add(ctx, "order.placed", payload)
//	})
//
// # What is promised
//
// A message of a transaction that committed is delivered at least once, for as
// long as its pod has its row; one of a transaction that was rolled back, never.
// When the outcome of the transaction is unknown to its process, the row knows.
//
// Where nothing fails a message is delivered once, however many processes run
// the outbox. It is delivered again when a process dies, or loses its session with
// the pod, between a delivery and the note of it. Message.ID is the same each
// time: receivers know duplicates by it.
//
// # Order
//
// The messages of a shop are delivered one at a time. Those of a transaction that
// had committed before another called Add come before those of the other; those of
// transactions that overlapped come in any order, because the number of a row is
// given to it at its INSERT, and it is seen at its COMMIT. No row is skipped for
// being late: there is no high-water mark, and rows are found by being there.
//
// A message that fails holds back the later ones of its shop, and of no other,
// until it is delivered or parked. What a duplicate may do is come late: a relay
// that froze in a delivery, and lost its lock on the shop meanwhile, may end it
// after another relay has delivered later messages.
//
// A move leaves the rows in the pod that the shop has left, which goes on
// delivering them beside the new pod. So a move is the one thing that puts the
// messages of a shop out of order without a failure. A receiver that minds compares
// (Message.Epoch, Message.Seq), which grow with that order across moves too: the
// epoch with each move, the number within a pod. And a pod that is to be taken down
// must have no message left (PodStats.Pending and Parked).
//
// # What is not promised
//
// A delivery that does not return when its context ends keeps its worker, and
// Concurrency of them stop their pod's outbox in this process. A message that
// kills the process counts as no attempt. Created is the time of the pod's
// clock. A failover that loses transactions loses their messages, or, where it
// loses the deletion of a row, delivers it again.
//
// # How
//
// A relay is the part of Run that serves one pod. It takes a shop by a named
// lock (GET_LOCK) of its session, which the server takes back the moment the
// session is gone; a process that froze loses it after Timeout and three seconds.
// It then reads up to 32 rows at a time, delivers them one after the other, and
// deletes them together, or after the delivery during which the first of them has
// become 0.1 s old. No transaction is open during a delivery. Every statement of a
// relay is a transaction of its own that finds its rows by primary key, or reads
// without locks, and so waits for no writer and keeps none waiting.
//
// The commit of a transaction wakes the relay of its own process. That is a hint;
// what was not heard of is found by a look at the pod, every Poll.
//
// Rows that were deleted cost the next reads something until the server has purged
// them, which a transaction that stays open for hours prevents.
//
// # Privileges
//
// The pods' users need SELECT, INSERT, UPDATE and DELETE on podworks_outbox, and
// CREATE for Migrate. A pod whose server is read_only is not relayed: what was
// delivered could not be deleted.
package outbox
