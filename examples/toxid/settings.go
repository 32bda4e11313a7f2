package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
)

// settings are the flags.
type settings struct {
	Listen         string
	Host, Port     string // as in toxiproxy-server; in the place of Listen's, if given
	Config         string
	Seed           int64
	RuntimeMetrics bool
	Version        bool

	told bool // -host was given: it says whether others may reach the API
}

// parse reads the flags.
func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	fs := flag.NewFlagSet("toxid", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // the caller prints the error, once
	fs.StringVar(&s.Listen, "listen", "127.0.0.1:8474", "loopback address of the API; port 0 is a free one")
	fs.StringVar(&s.Host, "host", "", "host of the API in the place of -listen's; it need not be loopback")
	fs.StringVar(&s.Port, "port", "", "port of the API in the place of -listen's")
	fs.StringVar(&s.Config, "config", "", "JSON file of the proxies to begin with, and their toxics")
	fs.Int64Var(&s.Seed, "seed", 0, "decides all that toxics leave to chance; 0 is a random one, which is printed")
	fs.BoolVar(&s.RuntimeMetrics, "runtime-metrics", false, "add go_info and go_goroutines to /metrics")
	fs.Bool("proxy-metrics", true, "for toxiproxy-server's sake: the counters of proxies are always at /metrics")
	fs.BoolVar(&s.Version, "version", false, "print the version and exit")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(stderr, "toxid makes and breaks proxies as it is told over HTTP, in the language of Toxiproxy.\n\nFlags:")
		fs.SetOutput(stderr)
		fs.PrintDefaults()
		return s, err
	} else if err != nil {
		return s, fmt.Errorf("%w; -help lists the flags", err)
	}
	if fs.NArg() > 0 {
		return s, fmt.Errorf("%q is not a flag; -help lists them", fs.Arg(0))
	}
	fs.Visit(func(f *flag.Flag) { s.told = s.told || f.Name == "host" })
	if _, _, err := net.SplitHostPort(s.Listen); err != nil {
		return s, fmt.Errorf("-listen is %q, want host:port", s.Listen)
	}
	return s, nil
}

// address is where the API listens.
func (s settings) address() string {
	host, port, _ := net.SplitHostPort(s.Listen) // checked by parse
	if s.told {
		host = s.Host
	}
	if s.Port != "" {
		port = s.Port
	}
	return net.JoinHostPort(host, port)
}
