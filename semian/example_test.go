package semian_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/podworks/podworks/semian"
)

func Example() {
	redis, err := semian.New("redis of pod 7", &semian.Options{
		MinCalls: 3,           // for the example's sake
		OpenFor:  time.Hour,   //
		Tickets:  20,          // no more calls at once
		SlowCall: time.Second, // slower ones count too
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	get := func(ctx context.Context, key string) error {
		return redis.Do(ctx, func(ctx context.Context) error {
			return errors.New("connection refused") // where the client would be called
		})
	}
	for range 4 {
		err = get(context.Background(), "cart")
		fmt.Println(errors.Is(err, semian.ErrOpen), err)
	}
	fmt.Println(redis.Stats().State)
	// Output:
	// false connection refused
	// false connection refused
	// false connection refused
	// true semian: circuit open: redis of pod 7: 3 of 3 calls within 10s failed; it ended with: connection refused
	// open
}

// What a dependency answers is a success, whatever the caller makes of it.
func ExampleAnswered() {
	errNotFound := errors.New("not found")
	r, err := semian.New("search", &semian.Options{MinCalls: 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 10 {
		err = r.Do(context.Background(), func(context.Context) error { return semian.Answered(errNotFound) })
	}
	fmt.Println(errors.Is(err, errNotFound), r.Stats().State)
	// Output: true closed
}
