package master_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/podworks/podworks/sharding/master"
)

// A global table: written on the primary, and read on the region's replica, by
// the writer's session not before the write is there.
func Example() {
	ctx := context.Background()
	// In an application: mysql.NewConnector for each, in one region or another.
	primary, connector, _, stop := exampleServers()
	defer stop()
	replica := sql.OpenDB(master.ReadOnly(connector))
	defer replica.Close()

	m, err := master.New(primary, replica, nil)
	if err != nil {
		log.Fatal(err)
	}
	must(m.Check(ctx)) // once, at the start

	ctx = m.WithSession(ctx, "") // in a request Middleware does this
	must(m.Tx(ctx, func(ctx context.Context, tx *master.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE plans SET price = 39 WHERE name = 'basic'`)
		return err
	}))
	price := func(ctx context.Context) (n int) {
		must(m.Read(ctx, func(ctx context.Context, q master.Querier) error {
			return q.QueryRowContext(ctx, `SELECT price FROM plans WHERE name = 'basic'`).Scan(&n)
		}))
		return n
	}
	fmt.Println("a basic plan costs", price(ctx))

	// A job that goes on with this carries the token in its envelope.
	token := m.Token(ctx)
	job := m.WithSession(context.Background(), token)
	fmt.Println("and in the job", price(job))
	fmt.Println("replica:", m.Stats().ReplicaReads, "primary:", m.Stats().PrimaryReads)

	// Output:
	// a basic plan costs 39
	// and in the job 39
	// replica: 2 primary: 0
}

// The primary dies: reads and ids go on, and global writes say what has
// happened.
func Example_primaryIsAway() {
	m, killPrimary, stop := exampleMaster()
	defer stop()
	ctx := context.Background()
	ids, err := m.Sequence("orders", nil)
	if err != nil {
		log.Fatal(err)
	}
	_, err = ids.Next(ctx) // takes a block
	must(err)

	killPrimary()
	err = m.Tx(ctx, func(ctx context.Context, tx *master.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE plans SET price = 0`)
		return err
	})
	fmt.Println("nothing written:", errors.Is(err, master.ErrPrimary))
	must(m.Read(ctx, func(ctx context.Context, q master.Querier) error {
		var price int
		err := q.QueryRowContext(ctx, `SELECT price FROM plans WHERE name = 'basic'`).Scan(&price)
		fmt.Println("a basic plan costs", price)
		return err
	}))
	id, err := ids.Next(ctx)
	must(err)
	fmt.Println("the next order is", id)

	// Output:
	// nothing written: true
	// a basic plan costs 29
	// the next order is 2
}

// A domain is claimed before a shop is made with it.
func ExampleMaster_Claim() {
	m, _, stop := exampleMaster()
	defer stop()
	ctx := context.Background()

	claim, err := m.Claim(ctx, "domain", "hats.example", 42, 10*time.Minute)
	must(err)
	// Here shop 42 is made in its pod. If this process died, the claim would lapse.
	must(m.Confirm(ctx, claim))

	_, err = m.Claim(ctx, "domain", "hats.example", 43, 10*time.Minute)
	var taken *master.Error
	if errors.As(err, &taken) && errors.Is(err, master.ErrTaken) {
		fmt.Println(taken.Name, "belongs to shop", taken.Owner)
	}
	fmt.Println(err)

	// Output:
	// hats.example belongs to shop 42
	// master: the name is taken (domain "hats.example"): it belongs to 42
}

// Ids that are unique over all pods, so that a shop's rows can move to any.
func ExampleMaster_Sequence() {
	m, _, stop := exampleMaster()
	defer stop()
	ctx := context.Background()

	must(m.Advance(ctx, "orders", 5000)) // above those that exist
	ids, err := m.Sequence("orders", &master.SequenceOptions{Block: 100})
	if err != nil {
		log.Fatal(err)
	}
	for range 3 {
		id, err := ids.Next(ctx)
		must(err)
		fmt.Println(id)
	}

	// Output:
	// 5001
	// 5002
	// 5003
}

// A user's next request reads what the one before wrote.
func ExampleMaster_Middleware() {
	var m *master.Master // from New
	var key []byte       // 32 random bytes, the same in every process
	mux := http.NewServeMux()

	withSession, err := m.Middleware(key)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = http.Server{Handler: withSession(mux)}

	// Output:
	// master: key has 0 bytes, want 32 or more
}
