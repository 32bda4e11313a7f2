package podworks_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/podworks/podworks"
)

// A route travels with the context of a unit of work. sharding puts it there;
// here a test does, for code that only wants to know whose work it does.
func Example() {
	greet := func(ctx context.Context) string {
		shop, ok := podworks.ShopFrom(ctx)
		if !ok {
			return "no shop: this work is not annotated"
		}
		return fmt.Sprintf("working for shop %d", shop)
	}

	ctx := context.Background()
	fmt.Println(greet(ctx))
	ctx = podworks.WithRoute(ctx, podworks.Route{Shop: 42, Pod: 3, Region: "us-east1", Epoch: 7})
	fmt.Println(greet(ctx))

	r, _ := podworks.RouteFrom(ctx)
	fmt.Printf("pod %d in %s, epoch %d\n", r.Pod, r.Region, r.Epoch)

	// Output:
	// no shop: this work is not annotated
	// working for shop 42
	// pod 3 in us-east1, epoch 7
}

// mail is a package that acts only on what was committed. It finds the
// transaction in the context and needs to know nobody else's types.
func mail(ctx context.Context, text string) error {
	tx, ok := podworks.TxFrom(ctx)
	if !ok {
		return errors.New("mail: not in a transaction")
	}
	tx.AfterEnd(func(_ context.Context, err error) {
		switch {
		case err == nil:
			fmt.Println("sent:", text)
		case errors.Is(err, podworks.ErrOutcomeUnknown):
			fmt.Println("look for the row before sending:", text)
		default:
			fmt.Println("not sent:", text)
		}
	})
	return nil
}

func ExampleTxFrom() {
	ctx := context.Background()
	fmt.Println(mail(ctx, "welcome"))

	for _, outcome := range []error{nil, errors.New("out of stock"), podworks.ErrOutcomeUnknown} {
		tx := new(recordedTx) // stands for a *sharding.Tx
		if err := mail(podworks.WithTx(ctx, tx), "your order"); err != nil {
			fmt.Println(err)
		}
		tx.end(ctx, outcome)
	}

	// Output:
	// mail: not in a transaction
	// sent: your order
	// not sent: your order
	// look for the row before sending: your order
}

// A recordedTx is a podworks.Tx that ends as it is told.
type recordedTx struct {
	after []func(context.Context, error)
}

func (t *recordedTx) BeforeCommit(func(context.Context) error)   {}
func (t *recordedTx) AfterEnd(hook func(context.Context, error)) { t.after = append(t.after, hook) }

func (t *recordedTx) end(ctx context.Context, err error) {
	for _, hook := range t.after {
		hook(ctx, err)
	}
}
