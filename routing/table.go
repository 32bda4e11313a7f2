package routing

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/podworks/podworks"
)

// A table is what one refresh left behind. It never changes: readers take it
// from an atomic pointer and see one state of the world, and the next refresh
// copies what it has to change.
//
// Hosts lead to shops and shops to routes, so that a move changes one entry and
// the hosts of one shop can't disagree. A shop stays after its last host has
// gone; its epoch is remembered that way.
type table struct {
	version uint64
	at      time.Time // of the refresh
	hosts   map[string]podworks.ShopID
	shops   map[podworks.ShopID]podworks.Route
}

// A row is one answer of a source.
type row struct {
	host  string
	route podworks.Route
}

// A tally says what became of the rows of one answer.
type tally struct {
	stale     int   // older than a route known before
	malformed int   // not to be used
	err       error // what is wrong with the first malformed one
}

// lookup returns the route of a host in normal form.
func (t *table) lookup(host string) (podworks.Route, bool) {
	shop, ok := t.hosts[host]
	if !ok {
		return podworks.Route{}, false
	}
	return t.shops[shop], true
}

// next returns the table that rows make of t, which is nil before the first.
//
// A row of an older epoch than the shop's known one comes from a replica that is
// behind. Its route is refused. Its host is believed: should it be out of date as
// well, then the version that came with it is too, and the source will be asked
// again for all that happened since. Refusing the host instead could lose a
// change that nobody repeats.
func (t *table) next(version uint64, at time.Time, rows []row) (*table, tally) {
	var n table
	if t != nil {
		n = *t
	}
	n.version, n.at = version, at

	var sum tally
	var hostsCopied, shopsCopied bool
	for _, row := range rows {
		host := normalize(row.host)
		r := row.route
		gone := r == podworks.Route{}
		if host == "" || !gone && (r.Shop == 0 || r.Pod == 0 || r.Epoch == 0) {
			if sum.malformed == 0 {
				sum.err = fmt.Errorf("host %q with %+v: want a host name, and a shop, a pod and an epoch", row.host, r)
			}
			sum.malformed++
			continue
		}

		if shop, ok := n.hosts[host]; ok == gone || shop != r.Shop {
			n.hosts = own(n.hosts, &hostsCopied)
			if gone {
				delete(n.hosts, host)
			} else {
				n.hosts[host] = r.Shop
			}
		}
		if gone {
			continue
		}
		switch known := n.shops[r.Shop]; {
		case known.Epoch > r.Epoch:
			sum.stale++
		case known != r:
			n.shops = own(n.shops, &shopsCopied)
			n.shops[r.Shop] = r
		}
	}
	return &n, sum
}

// own returns m the first time as a copy that may be changed.
func own[K comparable, V any](m map[K]V, copied *bool) map[K]V {
	if *copied {
		return m
	}
	*copied = true
	if m == nil {
		return make(map[K]V)
	}
	return maps.Clone(m)
}

// normalize returns the form in which a host is looked up: in lower case,
// without port, trailing dot, or the brackets of an IPv6 address. It returns ""
// for what can't be a host, and allocates only to change case.
func normalize(host string) string {
	if strings.HasPrefix(host, "[") {
		// "[::1]:8080", "[::1]"
		addr, port, ok := strings.Cut(host[1:], "]")
		if !ok || strings.Count(addr, ":") < 2 || port != "" && (port[0] != ':' || !digits(port[1:])) {
			return ""
		}
		host = addr
	} else if i := strings.IndexByte(host, ':'); i >= 0 {
		switch {
		case strings.IndexByte(host[i+1:], ':') >= 0: // "::1", as a table may have it
		case !digits(host[i+1:]):
			return ""
		default:
			host = host[:i]
		}
	}
	host = strings.TrimSuffix(host, ".")
	if strings.HasSuffix(host, ".") || strings.ContainsAny(host, "[]") {
		return ""
	}
	return lower(host)
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// lower is strings.ToLower for ASCII, and leaves the rest alone. Unicode has
// letters that become ASCII in lower case (the Kelvin sign becomes k), and
// no other name may turn into a shop's.
func lower(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if 'A' <= b[i] && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
