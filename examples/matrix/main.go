// Command matrix joins the resiliency matrices of several packages into one:
//
//	MATRIX_DIR=$PWD/out go test -count=1 ./...
//	make -s matrix ARGS="-o $PWD/matrix.html $PWD/out/*.json"
//
// It prints the matrix as Markdown, and writes it as a page (-o), as a picture
// (-svg) and as JSON (-json), which can be joined again. Paths should be absolute:
// make runs it in another folder.
//
// The exit status is 1 when a cell is red or was not run, and 2 when a flag was
// wrong or a file could not be read or written.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/podworks/podworks/toxi/matrix"
)

// The exit statuses.
const (
	exitGreen = 0
	exitRed   = 1
	exitUsage = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("matrix", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: matrix [flags] report.json ...\n\nIt joins the reports that tests wrote into MATRIX_DIR, and prints the matrix.")
		flags.PrintDefaults()
	}
	page := flags.String("o", "", "write the page into this `file`")
	picture := flags.String("svg", "", "write the picture into this `file`")
	report := flags.String("json", "", "write the joined report into this `file`")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitGreen
	case err != nil:
		return exitUsage
	case flags.NArg() == 0:
		fmt.Fprintln(stderr, "matrix: there is no report to join; name the JSON files that tests wrote into MATRIX_DIR")
		return exitUsage
	}

	var reports []*matrix.Report
	var errs []error
	for _, name := range flags.Args() {
		r, err := read(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			continue
		}
		reports = append(reports, r)
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}

	joined := matrix.Join(reports...)
	errs = []error{
		write(*page, joined.WriteHTML),
		write(*picture, joined.WriteSVG),
		write(*report, joined.WriteJSON),
		joined.WriteMarkdown(stdout),
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintf(stderr, "matrix: %v\n", err)
		return exitUsage
	}
	if err := joined.Err(); err != nil {
		fmt.Fprintln(stderr, err)
		return exitRed
	}
	return exitGreen
}

func read(name string) (*matrix.Report, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return matrix.ReadReport(f)
}

// write writes a file, if it has a name.
func write(name string, content func(io.Writer) error) error {
	if name == "" {
		return nil
	}
	var b bytes.Buffer
	if err := content(&b); err != nil {
		return err
	}
	return os.WriteFile(name, b.Bytes(), 0o644)
}
