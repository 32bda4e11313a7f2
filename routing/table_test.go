package routing

import (
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks"
)

func TestHostVariantsAreOneHost(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"shop.example":         "shop.example",
		"shop.example:8080":    "shop.example",
		"shop.example:":        "shop.example",
		"shop.example.":        "shop.example",
		"shop.example.:443":    "shop.example",
		"SHOP.Example":         "shop.example",
		"Shop.EXAMPLE.:80":     "shop.example",
		"xn--caf-dma.example":  "xn--caf-dma.example",
		"127.0.0.1:80":         "127.0.0.1",
		"[::1]":                "::1",
		"[::1]:8080":           "::1",
		"::1":                  "::1",
		"[2001:DB8::1]:80":     "2001:db8::1",
		"\u212Aiosk.example":   "\u212Aiosk.example", // the Kelvin sign is no k
		"":                     "",
		".":                    "",
		":80":                  "",
		"shop.example..":       "",
		"shop.example:http":    "",
		"shop.example:80:http": "shop.example:80:http", // no IPv6 address either, but harmless: it is looked up and not found
		"[::1":                 "",
		"[::1]8080":            "",
		"[shop.example]":       "",
		"[[::1]]":              "",
		"shop]example":         "",
	} {
		if got := normalize(in); got != want {
			t.Errorf("normalize(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzNormalize(f *testing.F) {
	for _, s := range []string{"", "a", "A.b.:80", "[::1]:80", "[", "]", "a:b:c", "a..", ":", "[:]", "[:].:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		once := normalize(host)
		if twice := normalize(once); twice != once {
			t.Errorf("normalize(%q) = %q, and of that %q: a table could not be asked for its own keys", host, once, twice)
		}
		if strings.ContainsAny(once, "ABCDEFGHIJKLMNOPQRSTUVWXYZ[]") || strings.HasSuffix(once, ".") {
			t.Errorf("normalize(%q) = %q, want no capitals, brackets or trailing dot", host, once)
		}
	})
}

func TestTheNextTable(t *testing.T) {
	t.Parallel()
	r := func(shop podworks.ShopID, pod podworks.PodID, epoch podworks.Epoch) podworks.Route {
		return podworks.Route{Shop: shop, Pod: pod, Region: "east", Epoch: epoch}
	}
	west := r(1, 1, 2)
	west.Region = "west"
	gone := podworks.Route{}

	// Every story starts from a.example and b.example leading to shop 1 at epoch
	// 2, and c.example to shop 2.
	base := []row{{"a.example", r(1, 1, 2)}, {"b.example", r(1, 1, 2)}, {"c.example", r(2, 2, 1)}}
	tests := map[string]struct {
		rows                              []row
		a, b, c, d                        podworks.Route
		stale, malformed, hostsMoreOrLess int
	}{
		"nothing changed": {
			a: r(1, 1, 2), b: r(1, 1, 2), c: r(2, 2, 1)},
		"a move changes all hosts of the shop": {
			rows: []row{{"a.example", r(1, 2, 3)}},
			a:    r(1, 2, 3), b: r(1, 2, 3), c: r(2, 2, 1)},
		"a failover changes the region without the epoch": {
			rows: []row{{"a.example", west}},
			a:    west, b: west, c: r(2, 2, 1)},
		"an older epoch is refused": {
			rows: []row{{"a.example", r(1, 3, 1)}},
			a:    r(1, 1, 2), b: r(1, 1, 2), c: r(2, 2, 1), stale: 1},
		"of two epochs in one answer the newer counts, in either order": {
			rows: []row{{"a.example", r(1, 4, 4)}, {"b.example", r(1, 3, 3)}, {"c.example", r(2, 3, 2)}, {"c.example", r(2, 4, 3)}},
			a:    r(1, 4, 4), b: r(1, 4, 4), c: r(2, 4, 3), stale: 1},
		"a host that is gone is gone, its shop's others stay": {
			rows: []row{{"a.example", gone}},
			b:    r(1, 1, 2), c: r(2, 2, 1), hostsMoreOrLess: -1},
		"a host that was not there can go": {
			rows: []row{{"d.example", gone}},
			a:    r(1, 1, 2), b: r(1, 1, 2), c: r(2, 2, 1)},
		"a host changes hands": {
			rows: []row{{"a.example", r(2, 2, 1)}},
			a:    r(2, 2, 1), b: r(1, 1, 2), c: r(2, 2, 1)},
		"a new host of a shop known to be newer gets the newer route": {
			rows: []row{{"d.example", r(1, 9, 1)}},
			a:    r(1, 1, 2), b: r(1, 1, 2), c: r(2, 2, 1), d: r(1, 1, 2), stale: 1, hostsMoreOrLess: 1},
		"a shop without hosts keeps its epoch": {
			rows: []row{{"c.example", r(2, 2, 5)}, {"c.example", gone}, {"d.example", r(2, 9, 4)}},
			a:    r(1, 1, 2), b: r(1, 1, 2), d: r(2, 2, 5), stale: 1},
		"host names are normalised": {
			rows: []row{{"D.Example.:80", r(3, 1, 1)}},
			a:    r(1, 1, 2), b: r(1, 1, 2), c: r(2, 2, 1), d: r(3, 1, 1), hostsMoreOrLess: 1},
		"a malformed row doesn't keep the others out": {
			rows: []row{
				{"", r(3, 1, 1)}, {"d.example..", r(3, 1, 1)},
				{"d.example", r(0, 1, 1)}, {"d.example", r(3, 0, 1)}, {"d.example", r(3, 1, 0)}, {"d.example", podworks.Route{Region: "east"}},
				{"a.example", r(1, 2, 3)}},
			a: r(1, 2, 3), b: r(1, 2, 3), c: r(2, 2, 1), malformed: 6},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, _ := (*table)(nil).next(1, time.Time{}, base)
			next, sum := first.next(2, time.Time{}, tt.rows)
			for host, want := range map[string]podworks.Route{"a.example": tt.a, "b.example": tt.b, "c.example": tt.c, "d.example": tt.d} {
				got, ok := next.lookup(host)
				if got != want || ok != (want != gone) {
					t.Errorf("%s leads to %+v, %t; want %+v", host, got, ok, want)
				}
			}
			if got, want := len(next.hosts), 3+tt.hostsMoreOrLess; got != want {
				t.Errorf("the table has %d hosts, want %d", got, want)
			}
			if sum.stale != tt.stale || sum.malformed != tt.malformed || (sum.err != nil) != (tt.malformed > 0) {
				t.Errorf("%d stale, %d malformed, error %v; want %d and %d", sum.stale, sum.malformed, sum.err, tt.stale, tt.malformed)
			}
			// The table before is as it was: somebody may be reading it.
			for _, row := range base {
				if got, _ := first.lookup(row.host); got != row.route {
					t.Errorf("afterwards the first table has %+v for %s, want %+v still", got, row.host, row.route)
				}
			}
		})
	}
}
