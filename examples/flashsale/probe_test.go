package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/sharding/master"
	"github.com/podworks/podworks/toxi/matrix"
)

// A probe does in a shop what its users do, as one of them, and says what they saw.
type probe func(ctx context.Context, sh shop, who string) matrix.Seen

// at makes it the probe of a section: it is done in all shops at once, and the worst
// counts. People who are told at once that something didn't work try again a second
// later; those who were made to wait for that leave.
func (p probe) at(shops func() []shop) func(context.Context) matrix.Seen {
	return func(ctx context.Context) matrix.Seen {
		all := shops()
		seen := make([]matrix.Seen, len(all))
		var wg sync.WaitGroup
		for i, sh := range all {
			wg.Go(func() {
				begin, who := time.Now(), newToken()
				seen[i] = p(ctx, sh, who)
				if seen[i].Outcome != matrix.OutcomeDown || time.Since(begin) > time.Second {
					return
				}
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return
				}
				if again := p(ctx, sh, who); again.Outcome < seen[i].Outcome {
					seen[i] = matrix.Degraded("at the second try")
				}
			})
		}
		wg.Wait()
		worst := seen[0]
		for _, s := range seen {
			if s.Outcome > worst.Outcome {
				worst = s
			}
		}
		return worst
	}
}

// A reply is what came back.
type reply struct {
	status int
	header http.Header
	body   string
	took   time.Duration
}

// is reports whether it is a page that has all the texts.
func (r reply) is(status int, texts ...string) bool {
	for _, t := range texts {
		if !strings.Contains(r.body, t) {
			return false
		}
	}
	return r.status == status
}

// says is the reply in a line.
func (r reply) says() string {
	line, _, _ := strings.Cut(r.body, "\n")
	if r.header.Get("Content-Type") == "text/html; charset=utf-8" {
		return fmt.Sprintf("%d, and not the page that was asked for", r.status)
	}
	return line
}

// send makes one request to a shop, as a buyer with a cart, and reads the answer.
func (m *mall) send(ctx context.Context, sh shop, buyer, method, path string, form url.Values) (reply, error) {
	begin := time.Now()
	req, err := http.NewRequestWithContext(ctx, method, m.plan.Edge+path, strings.NewReader(form.Encode()))
	if err != nil {
		return reply{}, err
	}
	req.Host = sh.host
	req.Header.Set("Cookie", cartCookie+"="+buyer)
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	res, err := m.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") == "" {
		m.complain("%s %s was refused without a word of when to try again: %s", method, path, body)
	}
	return reply{res.StatusCode, res.Header, string(body), time.Since(begin)}, err
}

// page asks for one page that must have the texts.
func (m *mall) page(ctx context.Context, sh shop, path string, texts ...string) matrix.Seen {
	r, err := m.send(ctx, sh, "reader", http.MethodGet, path, nil)
	switch {
	case err != nil:
		return matrix.Down(err.Error())
	case r.is(http.StatusOK, append(texts, staleNotice)...):
		return matrix.Degraded("the page as it was a while ago")
	case r.is(http.StatusOK, texts...):
		return matrix.Up("200, all of it")
	}
	return matrix.Down(r.says())
}

// The product that probes buy; there is plenty of it.
const bought = 2

// storefront looks at the home page and the catalogue.
func (m *mall) storefront(ctx context.Context, sh shop, _ string) matrix.Seen {
	home := m.page(ctx, sh, "/", fmt.Sprintf("Welcome to shop %d", sh.id), "<article>")
	if home.Outcome == matrix.OutcomeDown {
		return home // and nobody asks for another page
	}
	if catalogue := m.page(ctx, sh, "/catalogue/1", "Catalogue, page 1", "<article>"); catalogue.Outcome > home.Outcome {
		return catalogue
	}
	return home
}

// product looks at a product and how much of it is left.
func (m *mall) product(ctx context.Context, sh shop, _ string) matrix.Seen {
	return m.page(ctx, sh, "/products/"+strconv.Itoa(bought), m.plan.Settings.product(sh.id, bought).title, " left")
}

// cart puts a product into a new cart, and looks whether it is there and can be
// bought. When the cart is away, it buys.
func (m *mall) cart(ctx context.Context, sh shop, who string) matrix.Seen {
	button := fmt.Sprintf(`name="line" value="%d:`, bought)
	r, err := m.send(ctx, sh, who, http.MethodPost, "/cart", url.Values{"product": {strconv.Itoa(bought)}})
	switch {
	case err != nil:
		return matrix.Down(err.Error())
	case r.is(http.StatusOK, "Your cart is away for a moment", button):
		_, after, _ := strings.Cut(r.body, `name="token" value="`)
		token, _, _ := strings.Cut(after, `"`)
		if _, seen := m.buy(ctx, sh, token); seen.Outcome != matrix.OutcomeUp {
			return matrix.Down("the cart is away, and so is the checkout: " + seen.Text)
		}
		return matrix.Degraded("the cart is away; the product was bought without it")
	case r.status != http.StatusSeeOther:
		return matrix.Down(r.says())
	}
	r, err = m.send(ctx, sh, who, http.MethodGet, r.header.Get("Location"), nil)
	switch {
	case err != nil:
		return matrix.Down(err.Error())
	case r.is(http.StatusOK, "Your cart is away for a moment"):
		return matrix.Degraded("the cart is away")
	case r.is(http.StatusOK, "Your cart", button):
		return matrix.Up("200, all of it")
	}
	return matrix.Down(r.says())
}

// checkout presses a button, the same one at the second try, and looks at the order.
func (m *mall) checkout(ctx context.Context, sh shop, who string) matrix.Seen {
	_, seen := m.buy(ctx, sh, who)
	return seen
}

// buy places an order under a token and returns its number, or 0. What is
// acknowledged is counted in the end.
func (m *mall) buy(ctx context.Context, sh shop, token string) (id int64, seen matrix.Seen) {
	form := url.Values{"token": {token}, "email": {"probe@mail.example"}, "line": {fmt.Sprintf("%d:1", bought)}}
	r, err := m.send(ctx, sh, "buyer", http.MethodPost, "/checkout", form)
	if err != nil {
		return 0, matrix.Down(err.Error())
	}
	if r.status != http.StatusSeeOther {
		return 0, matrix.Down(r.says())
	}
	if id, err = strconv.ParseInt(r.header.Get(orderHeader), 10, 64); err != nil {
		return 0, matrix.Down("an order without a number")
	}
	m.acknowledge(sh, id, token)
	if seen := m.page(ctx, sh, r.header.Get("Location"), "Thank you!", strconv.FormatInt(id, 10)); seen.Outcome != matrix.OutcomeUp {
		return id, matrix.Degraded("placed; the page that says thanks answers " + seen.Text)
	}
	return id, matrix.Up("placed")
}

// order looks at an order of the past.
func (m *mall) order(ctx context.Context, sh shop, _ string) matrix.Seen {
	return m.page(ctx, sh, fmt.Sprintf("/orders/%032x", 1), "Thank you!", "Total: ")
}

// jobs has an order that needs its payment captured. It is written past the
// storefront, so that nothing but the worker is needed.
func (m *mall) jobs(ctx context.Context, sh shop, _ string) matrix.Seen {
	ctx, cancel := context.WithTimeout(ctx, paidWithin)
	defer cancel()
	pod := m.pods[m.owner(sh)]
	id, token := m.ids.next(), newToken()
	err := pod.place(ctx, sh, id, m.ids.next(), token)
	if err == nil {
		m.acknowledge(sh, id, token)
		err = pod.paid(ctx, sh, id)
	}
	if err != nil {
		return matrix.Down("payments wait")
	}
	return matrix.Up("the payment was captured")
}

// admin opens a shop next to another, and waits until it can be visited. One that was
// not opened to the end is what the next call opens.
func (m *mall) admin(ctx context.Context, sh shop, _ string) matrix.Seen {
	ctx, cancel := context.WithTimeout(ctx, answerWithin) // a new shop that nobody finds is an answer too
	defer cancel()
	opened := &m.pods[sh.pod].opened
	id := 1000*int64(sh.pod) + opened.Load()
	fresh := shop{id: podworks.ShopID(id), pod: sh.pod, host: fmt.Sprintf("shop-%d.example", id)}
	switch err := m.office.signUp(ctx, fresh); {
	case errors.Is(err, master.ErrPrimary):
		return matrix.Down("no shop can be opened: the master database is away")
	case err != nil:
		if m.struck.Load() == masterStruck {
			m.complain("the master database is away, and the error of a global write doesn't say so: %v", err)
		}
		return matrix.Down("no shop can be opened")
	}
	opened.Add(1)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		r, err := m.send(ctx, fresh, "owner", http.MethodGet, "/", nil)
		switch {
		case ctx.Err() != nil:
			return matrix.Down("the shop that was opened is not there")
		case err != nil:
			return matrix.Down(err.Error())
		case r.is(http.StatusOK, fmt.Sprintf("Welcome to shop %d", id)):
			return matrix.Up("a shop was opened")
		case r.status != http.StatusNotFound:
			return matrix.Down(r.says())
		}
		select { // the edge hears of it a moment later
		case <-ctx.Done():
			return matrix.Down("the shop that was opened is not there")
		case <-tick.C:
		}
	}
}

// Everything that a neighbour's shop shows is there within a second, and what its worker
// does a second later.
const (
	pageWithin = time.Second
	paidWithin = 2 * time.Second
)

// neighbour does everything in a shop whose pod is well, and wants it as quick as ever.
func (m *mall) neighbour(ctx context.Context, sh shop, who string) matrix.Seen {
	var id int64
	for _, part := range []struct {
		name string
		most time.Duration
		do   probe
	}{
		{"storefront", pageWithin, m.storefront},
		{"product", pageWithin, m.product},
		{"cart", pageWithin, m.cart},
		{"checkout", pageWithin, func(ctx context.Context, sh shop, who string) (seen matrix.Seen) {
			id, seen = m.buy(ctx, sh, who)
			return seen
		}},
		{"payment", paidWithin, func(ctx context.Context, sh shop, _ string) matrix.Seen {
			if err := m.pods[sh.pod].paid(ctx, sh, id); err != nil {
				return matrix.Down("it waits")
			}
			return matrix.Up("captured")
		}},
	} {
		begin := time.Now()
		seen := part.do(ctx, sh, who)
		if took := time.Since(begin); seen.Outcome == matrix.OutcomeUp && took > part.most {
			seen = matrix.Degraded(fmt.Sprintf("it took %v", took.Round(time.Millisecond)))
		}
		if seen.Outcome != matrix.OutcomeUp {
			seen.Text = part.name + ": " + seen.Text
			return seen
		}
	}
	return matrix.Up("everything, and every page within a second")
}
