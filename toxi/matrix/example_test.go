package matrix_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/podworks/podworks/toxi/matrix"
)

// A storefront that can do without its cache, and a cache that can be stopped.
func Example() {
	cached := true
	m := matrix.Matrix{
		Name: "tulips",
		Sections: []matrix.Section{{
			Name: "storefront", Owner: "web", Runbook: "https://example.com/runbooks/storefront",
			Probe: func(context.Context) matrix.Seen {
				if !cached {
					return matrix.Degraded("prices of a minute ago")
				}
				return matrix.Up("200 OK")
			},
		}},
		Dependencies: []matrix.Dependency{{
			Name: "memcached",
			Faults: []matrix.Fault{{Name: "down", Inject: func(context.Context) (func(context.Context) error, error) {
				cached = false
				return func(context.Context) error { cached = true; return nil }, nil
			}}},
		}},
		Expect: `
			            memcached/down
			storefront  degraded
		`,
	}

	// In a test: matrix.Run(t, m).
	r, err := matrix.Check(context.Background(), m)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := r.WriteMarkdown(os.Stdout); err != nil {
		fmt.Println(err)
	}
	// Output:
	// # Resiliency matrix: tulips
	//
	// What do users get while memcached is down? A cell with an outcome was tested: the section was up, the fault
	// was injected, a user got what the cell says, the fault was healed, and the section was up again within 5s.
	//
	// Its cell is as declared.
	//
	// | Section | Owner | Runbook | memcached/down |
	// | --- | --- | --- | --- |
	// | storefront | web | [runbook](https://example.com/runbooks/storefront) | ◐ degraded |
	//
	// - ● up: users get everything
	// - ◐ degraded: users get what they came for, without something
	// - ○ down: users get an error
	// - ◌ hung: users get no answer within 10s
}

// Somebody deletes a fault that fails now and then. The promise stays in the
// table, and the run is red.
func Example_untested() {
	r, err := matrix.Check(context.Background(), matrix.Matrix{
		Name: "tulips",
		Sections: []matrix.Section{{
			Name: "checkout", Owner: "payments", Runbook: "https://example.com/runbooks/checkout",
			Probe: func(context.Context) matrix.Seen { return matrix.Up("200 OK") },
		}},
		Dependencies: []matrix.Dependency{{Name: "redis"}},
		Expect: `
			          redis/down
			checkout  up
		`,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(r.Err())
	// Output:
	// matrix: tulips is not green:
	//   - checkout with redis down: declared up, and untested: dependency redis has no fault down. Add it, or take it out of the table.
}

// The test of an application is one call.
func ExampleRun() {
	_ = func(t *testing.T) { // func TestMatrix(t *testing.T)
		up := func(context.Context) matrix.Seen { return matrix.Up("200 OK") }
		stop := func(context.Context) (func(context.Context) error, error) {
			return func(context.Context) error { return nil }, nil
		}
		matrix.Run(t, matrix.Matrix{
			Name:         "tulips",
			Sections:     []matrix.Section{{Name: "storefront", Owner: "web", Runbook: "https://example.com/runbooks/storefront", Probe: up}},
			Dependencies: []matrix.Dependency{{Name: "redis", Faults: []matrix.Fault{{Name: "down", Inject: stop}}}},
			Expect: `
				            redis/down
				storefront  up
			`,
			Golden: "RESILIENCY.md",
		})
	}
}

// What two packages found out becomes one matrix.
func ExampleJoin() {
	var reports []*matrix.Report
	for _, text := range []string{
		`{"name": "web", "sections": [{"section": "storefront"}], "faults": [{"dependency": "redis", "fault": "down"}],
		  "cells": [{"section": "storefront", "dependency": "redis", "fault": "down", "state": "passed", "expected": "up", "got": "up"}]}`,
		`{"name": "jobs", "sections": [{"section": "capture"}], "faults": [{"dependency": "mysql", "fault": "down"}],
		  "cells": [{"section": "capture", "dependency": "mysql", "fault": "down", "state": "passed", "expected": "down", "got": "down"}]}`,
	} {
		r, err := matrix.ReadReport(strings.NewReader(text))
		if err != nil {
			fmt.Println(err)
			return
		}
		reports = append(reports, r)
	}
	r := matrix.Join(reports...)
	fmt.Println(r.Name, r.Columns, r.Count(matrix.StatePassed), r.Err())
	// Output: web + jobs [redis/down mysql/down] 2 <nil>
}
