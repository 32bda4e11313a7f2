// Command moveshop moves one shop from a MySQL or MariaDB server to another with
// package ferry, and reports how fast that was and what a writer noticed of it.
//
// Without flags it starts two servers with durable settings, fills one of them
// with a shop out of two shared tables, and moves that:
//
//	go run ./moveshop
//	go run ./moveshop -family mysql -rows 1000000
//	go run ./moveshop -json
//
// With -source and -target it moves a shop of yours. The tables must be on both
// sides; ferry.Move names whatever else speaks against the move, before it
// touches anything. The shop's rows stay on the source. Two things are added that
// stay: ferry's tables, in both databases, and the directory's, in -master.
//
//	go run ./moveshop -source 'root@tcp(pod1:3306)/shops' -target 'root@tcp(pod2:3306)/shops' -shop 42 -ignore countries
//
// Applications must write through the fence (package sharding does) or rest
// meanwhile; see package ferry.
//
// # The report
//
// -json prints nothing but this, on one line:
//
//	rows            copied
//	bytes           of their values, from the average of up to 1,000 rows of each table
//	seconds         from the call to the published route: the shop's writers go on in the target
//	copy_seconds    of these, from the first row read to the last one written
//	verify_seconds  of these, from there to the first try at the cutover: what wasn't compared during the copy
//	rows_per_s      rows ÷ seconds
//	write_pause_ms  the longest that a write took which met the cutover, as a process of its own saw it; 0: none did
//	verified        all rows were the same on both sides at the switch
//	differences     rows that were not
//	settings        of both servers, as they say themselves
//	write_method    how rows got into the target: "load data" or "insert", as the target's counters say
//
// Once more all rows are compared as of the switch, while the shop trades at the
// target already: that is what verified and differences are of, and no part of
// seconds.
//
// The exit status is 1 when the move failed or rows differ, and 2 when a flag was
// wrong.
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

	"github.com/podworks/podworks/internal/testcluster"
)

// The exit statuses.
const (
	exitFine        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	if isWriter() {
		os.Exit(runWriter(os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	s, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitFine
	case err != nil:
		fmt.Fprintf(stderr, "moveshop: %v\n", err)
		return exitUsage
	}

	// After the first interrupt the handler is gone: a second one ends the program
	// at once, and ferry's journal keeps the move.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop)
	defer testcluster.StopAll()

	r, err := move(ctx, s, newProgress(stderr))
	switch {
	case err != nil && ctx.Err() != nil:
		fmt.Fprintf(stderr, "moveshop: interrupted: %v\n", err)
		return exitInterrupted
	case err != nil:
		fmt.Fprintf(stderr, "moveshop: %v\n", err)
		return exitFailed
	}
	if err := r.print(stdout, s.JSON); err != nil {
		fmt.Fprintf(stderr, "moveshop: print the report: %v\n", err)
		return exitFailed
	}
	if !r.Verified {
		return exitFailed
	}
	return exitFine
}
