package main

import (
	"fmt"
	"math/rand/v2"

	"github.com/podworks/podworks"
)

// A shop is one tenant as it is before the sale. Everything about it follows
// from the settings, so that each process knows it without asking.
type shop struct {
	id       podworks.ShopID
	pod      podworks.PodID // before the sale
	host     string
	products int64
	history  int64 // past orders, paid, two lines each
}

// hot is the shop that has the sale.
const hot podworks.ShopID = 1

// shops returns all shops. The one with rank n is an n-th of the size of the
// hot one, as cities, words and shops are; pods take turns.
func (s settings) shops() []shop {
	out := make([]shop, s.Shops)
	for i := range out {
		rank := int64(i + 1)
		out[i] = shop{
			id:       podworks.ShopID(rank),
			pod:      firstPod + podworks.PodID(i%2),
			host:     fmt.Sprintf("shop-%d.example", rank),
			products: max(12, 240/rank),
			history:  int64(s.History) / (4*rank - 3), // the sale's shop is bigger than its rank
		}
	}
	return out
}

// A product is one thing a shop sells.
type product struct {
	id    int64
	title string
	cents int64
	stock int64
}

// slotsPerProduct is how many rows a product's stock is spread over.
const slotsPerProduct = 8

// The first product of each shop is what everybody came for, and there is not
// enough of it. A tenth of the others run short in a busy shop.
const (
	dropStock   = 300
	shortStock  = 40
	plentyStock = 100_000
)

var (
	adjectives = []string{"Velvet", "Matte", "Midnight", "Desert", "Holiday", "Frosted", "Classic", "Coral", "Golden", "Signature", "Wild", "Quiet"}
	nouns      = []string{"Lip Kit", "Palette", "Hoodie", "Poster", "Candle", "Tote", "Mug", "Gloss", "Sneaker", "Record", "Cap", "Scarf"}
)

// product returns a product of a shop.
func (s settings) product(id podworks.ShopID, n int64) product {
	r := rand.New(rand.NewPCG(s.Seed, uint64(id)<<32|uint64(n)))
	p := product{
		id:    n,
		title: fmt.Sprintf("%s %s No. %d", adjectives[r.IntN(len(adjectives))], nouns[r.IntN(len(nouns))], n),
		cents: 500 + r.Int64N(9500),
		stock: plentyStock,
	}
	switch {
	case n == 1:
		p.title, p.stock = "The Drop (limited)", dropStock
	case n%10 == 0:
		p.stock = shortStock
	}
	return p
}

// slot returns how much of the stock is in a slot before the sale.
func (p product) slot(n int64) int64 {
	share := p.stock / slotsPerProduct
	if n < p.stock%slotsPerProduct {
		share++
	}
	return share
}
