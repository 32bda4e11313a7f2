// Command flashsale is the suite's main job: a shop whose sale drives more
// traffic than the rest of the platform is moved to another pod while it sells,
// and no order is lost.
//
// It starts two pods and a master database of real servers, fills them with
// shops, puts a storefront behind the edge, sends buyers, moves the busiest shop
// in the middle of its sale, and then counts every acknowledged order over all
// pods:
//
//	go run ./flashsale
//	go run ./flashsale -family mysql -duration 30s
//	go run ./flashsale -json
//
// The exit status is 1 when an acknowledged order is missing or double, when
// stock was oversold or when the move failed, and 2 when a flag was wrong.
//
// # Processes
//
// The program runs itself again in several roles, so that what could fail alone
// does: each is a process of its own, and all they share is the databases.
//
//	conductor  starts the others, ends them in order, counts, reports
//	servers    owns the database servers and the directory of ledgers
//	store      the storefront, two of them on one address
//	edge       package routing in front of the storefront
//	worker     captures payments in the background; also recovers moves
//	buyers     scripted buyers; keeps the ledger of acknowledged orders
//	writer     one small write after the other; measures the write pause
//	mover      package ferry
//
// A role ends when its standard input does, so nothing is left behind when the
// conductor is killed.
//
// # When something breaks
//
// RESILIENCY.md says what users get of each part while each store is down, slow,
// flapping, reset or hung, and while nobody hears that a shop was moved, as
// TestResiliency finds it; RUNBOOK.md says what to look at then.
//
// # What it does not show
//
// Carts live in the pod's Redis and are a convenience: those of a shop that moves
// are gone, and a checkout therefore carries its lines itself. The servers do
// not sync their commits to the disk, because the demo is about processes
// and not about the disk it happens to run on.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// The exit statuses.
const (
	exitFine        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	if name, ok := roleOf(os.Args); ok {
		os.Exit(runRole(name))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is the conductor's main.
func run(args []string, stdout, stderr io.Writer) int {
	s, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitFine
	case err != nil:
		fmt.Fprintf(stderr, "flashsale: %v\n", err)
		return exitUsage
	}

	// After the first interrupt the handler is gone: a second one ends the
	// conductor at once, and with it everything else.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop)

	show := newScreen(stdout, s.JSON)
	report, err := conduct(ctx, s, show, nil)
	show.close()
	switch {
	case err != nil && ctx.Err() != nil:
		fmt.Fprintln(stderr, "flashsale: interrupted; everything it started has been stopped")
		return exitInterrupted
	case err != nil:
		fmt.Fprintf(stderr, "flashsale: %v\n", err)
		return exitFailed
	}
	if err := report.print(stdout, s.JSON); err != nil {
		fmt.Fprintf(stderr, "flashsale: print the report: %v\n", err)
		return exitFailed
	}
	return report.exitStatus()
}
