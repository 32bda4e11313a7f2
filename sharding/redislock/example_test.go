package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/sharding/redislock"
)

// exampleRedis starts a Redis, which a pod has.
func exampleRedis() (client *redis.Client, stop func()) {
	server, err := testcluster.StartRedis(context.Background(), nil)
	if err != nil {
		log.Fatal(err)
	}
	client = redis.NewClient(&redis.Options{Addr: server.Socket(), ContextTimeoutEnabled: true})
	return client, func() {
		client.Close()
		if err := server.Stop(); err != nil {
			log.Print(err)
		}
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// A shop is written to, and then closed by a mover.
func Example() {
	client, stop := exampleRedis()
	defer stop()
	ctx := context.Background()
	lock, err := redislock.New(client, &redislock.Options{Lease: 200 * time.Millisecond})
	must(err)
	route := podworks.Route{Shop: 7, Pod: 1, Epoch: 1}
	must(lock.Create(ctx, route))

	write := func() error {
		lease, err := lock.Lease(ctx, route)
		if err != nil {
			return err
		}
		// START TRANSACTION and statements come here.
		if err := lease.Check(ctx); err != nil {
			// ROLLBACK comes here.
			return errors.Join(err, lease.Release())
		}
		// COMMIT comes here. Only if its answer is lost, the lease is left to lapse.
		return lease.Release()
	}
	fmt.Println("write:", write())

	must(lock.Close(ctx, route, 2, 1, 10*time.Second, func(context.Context, uint64) error {
		fmt.Println("every write is committed, and no other begins")
		return nil
	}))
	fmt.Println("moved:", errors.Is(write(), sharding.ErrMoved))
	// Output:
	// write: <nil>
	// every write is committed, and no other begins
	// moved: true
}

// Redis loses what it knew. The shop can't be written to until it is created
// again.
func ExampleLock_Create_afterALoss() {
	client, stop := exampleRedis()
	defer stop()
	ctx := context.Background()
	lock, err := redislock.New(client, nil)
	must(err)
	route := podworks.Route{Shop: 7, Pod: 1, Epoch: 3}
	must(lock.Create(ctx, route))
	must(client.FlushAll(ctx).Err())

	_, err = lock.Lease(ctx, route)
	fmt.Println(err)

	must(lock.Create(ctx, route)) // as the directory has it
	lease, err := lock.Lease(ctx, route)
	must(err)
	fmt.Println("writable again:", lease.Release() == nil)
	// Output:
	// sharding: the shop is moving or has moved to another pod; nothing was written (shop 7, pod 1): the write came with epoch 3; the pod's lock says shop 7: absent, epoch 0, destination 0, token 0
	// writable again: true
}

// A resource that remembers the highest fencing token refuses a writer that
// comes too late, here because nothing else stopped it.
func ExampleLease_Token() {
	client, stop := exampleRedis()
	defer stop()
	ctx := context.Background()
	lock, err := redislock.New(client, &redislock.Options{Lease: 200 * time.Millisecond})
	must(err)
	route := podworks.Route{Shop: 7, Pod: 1, Epoch: 1}
	must(lock.Create(ctx, route))

	// UPDATE stock SET n = n - 1, fencing = ? WHERE id = ? AND fencing <= ?
	var stock struct {
		n       int
		fencing uint64
	}
	take := func(token uint64) string {
		if token < stock.fencing {
			return "refused"
		}
		stock.n, stock.fencing = stock.n-1, token
		return "taken"
	}

	lease, err := lock.Lease(ctx, route)
	must(err)
	fmt.Println(take(lease.Token()))
	// The writer is paused here, for longer than its lease.
	must(lock.Close(ctx, route, 2, 1, 10*time.Second, func(_ context.Context, fencing uint64) error {
		stock.fencing = fencing
		return nil
	}))
	fmt.Println(take(lease.Token()))
	// Output:
	// taken
	// refused
}
