package librarytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/examples/libraries/shop"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

// A Library is one way of putting a repository on a shop's scope.
type Library struct {
	// On returns the repository of the scope's shop.
	On func(*sharding.Scope) shop.Repository

	// Hold returns a read through a handle, or a prepared statement, that was
	// made before it is called, as a program does that keeps one for too long.
	Hold func(context.Context, *sharding.Scope) (use func(context.Context) error, err error)

	// Own adds one product in the library's own kind of transaction, on the pool.
	// It may be nil.
	Own func(context.Context, *sharding.Scope) error
}

// Run tells the story on both families.
func Run(t *testing.T, l Library) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := Shared(t, f)
		for _, c := range []struct {
			name string
			run  func(*testing.T, *World, Library)
		}{
			{"SellsFromItsPod", sells},
			{"RollsBackOnError", rollsBack},
			{"NestsInSavepoints", nests},
			{"RunsTheHooksOfTheTransaction", hooks},
			{"RefusesWhatHasNoScope", noScope},
			{"RefusesAReleasedScope", released},
			{"RefusesAnotherPodsShop", otherShop},
			{"RefusesAnotherShopOfTheSamePodInATransaction", samePod},
			{"GoesOnAfterAMove", moved},
			{"WaitsOutAMove", waits},
			{"FencesTheLibrarysOwnTransactions", own},
			{"KeepsManyShopsApart", apart},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.run(t, w, l)
			})
		}
	})
}

// sells is an ordinary day.
func sells(t *testing.T, w *World, l Library) {
	one, two := w.Shop(t, 1), w.Shop(t, 2)
	for pod, id := range map[podworks.PodID]podworks.ShopID{1: one, 2: two} {
		s := w.Acquire(t, id)
		r := l.On(s)
		hat := add(t, s, r, "hat", 3)
		mug := add(t, s, r, "mug", 5)
		if want := int64(pod); hat%1024 != want || mug%1024 != want || hat >= mug {
			t.Errorf("the ids are %d and %d, want rising ones of pod %d's", hat, mug, pod)
		}
		if order, err := r.Sell(s, hat, 2); err != nil || order%1024 != int64(pod) {
			t.Errorf("Sell = %d, %v; want an id of pod %d's", order, err, pod)
		}
		want := []shop.Product{{ID: hat, Name: "hat", Stock: 1}, {ID: mug, Name: "mug", Stock: 5}}
		wantProducts(t, s, r, want...)

		var streamed []shop.Product
		if err := r.Each(s, func(p shop.Product) error { streamed = append(streamed, p); return nil }); err != nil || !slices.Equal(streamed, want) {
			t.Errorf("Each saw %v (%v), want %v", streamed, err, want)
		}
		enough := errors.New("enough")
		seen := 0
		err := r.Each(s, func(shop.Product) error { seen++; return enough })
		checkIs(t, "Each whose function fails", err, enough)
		if seen != 1 {
			t.Errorf("Each went on for %d products after an error, want 1 in all", seen)
		}
		w.WantRows(t, pod, id, 2, 1)
		w.WantRows(t, 3-pod, id, 0, 0)
	}
}

func rollsBack(t *testing.T, w *World, l Library) {
	s := w.Acquire(t, w.Shop(t, 1))
	r := l.On(s)
	hat := add(t, s, r, "hat", 3)
	_, err := r.Sell(s, hat, 4)
	checkIs(t, "selling more than there is", err, shop.ErrSoldOut)
	w.WantRows(t, 1, s.Shop(), 1, 0)
	wantProducts(t, s, r, shop.Product{ID: hat, Name: "hat", Stock: 3})
}

// nests sells a cart of which one thing is sold out: that alone is undone.
func nests(t *testing.T, w *World, l Library) {
	s := w.Acquire(t, w.Shop(t, 1))
	r := l.On(s)
	hat, mug := add(t, s, r, "hat", 3), add(t, s, r, "mug", 0)
	err := s.Tx(s, func(ctx context.Context, _ *sharding.Tx) error {
		if _, err := r.Sell(ctx, hat, 1); err != nil {
			return err
		}
		_, err := r.Sell(ctx, mug, 1)
		checkIs(t, "selling what there is none of", err, shop.ErrSoldOut)
		_, err = r.Sell(ctx, hat, 1)
		return err
	})
	checkIs(t, "selling a cart", err, nil)
	w.WantRows(t, 1, s.Shop(), 2, 2)
	wantProducts(t, s, r, shop.Product{ID: hat, Name: "hat", Stock: 1}, shop.Product{ID: mug, Name: "mug", Stock: 0})
}

func hooks(t *testing.T, w *World, l Library) {
	s := w.Acquire(t, w.Shop(t, 1))
	r := l.On(s)
	hat := add(t, s, r, "hat", 3)
	for i, want := range []error{nil, errors.New("the payment failed")} {
		var ended []error
		err := s.Tx(s, func(ctx context.Context, tx *sharding.Tx) error {
			tx.AfterEnd(func(_ context.Context, err error) { ended = append(ended, err) })
			tx.BeforeCommit(func(context.Context) error { return want })
			_, err := r.Sell(ctx, hat, 1)
			return err
		})
		checkIs(t, "selling", err, want)
		if len(ended) != 1 || !errors.Is(ended[0], want) {
			t.Errorf("AfterEnd was told %v, want once %v", ended, want)
		}
		w.WantRows(t, 1, s.Shop(), 1, 1)
		if i == 1 {
			wantProducts(t, s, r, shop.Product{ID: hat, Name: "hat", Stock: 2})
		}
	}
}

// calls are all of a repository's.
func calls(r shop.Repository, product int64) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Add":      func(ctx context.Context) error { _, err := r.Add(ctx, "scarf", 1); return err },
		"Products": func(ctx context.Context) error { _, err := r.Products(ctx); return err },
		"Each":     func(ctx context.Context) error { return r.Each(ctx, func(shop.Product) error { return nil }) },
		"Sell":     func(ctx context.Context) error { _, err := r.Sell(ctx, product, 1); return err },
	}
}

// The error comes out of the library as it went in.
func noScope(t *testing.T, w *World, l Library) {
	s := w.Acquire(t, w.Shop(t, 1))
	r := l.On(s)
	hat := add(t, s, r, "hat", 3)
	for name, call := range calls(r, hat) {
		checkIs(t, name+" with a context that has no scope", call(t.Context()), sharding.ErrNoScope)
	}
	w.WantRows(t, 1, s.Shop(), 1, 0)
}

func released(t *testing.T, w *World, l Library) {
	s, err := w.Cluster.Acquire(t.Context(), w.Shop(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	r := l.On(s)
	hat := add(t, s, r, "hat", 3)
	s.Release()
	for name, call := range calls(r, hat) {
		checkIs(t, name+" after the scope's release", call(s), sharding.ErrReleased)
	}
	w.WantRows(t, 1, s.Shop(), 1, 0)
}

func otherShop(t *testing.T, w *World, l Library) {
	one, two := w.Acquire(t, w.Shop(t, 1)), w.Acquire(t, w.Shop(t, 2))
	r := l.On(one)
	hat := add(t, one, r, "hat", 3)
	for name, call := range calls(r, hat) {
		err := call(two)
		var cross *sharding.CrossPodError
		if !errors.As(err, &cross) || cross.Scope.Shop != two.Shop() || cross.Use.Pod != 1 {
			t.Errorf("%s of shop %d in pod 1 with the scope of shop %d: got %v, want a CrossPodError that says so", name, one.Shop(), two.Shop(), err)
		}
	}
	w.WantRows(t, 1, one.Shop(), 1, 0)
	w.WantRows(t, 2, one.Shop(), 0, 0)
}

// samePod sells with the context of another shop of the pod: the sale would go
// under the other shop's fence, and be lost when the shop is moved meanwhile.
func samePod(t *testing.T, w *World, l Library) {
	one, other := w.Acquire(t, w.Shop(t, 1)), w.Acquire(t, w.Shop(t, 1))
	r := l.On(one)
	hat := add(t, one, r, "hat", 3)
	_, err := r.Sell(other, hat, 1)
	checkIs(t, "a sale with the context of another shop of the pod", err, sharding.ErrCrossPod)
	w.WantRows(t, 1, one.Shop(), 1, 0)
}

// moved is a request whose shop moves between two of its statements.
func moved(t *testing.T, w *World, l Library) {
	s := w.Acquire(t, w.Shop(t, 1))
	r := l.On(s)
	hat := add(t, s, r, "hat", 3)
	held, err := l.Hold(s, s)
	if err != nil {
		t.Fatal(err)
	}
	checkIs(t, "a held handle", held(s), nil)
	w.Move(t, s.Shop(), 2, nil)

	// Reads are not fenced: they see the old pod's rows until the process hears of
	// the move. A single write can't wait, and is refused.
	wantProducts(t, s, r, shop.Product{ID: hat, Name: "hat", Stock: 3})
	_, err = r.Add(s, "mug", 5)
	checkIs(t, "a single write after the move", err, sharding.ErrMoved)
	w.WantRows(t, 1, s.Shop(), 1, 0)
	w.WantRows(t, 2, s.Shop(), 1, 0)

	// Scope.Tx finds out, and goes on in the new pod. So does all that follows.
	_, err = r.Sell(s, hat, 2)
	checkIs(t, "a sale after the move", err, nil)
	mug := add(t, s, r, "mug", 5)
	wantProducts(t, s, r, shop.Product{ID: hat, Name: "hat", Stock: 1}, shop.Product{ID: mug, Name: "mug", Stock: 5})
	w.WantRows(t, 1, s.Shop(), 1, 0)
	w.WantRows(t, 2, s.Shop(), 2, 1)
	checkIs(t, "a handle from before the move", held(s), sharding.ErrStale)
}

// waits is a sale that begins while the mover has the fence.
func waits(t *testing.T, w *World, l Library) {
	s := w.Acquire(t, w.Shop(t, 1))
	r := l.On(s)
	hat := add(t, s, r, "hat", 3)
	sold := make(chan error, 1)
	w.Move(t, s.Shop(), 2, func() {
		go func() {
			_, err := r.Sell(s, hat, 2)
			sold <- err
		}()
		if err := w.AwaitWaiter(t.Context(), 1); err != nil {
			t.Error(err)
		}
	})
	checkIs(t, "the sale", <-sold, nil)
	w.WantRows(t, 1, s.Shop(), 1, 0)
	w.WantRows(t, 2, s.Shop(), 1, 1)
	wantProducts(t, s, r, shop.Product{ID: hat, Name: "hat", Stock: 1})
}

// own is for code that hasn't come to Scope.Tx yet: as safe, but not as patient.
func own(t *testing.T, w *World, l Library) {
	if l.Own == nil {
		t.Skip("the library has no transactions of its own")
	}
	s := w.Acquire(t, w.Shop(t, 1))
	checkIs(t, "the library's transaction", l.Own(s, s), nil)
	w.WantRows(t, 1, s.Shop(), 1, 0)
	w.Move(t, s.Shop(), 2, nil)
	checkIs(t, "the library's transaction after a move", l.Own(s, s), sharding.ErrMoved)
	w.WantRows(t, 1, s.Shop(), 1, 0)
	w.WantRows(t, 2, s.Shop(), 1, 0)

	// Who does the work again, in a scope of its own, does it in the new pod.
	if _, err := w.Cluster.Directory().Fresh(t.Context(), s.Shop()); err != nil {
		t.Fatal(err)
	}
	again := w.Acquire(t, s.Shop())
	checkIs(t, "the same again", l.Own(again, again), nil)
	w.WantRows(t, 2, s.Shop(), 2, 0)
}

// apart runs the units of work of six shops at once, and moves two of the shops
// meanwhile.
func apart(t *testing.T, w *World, l Library) {
	const workers, rounds = 3, 6
	type books struct {
		hat         int64
		adds, sales atomic.Int64
	}
	shops := map[podworks.ShopID]*books{}
	var moving []podworks.ShopID
	for i := range 6 {
		pod := podworks.PodID(1 + i%2)
		id := w.Shop(t, pod)
		s := w.Acquire(t, id)
		shops[id] = &books{hat: add(t, s, l.On(s), "hat", 1000)}
		s.Release()
		if i < 2 {
			moving = append(moving, id)
		}
	}

	var wg sync.WaitGroup
	work := func(id podworks.ShopID, b *books, name string) error {
		return w.Cluster.Do(t.Context(), id, func(ctx context.Context, s *sharding.Scope) error {
			r := l.On(s)
			if _, err := r.Sell(ctx, b.hat, 1); err != nil {
				return fmt.Errorf("selling: %w", err)
			}
			b.sales.Add(1)
			switch _, err := r.Add(ctx, name, 1); {
			case err == nil:
				b.adds.Add(1)
			case !errors.Is(err, sharding.ErrMoved): // nothing was written
				return fmt.Errorf("adding: %w", err)
			}
			list, err := r.Products(ctx)
			if err != nil {
				return fmt.Errorf("listing: %w", err)
			}
			for _, p := range list {
				if p.Name != "hat" && !strings.HasPrefix(p.Name, fmt.Sprintf("%d-", id)) {
					return fmt.Errorf("shop %d sees %q", id, p.Name)
				}
			}
			return nil
		})
	}
	half := make(chan struct{}, workers*rounds*len(shops))
	for id, b := range shops {
		for n := range workers {
			wg.Go(func() {
				for i := range rounds {
					if err := work(id, b, fmt.Sprintf("%d-%d-%d", id, n, i)); err != nil {
						t.Errorf("shop %d: %v", id, err)
					}
					half <- struct{}{}
				}
			})
		}
	}
	// In the middle of it.
	for range cap(half) / 3 {
		<-half
	}
	left := map[podworks.ShopID][2]int{}
	for _, id := range moving {
		from := w.pod(t, id)
		w.Move(t, id, 3-from, func() {
			products, orders := w.Rows(t, from, id)
			left[id] = [2]int{products, orders}
		})
	}
	wg.Wait()

	for id, b := range shops {
		at := w.pod(t, id)
		products, orders := 1+int(b.adds.Load()), int(b.sales.Load())
		w.WantRows(t, at, id, products, orders)
		w.WantRows(t, 3-at, id, left[id][0], left[id][1])
		s := w.Acquire(t, id)
		list, err := l.On(s).Products(s)
		if err != nil || len(list) != products || list[0].Stock != 1000-orders {
			t.Errorf("shop %d has %d products, the first being %v (%v); want %d, with a stock of %d", id, len(list), list[:min(1, len(list))], err, products, 1000-orders)
		}
		if orders != workers*rounds {
			t.Errorf("shop %d sold %d times, want %d", id, orders, workers*rounds)
		}
	}
}

// pod returns where the directory says a shop is.
func (w *World) pod(t testing.TB, id podworks.ShopID) podworks.PodID {
	t.Helper()
	r, err := w.store.Lookup(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return r.Pod
}

func add(t testing.TB, ctx context.Context, r shop.Repository, name string, stock int) int64 {
	t.Helper()
	id, err := r.Add(ctx, name, stock)
	if err != nil {
		t.Fatalf("Add(%s): %v", name, err)
	}
	return id
}

func wantProducts(t testing.TB, ctx context.Context, r shop.Repository, want ...shop.Product) {
	t.Helper()
	got, err := r.Products(ctx)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("Products = %v, %v; want %v", got, err, want)
	}
}

// checkIs fails the test if err is not want.
func checkIs(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}
