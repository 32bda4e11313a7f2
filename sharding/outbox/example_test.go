package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/sharding/outbox"
)

// The message goes out for the order that was placed, and not for the one that
// was not.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	cluster, stop := exampleCluster()
	defer stop()

	delivered := make(chan string)
	box, err := outbox.New(cluster, func(ctx context.Context, m outbox.Message) error {
		// In an application: a webhook, an e-mail, a topic of a bus, with m.ID as
		// the key by which the receiver knows duplicates.
		delivered <- fmt.Sprintf("%s of shop %d: %s", m.Topic, m.Shop, m.Payload)
		return nil
	}, nil)
	if err != nil {
		log.Fatal(err)
	}
	must(box.Migrate(ctx)) // once

	ended := make(chan error)
	go func() { ended <- box.Run(ctx) }() // in as many processes as you like

	place := func(ctx context.Context, s *sharding.Scope, total int) error {
		return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			if err := box.Add(ctx, "order.placed", fmt.Appendf(nil, `{"total":%d}`, total)); err != nil {
				return err
			}
			if total == 0 {
				return errors.New("the cart is empty")
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO orders (shop_id, id, total) VALUES (?, 1, ?)`, s.Shop(), total)
			return err
		})
	}
	must(cluster.Do(ctx, 1, func(ctx context.Context, s *sharding.Scope) error {
		fmt.Println(place(ctx, s, 0))
		return place(ctx, s, 4200)
	}))
	fmt.Println(<-delivered)

	cancel()
	fmt.Println(<-ended)

	// Output:
	// the cart is empty
	// order.placed of shop 1: {"total":4200}
	// context canceled
}

// A message that can't be delivered is parked: after MaxAttempts, or at once
// when the receiver's answer leaves no hope. It no longer holds back what comes
// behind it, and stays in the pod until someone has removed the cause.
func Example_failure() {
	ctx, cancel := context.WithCancel(context.Background())
	cluster, stop := exampleCluster()
	defer stop()

	events := make(chan string)
	known := map[string]bool{"order.placed": true}
	box, err := outbox.New(cluster, func(ctx context.Context, m outbox.Message) error {
		if !known[m.Topic] {
			return fmt.Errorf("404, no topic %q: %w", m.Topic, outbox.ErrPark)
		}
		events <- "delivered " + m.Topic
		return nil
	}, &outbox.Options{Hooks: outbox.Hooks{
		Parked: func(m outbox.Message, err error) { events <- fmt.Sprintf("parked %s: %v", m.Topic, err) },
	}})
	if err != nil {
		log.Fatal(err)
	}
	must(box.Migrate(ctx))
	must(cluster.Do(ctx, 1, func(ctx context.Context, s *sharding.Scope) error {
		return s.Tx(ctx, func(ctx context.Context, _ *sharding.Tx) error {
			return errors.Join(box.Add(ctx, "order.paid", nil), box.Add(ctx, "order.placed", nil))
		})
	}))

	run := func(ctx context.Context, want int) {
		ctx, cancel := context.WithCancel(ctx)
		ended := make(chan error)
		go func() { ended <- box.Run(ctx) }()
		for range want {
			fmt.Println(<-events)
		}
		cancel()
		<-ended
	}
	run(ctx, 2)

	known["order.paid"] = true
	n, err := box.Unpark(ctx)
	fmt.Println("unparked", n, err)
	run(ctx, 1)
	cancel()

	// Output:
	// parked order.paid: 404, no topic "order.paid": outbox: the message can't be delivered, now or later
	// delivered order.placed
	// unparked 1 <nil>
	// delivered order.paid
}
