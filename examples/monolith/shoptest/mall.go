// Package shoptest is what buyers, merchants and the platform's owner see of the
// application. Every step passes it, and so does every mixture of two steps
// that a deployment goes through: what the steps change is not behaviour.
package shoptest

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Mall is the people around the application. They keep books of every order
// that was acknowledged to them.
type Mall struct {
	Fleet Fleet

	// SignedUp, if set, is called after a shop was created.
	SignedUp func()

	// Lag is how long a process may read where a shop was before it moved.
	Lag time.Duration

	t testing.TB

	mu    sync.Mutex // guards books
	books []receipt

	// Nobody shops while the night's job believes that it is tomorrow: it would
	// take the carts from their hands.
	night sync.RWMutex
}

// A receipt is an acknowledged order.
type receipt struct {
	shop  Shop
	order Order
}

// New returns people around the processes of a deployment.
func New(t testing.TB, apps ...App) *Mall {
	m := &Mall{t: t}
	m.Fleet.Deploy(apps...)
	return m
}

// What is sent and received.
type (
	Shop struct {
		ID   int64
		Name string
		Host string
	}
	Product struct {
		ID    int64
		Title string
		Cents int64
		Stock int
	}
	Item struct {
		Product  int64
		Quantity int
		Cents    int64
	}
	Order struct {
		ID      int64
		Email   string
		Cents   int64
		Created time.Time
		Items   []Item
	}
	Day struct {
		Day    string
		Orders int
		Cents  int64
	}
	Line struct {
		Shop   string
		Orders int
		Cents  int64
	}
)

// ask sends a request, and decodes the answer into out if it is a good one.
func (m *Mall) ask(method, host, path string, in, out any) int {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			m.t.Error(err)
		}
	}
	r := httptest.NewRequestWithContext(m.t.Context(), method, path, &body)
	r.Host = host
	w := httptest.NewRecorder()
	m.Fleet.ServeHTTP(w, r)
	if w.Code == http.StatusOK && out != nil {
		if err := json.NewDecoder(w.Body).Decode(out); err != nil {
			m.t.Errorf("%s %s%s: %v", method, host, path, err)
		}
	}
	return w.Code
}

// must is ask for what has to succeed.
func (m *Mall) must(method, host, path string, in, out any) {
	m.t.Helper()
	if code := m.ask(method, host, path, in, out); code != http.StatusOK {
		m.t.Errorf("%s %s%s: got %d, want 200", method, host, path, code)
	}
}

// OpenShop creates a shop whose name nobody has.
func (m *Mall) OpenShop(name string) Shop {
	m.t.Helper()
	s := Shop{Name: name + " " + rand.Text()[:8]}
	s.Host = strings.ToLower(strings.ReplaceAll(s.Name, " ", "-")) + ".example"
	m.must("POST", "platform.example", "/admin/shops", s, &s)
	if m.SignedUp != nil {
		m.SignedUp()
	}
	return s
}

// Stock adds a product to a shop.
func (m *Mall) Stock(s Shop, title string, cents int64, stock int) Product {
	m.t.Helper()
	p := Product{Title: title, Cents: cents, Stock: stock}
	m.must("POST", s.Host, "/products", p, &p)
	return p
}

// TryStock is Stock for what may fail. It returns the status.
func (m *Mall) TryStock(s Shop, title string, cents int64, stock int) int {
	return m.ask("POST", s.Host, "/products", Product{Title: title, Cents: cents, Stock: stock}, nil)
}

// Fill returns the path of a new cart with these items in it.
func (m *Mall) Fill(s Shop, items ...Item) string {
	m.t.Helper()
	var cart struct{ Token string }
	m.must("POST", s.Host, "/carts", nil, &cart)
	path := "/carts/" + cart.Token
	for _, i := range items {
		m.must("POST", s.Host, path+"/items", i, nil)
	}
	return path
}

// Checkout orders what is in a cart. The receipt of an order goes into the books.
func (m *Mall) Checkout(s Shop, cart, email string) (Order, int) {
	var o Order
	code := m.ask("POST", s.Host, cart+"/checkout", Order{Email: email}, &o)
	if code == http.StatusOK {
		m.mu.Lock()
		m.books = append(m.books, receipt{s, o})
		m.mu.Unlock()
	}
	return o, code
}

// Buy orders from a shop.
func (m *Mall) Buy(s Shop, items ...Item) Order {
	m.t.Helper()
	o, code := m.Checkout(s, m.Fill(s, items...), "buyer@example.com")
	if code != http.StatusOK {
		m.t.Errorf("checkout in %s: got %d, want 200", s.Host, code)
	}
	return o
}

// Busy lets buyers shop until stop is called, each with a pause between two orders.
// Not one of their requests may fail. Stop returns how many orders they made.
func (m *Mall) Busy(s Shop, p Product, buyers int, pause time.Duration) (stop func() int) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	made := make([]int, buyers)
	for n := range buyers {
		wg.Go(func() {
			next := time.NewTicker(pause)
			defer next.Stop()
			for !m.t.Failed() {
				m.night.RLock()
				m.Buy(s, Item{Product: p.ID, Quantity: 1})
				m.night.RUnlock()
				made[n]++
				select {
				case <-end:
					return
				case <-next.C:
				}
			}
		})
	}
	return sync.OnceValue(func() int {
		close(end)
		wg.Wait()
		total := 0
		for _, n := range made {
			total += n
		}
		return total
	})
}

// Audit compares the books with what the application says: it has every order
// that it acknowledged, once, and no other in those shops.
func (m *Mall) Audit() {
	m.t.Helper()
	for _, d := range m.Differences() {
		m.t.Error(d)
	}
}

// Differences returns what an audit finds. The shops are shut meanwhile.
func (m *Mall) Differences() (found []string) {
	m.t.Helper()
	m.night.Lock()
	defer m.night.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	lag := time.Now().Add(m.Lag)
	want := map[string]Line{}
	for _, b := range m.books {
		var got Order
		path := fmt.Sprintf("/orders/%d", b.order.ID)
		code := m.ask("GET", b.shop.Host, path, nil, &got)
		for tick := time.Tick(10 * time.Millisecond); code == http.StatusNotFound && time.Now().Before(lag); <-tick {
			code = m.ask("GET", b.shop.Host, path, nil, &got)
		}
		if code != http.StatusOK || !reflect.DeepEqual(got, b.order) {
			found = append(found, fmt.Sprintf("GET %s%s: got %d and %+v, want the order that was acknowledged: %+v", b.shop.Host, path, code, got, b.order))
		}
		l := want[b.shop.Name]
		want[b.shop.Name] = Line{Shop: b.shop.Name, Orders: l.Orders + 1, Cents: l.Cents + b.order.Cents}
	}
	got := m.report()
	for name, l := range want {
		if got[name] != l {
			found = append(found, fmt.Sprintf("the report says %+v, the books %+v", got[name], l))
		}
	}
	return found
}

// Orders returns how many orders are in the books.
func (m *Mall) Orders() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.books)
}

// report returns the report's lines by their shops.
func (m *Mall) report() map[string]Line {
	m.t.Helper()
	var lines []Line
	m.must("GET", "platform.example", "/admin/report", nil, &lines)
	by := map[string]Line{}
	for i, l := range lines {
		by[l.Shop] = l
		if i > 0 && l.Cents > lines[i-1].Cents {
			m.t.Errorf("the report lists %+v after %+v, want those that sell most first", l, lines[i-1])
		}
	}
	return by
}
