// Package shop is the monolith that the libraries of this folder serve: what it
// has, and what it asks of its store. Each library's folder has a Repository.
//
// It guarantees nothing and needs no database: the promises are those of package
// sharding and of the repositories.
package shop

import (
	"context"
	_ "embed"
	"errors"
	"strconv"
	"strings"

	"github.com/podworks/podworks"
)

// A Product is what a shop sells.
type Product struct {
	ID    int64
	Name  string
	Stock int
}

// ErrSoldOut means that there is less in stock than was asked for. Nothing was
// sold.
var ErrSoldOut = errors.New("shop: sold out")

// A Repository is one shop's store, for one unit of work. The contexts are those
// of the unit.
type Repository interface {
	// Add adds a product and returns its id: a single write.
	Add(ctx context.Context, name string, stock int) (id int64, err error)

	// Products returns the products in the order of their ids: a read.
	Products(ctx context.Context) ([]Product, error)

	// Each calls fn with every product, in the order of their ids, without having
	// all of them in memory. It ends with fn's first error.
	Each(ctx context.Context, fn func(Product) error) error

	// Sell takes some of a product from the stock and returns the order's id: a
	// transaction, or a savepoint in the one that ctx carries. It fails with
	// ErrSoldOut.
	Sell(ctx context.Context, product int64, quantity int) (order int64, err error)
}

//go:embed schema.sql
var schema string

// Schema returns the statements that create the tables.
func Schema() []string {
	var out []string
	for s := range strings.SplitSeq(schema, ";") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// maxPods is the step between the numbers that a pod hands out, and so the
// highest number of a pod. It can't be lowered later.
const maxPods = 1024

// Numbers returns what a pod's mysql.Config has in its Params: with it the pod's
// AUTO_INCREMENT ids are different from every other pod's, and a row keeps its id
// when its shop moves.
func Numbers(pod podworks.PodID) map[string]string {
	return map[string]string{
		"auto_increment_increment": strconv.Itoa(maxPods),
		"auto_increment_offset":    strconv.Itoa(int(pod)),
	}
}
