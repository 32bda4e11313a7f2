package goose_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/examples/libraries/goose"
	"github.com/podworks/podworks/examples/libraries/internal/librarytest"
	"github.com/podworks/podworks/sharding"
)

// What a deployment does before it starts the new program.
func Example() {
	ctx := context.Background()
	cluster, stop := librarytest.ExampleBare()
	defer stop()

	if err := goose.Up(ctx, cluster); err != nil {
		log.Fatal(err)
	}
	status, err := goose.StatusOf(ctx, cluster)
	if err != nil {
		log.Fatal(err)
	}
	for pod := podworks.PodID(1); pod <= 2; pod++ {
		fmt.Println("pod", pod, "is at version", status[pod].Version, "of", status[pod].Newest)
	}

	// Output:
	// pod 1 is at version 2 of 2
	// pod 2 is at version 2 of 2
}

// A request must not migrate: it has a shop, and a schema is no shop's.
func Example_errors() {
	cluster, stop := librarytest.ExampleBare()
	defer stop()

	err := cluster.Do(context.Background(), 1, func(ctx context.Context, _ *sharding.Scope) error {
		return goose.Up(ctx, cluster)
	})
	fmt.Println("refused:", errors.Is(err, sharding.ErrRefused))

	// Output:
	// refused: true
}
