package shoptest

import (
	"cmp"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Suite goes through the application as its users do, in two new shops. It may be
// run again and again, while Busy buyers are in others.
func (m *Mall) Suite() {
	m.t.Helper()
	hats, mugs := m.OpenShop("Hats"), m.OpenShop("Mugs")
	top := m.Stock(hats, "Top hat", 9900, 10)
	flat := m.Stock(hats, "Cap", 1500, 3)
	mug := m.Stock(mugs, "Mug", 1200, 100)
	m.browse(hats, []Product{flat, top}, mugs, []Product{mug})
	m.order(hats, top, flat, mugs)
	m.twice(mugs, mug)
	m.lastPieces(mugs)
	m.overnight(mugs, mug)
	m.reported(hats, mugs)
}

func (m *Mall) browse(hats Shop, inHats []Product, mugs Shop, inMugs []Product) {
	m.t.Helper()
	m.shows(hats, inHats)
	m.shows(mugs, inMugs)
	if code := m.ask("GET", "nobody.example", "/products", nil, nil); code != http.StatusNotFound {
		m.t.Errorf("GET of a host that is no shop: got %d, want 404", code)
	}
}

// shows checks the products that a shop shows, in the order of their titles.
func (m *Mall) shows(s Shop, want []Product) {
	m.t.Helper()
	var got []Product
	m.must("GET", s.Host, "/products", nil, &got)
	if !reflect.DeepEqual(got, want) {
		m.t.Errorf("%s shows %+v, want %+v", s.Host, got, want)
	}
}

// order: what is bought is gone from the shelf, and is in the order at the
// price of the day. Nobody finds it in another shop.
func (m *Mall) order(hats Shop, top, flat Product, mugs Shop) {
	m.t.Helper()
	cart := m.Fill(hats, Item{Product: top.ID, Quantity: 1}, Item{Product: flat.ID, Quantity: 2})
	o, code := m.Checkout(hats, cart, "ann@example.com")
	want := []Item{{top.ID, 1, top.Cents}, {flat.ID, 2, flat.Cents}}
	slices.SortFunc(want, func(a, b Item) int { return cmp.Compare(a.Product, b.Product) })
	if code != http.StatusOK || o.Cents != top.Cents+2*flat.Cents || !reflect.DeepEqual(o.Items, want) {
		m.t.Errorf("checkout: got %d and %+v, want %+v", code, o, want)
	}
	if code := m.ask("GET", mugs.Host, fmt.Sprintf("/orders/%d", o.ID), nil, nil); code != http.StatusNotFound {
		m.t.Errorf("an order asked for in another shop: got %d, want 404", code)
	}
	top.Stock, flat.Stock = top.Stock-1, flat.Stock-2
	m.shows(hats, []Product{flat, top})

	// Two more caps than there are, with a hat: nothing of it is sold.
	cart = m.Fill(hats, Item{Product: top.ID, Quantity: 1}, Item{Product: flat.ID, Quantity: 3})
	if _, code := m.Checkout(hats, cart, "bob@example.com"); code != http.StatusConflict {
		m.t.Errorf("more than there is: got %d, want 409", code)
	}
	m.shows(hats, []Product{flat, top})
}

// twice: a button that is pressed twice makes one order.
func (m *Mall) twice(s Shop, p Product) {
	m.t.Helper()
	cart := m.Fill(s, Item{Product: p.ID, Quantity: 1})
	var orders atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			switch _, code := m.Checkout(s, cart, "carl@example.com"); code {
			case http.StatusOK:
				orders.Add(1)
			case http.StatusNotFound: // there is no such cart any more
			default:
				m.t.Errorf("the same checkout again: got %d, want 404", code)
			}
		})
	}
	wg.Wait()
	if n := orders.Load(); n != 1 {
		m.t.Errorf("one cart became %d orders, want 1", n)
	}
}

// lastPieces: who comes too late gets nothing.
func (m *Mall) lastPieces(s Shop) {
	m.t.Helper()
	p := m.Stock(s, "The last mug", 5000, 3)
	var orders atomic.Int64
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			switch _, code := m.Checkout(s, m.Fill(s, Item{Product: p.ID, Quantity: 1}), "dora@example.com"); code {
			case http.StatusOK:
				orders.Add(1)
			case http.StatusConflict:
			default:
				m.t.Errorf("checkout of a rare thing: got %d, want 200 or 409", code)
			}
		})
	}
	wg.Wait()
	if n := orders.Load(); n != 3 {
		m.t.Errorf("of 3 pieces %d were sold", n)
	}
}

// overnight: the next night sums up the day, and takes the carts that were left.
func (m *Mall) overnight(s Shop, p Product) {
	m.t.Helper()
	m.night.Lock()
	defer m.night.Unlock()
	left := m.Fill(s, Item{Product: p.ID, Quantity: 1})
	o := m.Buy(s, Item{Product: p.ID, Quantity: 1})
	for range 2 { // it may be run again
		if err := m.Fleet.Nightly(m.t.Context(), o.Created.Add(24*time.Hour)); err != nil {
			m.t.Errorf("the night's job: %v", err)
			return
		}
	}
	if _, code := m.Checkout(s, left, "eve@example.com"); code != http.StatusNotFound {
		m.t.Errorf("checkout of a cart that was left for a day: got %d, want 404", code)
	}
	// All of the shop's orders of this day; midnight may have been among them.
	want := Day{Day: o.Created.Format(time.DateOnly)}
	m.mu.Lock()
	for _, b := range m.books {
		if b.shop == s && b.order.Created.Format(time.DateOnly) == want.Day {
			want.Orders++
			want.Cents += b.order.Cents
		}
	}
	m.mu.Unlock()
	var got []Day
	m.must("GET", s.Host, "/days", nil, &got)
	if !reflect.DeepEqual(got, []Day{want}) {
		m.t.Errorf("the days of %s: got %+v, want %+v", s.Host, got, want)
	}
}

// reported: the report has both shops.
func (m *Mall) reported(shops ...Shop) {
	m.t.Helper()
	got := m.report()
	for _, s := range shops {
		want := Line{Shop: s.Name}
		m.mu.Lock()
		for _, b := range m.books {
			if b.shop == s {
				want.Orders++
				want.Cents += b.order.Cents
			}
		}
		m.mu.Unlock()
		if got[s.Name] != want {
			m.t.Errorf("the report says %+v, want %+v", got[s.Name], want)
		}
	}
}
