package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"html/template"
	"net/http"
)

// A page is what the storefront shows; which fields are set says which page.
type page struct {
	Title    string
	Notice   string
	Products []listed
	Next     int // page of the catalogue, or 0
	Lines    []line
	Total    int64
	Order    int64
	Token    string // of the button that buys the lines, or "" for none
}

// listed is a product on a page.
type listed struct {
	ID    int64
	Title string
	Cents int64
	Left  int64 // in stock, on its own page
}

// A line is a product in a cart or an order.
type line struct {
	Product  int64
	Quantity int64
	Title    string
	Cents    int64 // each
}

var layout = template.Must(template.New("page").Funcs(template.FuncMap{"dollars": dollars}).Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{.Title}}</title>
<nav><a href="/">Home</a> <a href="/catalogue/1">Catalogue</a> <a href="/cart">Cart</a></nav>
<h1>{{.Title}}</h1>
{{with .Notice}}<p>{{.}}</p>
{{end}}{{with .Order}}<p>Thank you! Your order has the number {{.}}.</p>{{end}}
{{range .Products}}<article><h2><a href="/products/{{.ID}}">{{.Title}}</a></h2><p>{{dollars .Cents}}{{with .Left}}, {{.}} left{{end}}</p>
<form method="post" action="/cart"><input type="hidden" name="product" value="{{.ID}}"><button>Add to cart</button></form></article>
{{end}}{{with .Next}}<a href="/catalogue/{{.}}">More</a>{{end}}
{{with .Lines}}<ul>{{range .}}<li>{{.Quantity}} × {{.Title}} at {{dollars .Cents}}</li>{{end}}</ul>{{end}}
{{with .Total}}<p>Total: {{dollars .}}</p>{{end}}
{{with .Token}}<form method="post" action="/checkout"><input type="hidden" name="token" value="{{.}}">{{range $.Lines}}<input type="hidden" name="line" value="{{.Product}}:{{.Quantity}}">{{end}}
<label>Email <input name="email" type="email" required></label> <button>Buy now</button></form>{{end}}
`))

// newToken names a button. It is part of the page, and not of the request, because a
// page that is sent twice means one order.
func newToken() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// render returns a page's HTML.
func (p page) render() ([]byte, error) {
	var b bytes.Buffer
	err := layout.Execute(&b, p)
	return b.Bytes(), err
}

// send renders a page as the answer.
func (s *store) send(w http.ResponseWriter, r *http.Request, p page) {
	html, err := p.render()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	sendHTML(w, html)
}

func sendHTML(w http.ResponseWriter, html []byte) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(html) // the buyer may have gone
}
