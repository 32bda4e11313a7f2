package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/testcluster"
)

// settings say what shop to move, and between what.
type settings struct {
	Source, Target, Master string // the driver's DSNs; none: servers of our own

	Shop   int64
	Column string
	Ignore []string
	Write  string // what the writer does in each transaction; "" is to take the fence only

	Family testcluster.Family // of our own servers
	Rows   int                // in those
	JSON   bool
}

// parse reads the flags and reports everything that is wrong with them.
func parse(args []string, stderr io.Writer) (settings, error) {
	s := settings{}
	var ignore string
	fs := flag.NewFlagSet("moveshop", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // the caller prints the error, once
	fs.StringVar(&s.Source, "source", "", "`DSN` of the database that has the shop; default: a server of our own")
	fs.StringVar(&s.Target, "target", "", "`DSN` of the database that gets it; default: a server of our own")
	fs.StringVar(&s.Master, "master", "", "`DSN` of the database with the directory of shops; default: -source")
	fs.Int64Var(&s.Shop, "shop", ownShop, "number of the shop")
	fs.StringVar(&s.Column, "column", "shop_id", "column that names a row's shop")
	fs.StringVar(&ignore, "ignore", "", "`tables` without a shop that are the same on both sides, with commas between them")
	fs.StringVar(&s.Write, "write", "", "`statement` that the writer runs in each of its transactions; default: on our own servers an UPDATE, else none: it takes the fence only")
	fs.StringVar((*string)(&s.Family), "family", string(testcluster.MariaDB), "our own servers: mariadb or mysql")
	fs.IntVar(&s.Rows, "rows", 300_000, "rows of the shop on our own servers, in two tables")
	fs.BoolVar(&s.JSON, "json", false, "print the report as one JSON document")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(stderr, "moveshop moves a shop from one database server to another.\n\nFlags:")
		fs.SetOutput(stderr)
		fs.PrintDefaults()
		return s, err
	} else if err != nil {
		return s, fmt.Errorf("%w; -help lists the flags", err)
	}
	if fs.NArg() > 0 {
		return s, fmt.Errorf("%q is not a flag; -help lists them", fs.Arg(0))
	}
	if ignore != "" {
		s.Ignore = strings.Split(ignore, ",")
	}
	given := make(map[string]bool)
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	return s, s.validate(given)
}

// own says whether the servers are our own.
func (s *settings) own() bool { return s.Source == "" }

// validate reports every setting that is out of range, not only the first.
func (s *settings) validate(given map[string]bool) error {
	var errs []error
	if (s.Source == "") != (s.Target == "") || s.Master != "" && s.own() {
		errs = append(errs, errors.New("-source and -target belong together, and -master to them"))
	}
	// What does not apply is a misunderstanding, which here may cost somebody's data.
	for _, name := range []string{"family", "rows"} {
		if given[name] && !s.own() {
			errs = append(errs, fmt.Errorf("-%s is for our own servers, and -source names another", name))
		}
	}
	for _, name := range []string{"shop", "column", "ignore", "write"} {
		if given[name] && s.own() {
			errs = append(errs, fmt.Errorf("-%s is for servers of yours, and -source names none", name))
		}
	}
	for name, dsn := range map[string]string{"source": s.Source, "target": s.Target, "master": s.Master} {
		// The driver's error has no part of the DSN, which may have a password.
		if cfg, err := mysql.ParseDSN(dsn); dsn != "" && err != nil {
			errs = append(errs, fmt.Errorf("-%s: %w", name, err))
		} else if dsn != "" && cfg.DBName == "" {
			errs = append(errs, fmt.Errorf("-%s names no database: want user:password@tcp(host:port)/database", name))
		}
	}
	if s.Family != testcluster.MariaDB && s.Family != testcluster.MySQL {
		errs = append(errs, fmt.Errorf("-family is %q, want %s or %s", s.Family, testcluster.MariaDB, testcluster.MySQL))
	}
	if s.Rows < 2 || s.Rows > 50_000_000 {
		errs = append(errs, fmt.Errorf("-rows is %d, want 2 to 50000000", s.Rows))
	}
	if s.Shop < 1 {
		errs = append(errs, fmt.Errorf("-shop is %d, want 1 or more", s.Shop))
	}
	s.Master = cmp.Or(s.Master, s.Source)
	return errors.Join(errs...)
}
