// Command toxid is package toxiproxy as a daemon: fault-injecting proxies that are made
// and broken over HTTP. It takes the place of toxiproxy-server, with the same flags, for
// the same clients and for toxiproxy-cli:
//
//	go run ./toxid
//	go run ./toxid -config proxies.json -seed 42
//	toxiproxy-cli create -l 127.0.0.1:26379 -u 127.0.0.1:6379 redis
//	toxiproxy-cli toxic add -t latency -a latency=1000 redis
//
// The configuration is Toxiproxy's, and proxies in it may have toxics:
//
//	[{
//		"name": "redis", "listen": "127.0.0.1:26379", "upstream": "127.0.0.1:6379",
//		"toxics": [{"type": "latency", "stream": "upstream", "attributes": {"latency": 1000}}]
//	}]
//
// It prints where it listens and with which seed, logs to its standard error as much as the
// environment variable LOG_LEVEL says (debug, info, warn or error), and ends in order after
// SIGINT or SIGTERM. What differs from toxiproxy-server is that a configuration that
// can't be read or has a fault in it ends it, instead of being logged; that -seed
// works; that -proxy-metrics is always on; and what package toxiproxy lists.
//
// Whoever reaches the API can open ports on this machine and reach whatever it reaches. It
// therefore listens on a loopback address, unless -host names another.
//
// The exit status is 0 after a signal, 1 when the configuration was bad or a port was
// taken, and 2 when a flag was wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/podworks/podworks/toxi/toxiproxy"
)

// The exit statuses.
const (
	exitFine   = 0
	exitFailed = 1
	exitUsage  = 2
)

// shutdownLimit is how long requests may take to end after a signal.
const shutdownLimit = 5 * time.Second

func main() {
	// After the first signal the handler is gone: a second one ends the daemon at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Getenv("LOG_LEVEL"), os.Stdout, os.Stderr))
}

// run is the daemon: it serves until ctx ends, and returns the exit status.
func run(ctx context.Context, args []string, level string, stdout, stderr io.Writer) int {
	s, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitFine
	case err != nil:
		fmt.Fprintf(stderr, "toxid: %v\n", err)
		return exitUsage
	case s.Version:
		fmt.Fprintf(stdout, "toxid version %s\n", toxiproxy.DefaultVersion)
		return exitFine
	}
	if err := serve(ctx, s, logger(level, stderr), stdout); err != nil {
		fmt.Fprintf(stderr, "toxid: %v\n", err)
		if errors.Is(err, errExposed) {
			return exitUsage
		}
		return exitFailed
	}
	return exitFine
}

// logger logs to w what level, the value of LOG_LEVEL, lets through.
func logger(level string, w io.Writer) *slog.Logger {
	var l slog.Level // info
	err := l.UnmarshalText([]byte(level))
	if err != nil && (level == "trace" || level == "TRACE") { // toxiproxy-server has it
		l, err = slog.LevelDebug, nil
	}
	log := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l}))
	if err != nil && level != "" {
		log.Warn("LOG_LEVEL is not known, want debug, info, warn or error", "LOG_LEVEL", level)
	}
	return log
}

// errExposed means that the API would be reachable from elsewhere, and nobody said that it should.
var errExposed = errors.New("is no loopback address, and whoever reaches the API can open ports on this machine and reach whatever it reaches. If that is meant, name it by -host")

// serve opens the API and answers until ctx ends.
func serve(ctx context.Context, s settings, log *slog.Logger, stdout io.Writer) (err error) {
	ln, err := net.Listen("tcp", s.address())
	if err != nil {
		return err
	}
	defer ln.Close()
	// What is asked is where it listens now, not what a name may stand for.
	if a, ok := ln.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		if !s.told {
			return fmt.Errorf("-listen %s: %v %w", s.Listen, ln.Addr(), errExposed)
		}
		log.Warn("the API listens on an address that is not loopback: whoever reaches it can open ports on this machine and reach whatever it reaches", "address", ln.Addr().String())
	}

	api, err := toxiproxy.New(&toxiproxy.Options{Seed: uint64(s.Seed), RuntimeMetrics: s.RuntimeMetrics, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, api.Close()) }()
	if s.Config != "" {
		if err := populate(api, s.Config); err != nil {
			return fmt.Errorf("%s: %w", s.Config, err)
		}
	}

	server := &http.Server{
		Handler:           api,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	fmt.Fprintf(stdout, "toxid %s listens on %s, seed %d\n", toxiproxy.DefaultVersion, ln.Addr(), int64(api.Seed()))

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	log.Info("shutting down")
	// The requests have their own time to end: ctx has.
	limit, cancel := context.WithTimeout(context.Background(), shutdownLimit)
	defer cancel()
	if err := server.Shutdown(limit); err != nil {
		log.Warn("requests did not end in time and were broken off", "error", err)
		server.Close()
	}
	<-served
	return nil
}

// populate makes the proxies of a configuration file.
func populate(api *toxiproxy.Server, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return errors.Unwrap(err) // without the name, which the caller adds
	}
	defer f.Close()
	return api.Populate(f)
}
