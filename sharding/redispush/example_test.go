package redispush_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding/redispush"
)

// exampleRedis starts a Redis, which an application has.
func exampleRedis() (server *testcluster.RedisServer, client *redis.Client, stop func()) {
	server, err := testcluster.StartRedis(context.Background(), nil)
	if err != nil {
		log.Fatal(err)
	}
	client = redis.NewClient(&redis.Options{Addr: server.Socket(), ContextTimeoutEnabled: true})
	return server, client, func() {
		client.Close()
		if err := server.Stop(); err != nil {
			log.Print(err)
		}
	}
}

// One process changes the directory, another hears of it.
func Example() {
	_, client, stop := exampleRedis()
	defer stop()
	push, err := redispush.New(client, nil)
	if err != nil {
		log.Fatal(err)
	}

	// The other process.
	ctx, cancel := context.WithCancel(context.Background())
	heard, ended := make(chan uint64), make(chan error)
	go func() {
		ended <- push.Subscribe(ctx, func(version uint64) {
			select {
			case heard <- version:
			case <-ctx.Done():
			}
		})
	}()

	// This one. What is published before the other has subscribed is lost.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case version := <-heard:
			fmt.Println("the directory is at version", version)
			done = true
		case <-tick.C:
			if err := push.Publish(ctx, 42); err != nil {
				log.Fatal(err)
			}
		}
	}
	cancel()
	fmt.Println(errors.Is(<-ended, context.Canceled))
	// Output:
	// the directory is at version 42
	// true
}

// A frozen Redis costs a publisher its Timeout, and then it goes on: the others
// find the change when they poll.
func Example_redisFrozen() {
	server, client, stop := exampleRedis()
	defer stop()
	push, err := redispush.New(client, &redispush.Options{Timeout: 200 * time.Millisecond})
	if err != nil {
		log.Fatal(err)
	}
	if err := server.Pause(); err != nil {
		log.Fatal(err)
	}
	err = push.Publish(context.Background(), 42)
	says, _, _ := strings.Cut(err.Error(), " (") // what follows is the connection's error
	fmt.Println(says)
	// Output:
	// redispush: publish version 42 on "podworks:directory": no answer from Redis within 200ms
}
