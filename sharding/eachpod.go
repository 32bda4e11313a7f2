package sharding

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/podworks/podworks"
)

// EachPodOptions say how EachPod goes through the pods. The zero value is one
// after the other.
type EachPodOptions struct {
	// Parallel is how many pods are worked on at a time. Default 1.
	Parallel int

	// KeepGoing goes on with the other pods after one has failed. By default no
	// further pod is begun: a migration that fails shall fail once.
	KeepGoing bool
}

// EachPod runs fn for every pod, in the order of their numbers, with a pool that
// asks for no scope and has no fence. It is for maintenance: schema migrations,
// reports, back-fills. Work that depends on all pods fails with any of them, so
// requests have no business here, and a context with a scope is refused.
//
// The reason is for the logs and dashboards (Hooks.EachPod, Stats.FanOuts), and
// there has to be one. The errors of all pods that failed are joined; each is an
// *Error that names its pod.
//
// fn may run for as long as the process does, as package outbox's relay: then
// Parallel must be the number of pods.
//
// What fn writes for a shop is not fenced: a move that runs at the same time
// copies it or doesn't. Write a shop's rows in its scope.
func (c *Cluster) EachPod(ctx context.Context, reason string, opts *EachPodOptions, fn func(ctx context.Context, pod podworks.PodID, db *sql.DB) error) error {
	var o EachPodOptions
	if opts != nil {
		o = *opts
	}
	switch s := FromContext(ctx); {
	case s != nil:
		return &Error{Shop: s.Shop(), Err: ErrRefused, Acquired: s.where(), Used: usedAt(), Note: "EachPod inside of a shop's scope: one unit of work touches one pod"}
	case reason == "":
		return fmt.Errorf("sharding: EachPod: the reason is empty, want what this is for")
	case o.Parallel < 0:
		return fmt.Errorf("sharding: EachPod: Parallel is %d, want 1 or more, or 0 for 1", o.Parallel)
	}
	c.fanOuts.Add(1)

	var mu sync.Mutex // guards errs
	var errs []error
	failed := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(errs) > 0
	}
	places := make(chan struct{}, max(1, o.Parallel))
	var wg sync.WaitGroup
	for _, id := range c.Pods() {
		places <- struct{}{}
		if failed() && !o.KeepGoing || ctx.Err() != nil {
			break
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { <-places }()
			start := time.Now()
			err := c.pods[id].unscoped(ctx, func(db *sql.DB) error { return fn(ctx, id, db) })
			if f := c.opts.Hooks.EachPod; f != nil {
				f(reason, id, time.Since(start), err)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, &Error{Pod: id, Err: err, Note: "while " + reason})
			}
		}()
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		errs = append(errs, fmt.Errorf("sharding: EachPod (%s): %w", reason, err))
	}
	return errors.Join(errs...)
}
