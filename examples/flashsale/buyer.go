package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A buyer is one person with one browser. What they do follows from the seed
// and their number, apart from how the shop answers.
type buyer struct {
	*crowd
	number int64
	shop   shop
	rand   *rand.Rand
	cookie string
	due    time.Time // when the next request should have been sent, or zero
}

func newBuyer(c *crowd, number int64) *buyer {
	r := rand.New(rand.NewPCG(c.plan.Settings.Seed, uint64(number)+1))
	return &buyer{crowd: c, number: number, rand: r, shop: c.visit(r), cookie: fmt.Sprintf("%x", r.Uint64())}
}

// shopAround is the script: look around, put something into the cart, pay. At
// the first error the buyer gives up and leaves; nothing is ever sent twice.
func (b *buyer) shopAround(ctx context.Context) {
	if err := b.script(ctx); err != nil && ctx.Err() == nil {
		b.fail(err)
	}
}

func (b *buyer) script(ctx context.Context) error {
	if _, err := b.get(ctx, "/"); err != nil {
		return err
	}
	for range b.rand.IntN(3) {
		pages := int(b.shop.products-1)/perPage + 1
		if _, err := b.get(ctx, "/catalogue/"+strconv.Itoa(1+byRank(b.rand, pages))); err != nil {
			return err
		}
	}
	var wanted []int64
	for i := range 2 + b.rand.IntN(4) {
		id := 1 + int64(byRank(b.rand, int(b.shop.products)))
		if i == 0 && b.rand.IntN(3) == 0 {
			id = 1 // the drop
		}
		if _, err := b.get(ctx, "/products/"+strconv.FormatInt(id, 10)); err != nil {
			return err
		}
		if i == 0 || b.rand.IntN(4) == 0 {
			wanted = append(wanted, id)
		}
	}
	for _, id := range wanted {
		if _, err := b.post(ctx, cartRequest, "/cart", url.Values{"product": {strconv.FormatInt(id, 10)}}); err != nil {
			return err
		}
	}
	res, err := b.get(ctx, "/cart")
	if err != nil {
		return err
	}
	if res.Header.Get("Cart-Lines") == "0" {
		b.cartsGone.Add(1)
	}
	if b.rand.IntN(10) == 0 {
		return nil // just looking
	}
	for len(wanted) > 0 {
		missing, err := b.buy(ctx, wanted)
		if !errors.Is(err, errSoldOut) {
			return err
		}
		// Another button, another order: without what is sold out.
		var rest []int64
		for _, id := range wanted {
			if id != missing {
				rest = append(rest, id)
			}
		}
		if len(rest) == len(wanted) {
			return nil
		}
		wanted = rest
	}
	return nil
}

// buy places one order. When something is sold out it says what.
func (b *buyer) buy(ctx context.Context, wanted []int64) (missing int64, err error) {
	token := fmt.Sprintf("%016x%016x", b.rand.Uint64(), b.rand.Uint64())
	form := url.Values{"token": {token}, "email": {fmt.Sprintf("buyer-%d@mail.example", b.number)}}
	for _, id := range wanted {
		form.Add("line", strconv.FormatInt(id, 10)+":1")
	}
	res, err := b.post(ctx, checkoutRequest, "/checkout", form)
	if errors.Is(err, errSoldOut) {
		b.soldOut.Add(1)
		// "409: product 17: sold out"
		if words := strings.Fields(res.body); len(words) > 2 {
			missing, _ = strconv.ParseInt(strings.TrimSuffix(words[2], ":"), 10, 64)
		}
		return missing, err
	}
	if err != nil {
		return 0, err
	}
	id, err := strconv.ParseInt(res.Header.Get(orderHeader), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the checkout's answer has no order: %w", err)
	}
	if err := b.acknowledge(entry{Shop: int64(b.shop.id), ID: id, Token: token, At: time.Now().UnixNano()}); err != nil {
		return 0, err
	}
	_, err = b.get(ctx, res.Header.Get("Location"))
	return 0, err
}

// think is the time before the next click.
func (b *buyer) think(ctx context.Context) error {
	timer := time.NewTimer(min(2*time.Second, time.Duration(b.rand.ExpFloat64()*float64(250*time.Millisecond))))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// An answer is what came back.
type answer struct {
	*http.Response
	body string // the beginning, if it was no success
}

func (b *buyer) get(ctx context.Context, path string) (answer, error) {
	res, err := b.send(ctx, pageRequest, http.MethodGet, path, nil)
	if err == nil {
		b.pages.Add(1)
	}
	return res, err
}

func (b *buyer) post(ctx context.Context, kind requestKind, path string, form url.Values) (answer, error) {
	return b.send(ctx, kind, http.MethodPost, path, form)
}

// send makes one request, once.
func (b *buyer) send(ctx context.Context, kind requestKind, method, path string, form url.Values) (answer, error) {
	start := b.due
	b.due = time.Time{}
	if start.IsZero() {
		if err := b.think(ctx); err != nil {
			return answer{}, err
		}
		start = time.Now()
	}
	res, err := b.exchange(ctx, method, path, form)
	b.took(sample{kind: kind, start: start.UnixNano(), took: time.Since(start)})
	if err != nil && !errors.Is(err, errSoldOut) {
		err = fmt.Errorf("%s http://%s%s: %w", method, b.shop.host, path, err)
	}
	return res, err
}

// exchange sends a request and reads the answer to its end.
func (b *buyer) exchange(ctx context.Context, method, path string, form url.Values) (answer, error) {
	// Go's transport sends a GET again when a connection turns out to be dead.
	// Buyers don't, so a second connection is an error here.
	var conns int
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { conns++ }})
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, b.plan.Edge+path, body)
	if err != nil {
		return answer{}, err
	}
	req.Host = b.shop.host
	req.Header.Set("Cookie", cartCookie+"="+b.cookie)
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	res, err := b.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	html, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return answer{}, err
	case conns > 1:
		return answer{}, errors.New("the connection was lost and the request sent again")
	case res.StatusCode == http.StatusConflict:
		return answer{res, string(html)}, errSoldOut
	case res.StatusCode >= 400:
		return answer{}, fmt.Errorf("%s: %.200s", res.Status, html)
	}
	return answer{Response: res}, nil
}
