package podworks_test

import (
	"context"
	"testing"

	"github.com/podworks/podworks"
)

type fakeTx struct{ name string }

func (*fakeTx) BeforeCommit(func(context.Context) error) {}
func (*fakeTx) AfterEnd(func(context.Context, error))    {}

func TestWhatAContextCarries(t *testing.T) {
	t.Parallel()
	empty := t.Context()
	if r, ok := podworks.RouteFrom(empty); ok || r != (podworks.Route{}) {
		t.Errorf("RouteFrom of an empty context = %v, %v; want none", r, ok)
	}
	if s, ok := podworks.ShopFrom(empty); ok || s != 0 {
		t.Errorf("ShopFrom of an empty context = %v, %v; want none", s, ok)
	}
	if tx, ok := podworks.TxFrom(empty); ok || tx != nil {
		t.Errorf("TxFrom of an empty context = %v, %v; want none", tx, ok)
	}

	first := podworks.Route{Shop: 1, Pod: 2, Region: "r", Epoch: 3}
	second := podworks.Route{Shop: 1, Pod: 3, Region: "r", Epoch: 4}
	outer := podworks.WithRoute(empty, first)
	inner := podworks.WithRoute(outer, second)
	for ctx, want := range map[context.Context]podworks.Route{outer: first, inner: second} {
		if got, ok := podworks.RouteFrom(ctx); !ok || got != want {
			t.Errorf("RouteFrom = %v, %v; want %v", got, ok, want)
		}
		if got, ok := podworks.ShopFrom(ctx); !ok || got != 1 {
			t.Errorf("ShopFrom = %v, %v; want 1", got, ok)
		}
	}

	tx := &fakeTx{"tx"}
	ctx := podworks.WithTx(inner, tx)
	if got, ok := podworks.TxFrom(ctx); !ok || got != podworks.Tx(tx) {
		t.Errorf("TxFrom = %v, %v; want %v", got, ok, tx)
	}
	if got, _ := podworks.RouteFrom(ctx); got != second {
		t.Errorf("beside a transaction, RouteFrom = %v, want %v", got, second)
	}
}
