package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/podworks/podworks/internal/testcluster"
)

// settings say what sale to hold.
type settings struct {
	Family   testcluster.Family
	Shops    int
	Rate     float64 // buyers that come per second
	Duration time.Duration
	Buyers   int // that may be in the shops at a time
	Seed     uint64
	JSON     bool
	Keep     bool

	// History is how many orders the hot shop has had before the sale: what
	// makes it big. Others have less, by their rank. Not a flag; tests have less.
	History int
}

// defaults are a sale that two cores can hold next to the servers it needs.
var defaults = settings{
	Family:   testcluster.MariaDB,
	Shops:    50,
	Rate:     65,
	Duration: time.Minute,
	Buyers:   2000,
	Seed:     1,
	History:  60_000,
}

// parse reads the flags and reports everything that is wrong with them.
func parse(args []string, stderr io.Writer) (settings, error) {
	s := defaults
	fs := flag.NewFlagSet("flashsale", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // the caller prints the error, once
	fs.StringVar((*string)(&s.Family), "family", string(s.Family), "database servers: mariadb or mysql")
	fs.IntVar(&s.Shops, "shops", s.Shops, "number of shops; the first one has the sale")
	fs.Float64Var(&s.Rate, "rate", s.Rate, "buyers that come per second, whether or not the shop keeps up")
	fs.DurationVar(&s.Duration, "duration", s.Duration, "how long buyers come")
	fs.IntVar(&s.Buyers, "buyers", s.Buyers, "most buyers at a time; who comes when it is full is turned away and counted")
	fs.Uint64Var(&s.Seed, "seed", s.Seed, "decides what the shops sell and what the buyers do")
	fs.BoolVar(&s.JSON, "json", s.JSON, "print nothing but the report, as one JSON document")
	fs.BoolVar(&s.Keep, "keep", s.Keep, "leave the database servers running and print how to connect")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(stderr, "flashsale moves a shop to another pod in the middle of its sale.\n\nFlags:")
		fs.SetOutput(stderr)
		fs.PrintDefaults()
		return s, err
	} else if err != nil {
		return s, fmt.Errorf("%w; -help lists the flags", err)
	}
	if fs.NArg() > 0 {
		return s, fmt.Errorf("%q is not a flag; -help lists them", fs.Arg(0))
	}
	return s, s.validate()
}

// validate reports every setting that is out of range, not only the first.
func (s settings) validate() error {
	var errs []error
	if s.Family != testcluster.MariaDB && s.Family != testcluster.MySQL {
		errs = append(errs, fmt.Errorf("-family is %q, want %s or %s", s.Family, testcluster.MariaDB, testcluster.MySQL))
	}
	if s.Shops < 1 || s.Shops > 1000 {
		errs = append(errs, fmt.Errorf("-shops is %d, want 1 to 1000", s.Shops))
	}
	if !(s.Rate > 0 && s.Rate <= 10_000) { // NaN is neither
		errs = append(errs, fmt.Errorf("-rate is %v, want more than 0 and at most 10000 buyers per second", s.Rate))
	}
	if s.Duration < 5*time.Second || s.Duration > time.Hour {
		errs = append(errs, fmt.Errorf("-duration is %v, want 5s to 1h: the move needs some seconds", s.Duration))
	}
	if s.Buyers < 1 || s.Buyers > 20_000 {
		errs = append(errs, fmt.Errorf("-buyers is %d, want 1 to 20000", s.Buyers))
	}
	return errors.Join(errs...)
}
