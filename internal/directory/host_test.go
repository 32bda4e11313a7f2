package directory_test

import (
	"strings"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
)

func TestHostsComeAndGo(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		ctx := t.Context()
		m.addShop(2, 2)
		wantShop := func(what, host string, want podworks.ShopID) {
			t.Helper()
			r, err := m.LookupHost(ctx, host)
			if want == 0 {
				checkIs(t, what, err, directory.ErrUnknownShop)
			} else if err != nil || r.Shop != want {
				t.Errorf("%s: %s is shop %d's (%v), want %d", what, host, r.Shop, err, want)
			}
		}
		for range 2 {
			checkIs(t, "AddHost", m.AddHost(ctx, 1, "one.example"), nil)
		}
		wantShop("added", "one.example", 1)
		checkIs(t, "AddHost of another's", m.AddHost(ctx, 2, "one.example"), directory.ErrExists)
		checkIs(t, "RemoveHost of another's", m.RemoveHost(ctx, 2, "one.example"), directory.ErrExists)
		wantShop("left alone", "one.example", 1)
		for range 2 {
			checkIs(t, "RemoveHost", m.RemoveHost(ctx, 1, "one.example"), nil)
		}
		checkIs(t, "RemoveHost of nobody's", m.RemoveHost(ctx, 1, "nobody.example"), nil)
		wantShop("removed", "one.example", 0)
		checkIs(t, "AddHost of one that was removed", m.AddHost(ctx, 2, "one.example"), nil)
		wantShop("given again", "one.example", 2)
		checkIs(t, "AddHost to an unknown shop", m.AddHost(ctx, 99, "x.example"), directory.ErrUnknownShop)

		// A move doesn't mind, and a closed shop keeps its hosts. A deleted one has none.
		mv := m.claim(2, 1)
		checkIs(t, "AddHost during a move", m.AddHost(ctx, 2, "two.example"), nil)
		checkIs(t, "Abort", m.Abort(ctx, mv.Token), nil)
		checkIs(t, "Finish", m.Finish(ctx, mv.Token), nil)
		_, err := m.CloseShop(ctx, 2)
		checkIs(t, "CloseShop", err, nil)
		wantShop("closed", "two.example", 2)
		checkIs(t, "AddHost to a closed shop", m.AddHost(ctx, 2, "deux.example"), nil)
		_, err = m.DeleteShop(ctx, 2)
		checkIs(t, "DeleteShop", err, nil)
		for _, host := range []string{"one.example", "two.example", "deux.example"} {
			wantShop("deleted", host, 0)
		}
		checkIs(t, "AddHost to a deleted shop", m.AddHost(ctx, 2, "two.example"), directory.ErrClosed)
		checkIs(t, "AddHost of a deleted shop's", m.AddHost(ctx, 1, "two.example"), nil)
		wantShop("inherited", "two.example", 1)
	})
}

func TestHostsThatNoRequestCanName(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"a", "shop.example", "xn--mnchen-3ya.example", "my_shop.example", "127.0.0.1", "::1", "2001:db8::1", strings.Repeat("x", 255)} {
		if err := directory.CheckHost(host); err != nil {
			t.Errorf("CheckHost(%q): %v", host, err)
		}
	}
	for _, host := range []string{"", ".", "shop.example.", ".example", "Shop.example", "shop.example:80", "[::1]", "a b", "münchen.example", "a/b", "a\n", strings.Repeat("x", 256)} {
		if err := directory.CheckHost(host); err == nil {
			t.Errorf("CheckHost(%q): got no error", host)
		}
	}
}
