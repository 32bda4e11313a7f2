package ferry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/flavor"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// A log is written as words: b3 is a Begin at place 3, c4 a Commit that ends at 4, r a
// Restart, and s a Statement. A ' is a place on another server.
func loggedAs(t *testing.T, text string) (events []binlog.Event) {
	t.Helper()
	for word := range strings.FieldsSeq(text) {
		at := binlog.Position{File: "log.000001", Server: "a"}
		if strings.HasSuffix(word, "'") {
			at.Server = "b"
		}
		_, _ = fmt.Sscan(strings.Trim(word, "bcrs'"), &at.Offset)
		switch word[0] {
		case 'b':
			events = append(events, &binlog.Begin{Position: at})
		case 'c':
			events = append(events, &binlog.Commit{Position: at})
		case 'r':
			events = append(events, &binlog.Restart{})
		case 's':
			events = append(events, &binlog.Statement{})
		default:
			t.Fatalf("what is %q?", word)
		}
	}
	return events
}

func asText(events []binlog.Event) string {
	var words []string
	for _, ev := range events {
		switch ev := ev.(type) {
		case *binlog.Begin:
			words = append(words, fmt.Sprintf("b%d", ev.Position.Offset))
		case *binlog.Commit:
			words = append(words, fmt.Sprintf("c%d", ev.Position.Offset))
		case *binlog.Restart:
			words = append(words, "r")
		case *binlog.Statement:
			words = append(words, "s")
		}
	}
	return strings.Join(words, " ")
}

func TestAMoveBeginsAtItsPlaceInTheHubsLog(t *testing.T) {
	t.Parallel()
	failed := errors.New("the log is gone")
	for _, test := range []struct {
		name          string
		before, after string // the move joins
		from          string // as the Begin of a log
		letGo         bool
		failed        error
		want          string
		at            uint64 // where it goes on
		err           error
	}{
		{name: "nothing was told before", after: "b4 s c5 b6 c7", from: "b4", want: "b4 s c5 b6 c7", at: 7, err: failed, failed: failed},
		{name: "the place is behind", before: "b1 c2", after: "b2 s c3 b4 s c5 b7 c8", from: "b6", want: "b7 c8", at: 8, err: failed, failed: failed},
		{name: "it joins in a transaction", before: "b1 c2 b2 s", after: "s c3 b3 c4", from: "b3", want: "b3 c4", at: 4, err: failed, failed: failed},
		{name: "which comes again", before: "b1 c2 b2 s", after: "s r b2 s s c3 b3 c4", from: "b3", want: "b3 c4", at: 4, err: failed, failed: failed},
		{name: "a transaction comes again", after: "b4 s r b4 s c5", from: "b4", want: "b4 s r b4 s c5", at: 5, err: failed, failed: failed},
		{name: "the hub has passed the place", before: "b1 c2", after: "b2 c3", from: "b1", at: 1, err: errAlone},
		{name: "or is in the transaction there", before: "b1 c2 b2", after: "s c3", from: "b2", at: 2, err: errAlone},
		{name: "the place is on another server", before: "b1 c2", after: "b2 c3", from: "b2'", at: 2, err: errAlone},
		{name: "a failover before the place", before: "b1 c2", after: "b2 s r b1' s c2'", from: "b4", at: 4, err: errAlone},
		{name: "a failover behind it", before: "b1 c2", after: "b4 s r b1' s c2'", from: "b4", want: "b4 s r b1 s c2", at: 2, err: failed, failed: failed},
		{name: "the hub ends before the place", before: "b1 c2", after: "b2 c3", from: "b4", at: 4, err: errAlone, failed: failed},
		{name: "let go between two transactions", after: "b4 c5", from: "b4", letGo: true, want: "b4 c5", at: 5, err: errAlone},
		{name: "let go in one", after: "b4 c5 b5 s", from: "b4", letGo: true, want: "b4 c5 b5 s r", at: 5, err: errAlone},
	} {
		h := &hub{room: make(chan struct{}, 1), ready: make(chan struct{})}
		h.at = binlog.Position{File: "log.000001", Offset: 1, Server: "a"}
		give := func(text string) {
			for _, ev := range loggedAs(t, text) {
				if err := h.give(t.Context(), ev); err != nil {
					t.Fatal(err)
				}
			}
		}
		give(test.before)
		l := h.join()
		give(test.after)
		if test.letGo {
			h.join()
			l.bytes = maxHeard + 1
			give("s")
		}
		if test.failed != nil {
			h.fail(test.failed)
		}
		from := loggedAs(t, test.from)[0].(*binlog.Begin).Position
		var got []binlog.Event
		at, err := l.follow(t.Context(), from, func(ev binlog.Event) error {
			got = append(got, ev)
			return nil
		})
		if text := asText(got); text != test.want || at.Offset != test.at || !errors.Is(err, test.err) {
			t.Errorf("%s: got %q and then %v from %d; want %q, %v, %d", test.name, text, err, at.Offset, test.want, test.err, test.at)
		}
	}
}

// A hubWorld is a pod whose log several moves follow, without copying anything.
type hubWorld struct {
	t   *testing.T
	f   *Ferry
	src *server
	now map[string]*table
}

func newHubWorld(t *testing.T, server *testcluster.MySQLServer) *hubWorld {
	t.Helper()
	f, err := New(Tables{}, map[podworks.PodID]*mysql.Config{1: server.Config(testcluster.Database(t, server))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := &hubWorld{t: t, f: f}
	if w.src, err = f.open(1); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.src.db.Close() })
	w.exec(`CREATE TABLE products (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, name LONGTEXT NOT NULL, PRIMARY KEY (shop_id, id))`)
	if w.now, err = describe(t.Context(), w.src.db); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *hubWorld) exec(query string, args ...any) {
	w.t.Helper()
	if _, err := w.src.db.ExecContext(w.t.Context(), query, args...); err != nil {
		w.t.Fatalf("%s: %v", query, err)
	}
}

// move returns what follows the log for a shop.
func (w *hubWorld) move(shop podworks.ShopID, token uint64) *move {
	w.t.Helper()
	m := &move{f: w.f, src: w.src, shop: shop, token: token, log: slog.New(slog.DiscardHandler)}
	var err error
	if m.flavor, err = flavor.Detect(w.t.Context(), w.src.db); err != nil {
		w.t.Fatal(err)
	}
	products := *w.now["products"]
	products.shop = products.column("shop_id")
	if err := products.belong(int64(shop)); err != nil {
		w.t.Fatal(err)
	}
	products.identify()
	products.place = 0
	m.tables = []*table{&products}
	return m
}

// hear follows the log from a place to the move's marker, and returns what it hears.
func hear(ctx context.Context, m *move, from binlog.Position, before func(group)) (groups []string, err error) {
	enough := errors.New("enough")
	err = m.tail(ctx, from, func(_ context.Context, g group) error {
		if before != nil {
			before(g)
		}
		groups = append(groups, fmt.Sprintf("%d changes %v marker %d end %s part %t undone %t", len(g.changes), g.changes, g.marker, g.end, g.part, g.undone))
		if g.marker != 0 {
			return enough
		}
		return nil
	})
	if errors.Is(err, enough) {
		err = nil
	}
	return groups, err
}

// While shops are written to at random, moves join and leave a hub. Each hears the
// very groups that a stream of its own gives.
func TestAMoveHearsWhatAStreamOfItsOwnGives(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, family testcluster.Family) {
		for _, off := range []bool{false, true} {
			t.Run(map[bool]string{false: "protected", true: "unprotected"}[off], func(t *testing.T) {
				t.Parallel()
				seed := uint64(time.Now().UnixNano())
				if text := os.Getenv("PODWORKS_SEED"); text != "" {
					if _, err := fmt.Sscan(text, &seed); err != nil {
						t.Fatal(err)
					}
				}
				t.Logf("PODWORKS_SEED=%d", seed)
				w := newHubWorld(t, testcluster.Shared(t, family, "source"))
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				var writers sync.WaitGroup
				stop := make(chan struct{})
				for i := range uint64(2) {
					rnd := rand.New(rand.NewPCG(seed, i))
					writers.Go(func() {
						for {
							select {
							case <-stop:
								return
							default:
								w.write(ctx, rnd)
							}
						}
					})
				}
				defer writers.Wait()
				defer close(stop)

				// One keeps the hub from ending, so that the others join in the middle.
				first := w.move(8, 1)
				leave := first.listen(ctx)
				defer leave()
				hooked := hook.With(ctx, &hook.Set{Off: map[hook.Protection]bool{offDrop: off}})
				var moves sync.WaitGroup
				var mu sync.Mutex
				differ := 0
				for i := range uint64(6) {
					moves.Go(func() {
						m, own := w.move(7, 100+i), w.move(7, 100+i)
						leave := m.listen(hooked)
						defer leave()
						l := m.heard
						// It comes between the joining and the place.
						if _, err := w.src.db.ExecContext(ctx, `REPLACE INTO products VALUES (7, 100, ?)`, i); err != nil {
							t.Error(err)
							return
						}
						from, err := m.logEnd(hooked)
						if err != nil {
							t.Error(err)
							return
						}
						var got, want []string
						var errs [3]error
						var both sync.WaitGroup
						both.Go(func() {
							got, errs[0] = hear(hooked, m, from, func(g group) {
								l.h.mu.Lock()
								defer l.h.mu.Unlock()
								if l.gone && g.marker != 0 {
									t.Errorf("move %d from %s has read the log alone", i, from)
								}
							})
						})
						both.Go(func() {
							// A server reads its place in two steps, the GTIDs first, so these
							// may lack what ends there in the file. A stream of the move's own
							// gives it then and a hub doesn't; it is in the log by now.
							before := 0
							want, errs[1] = hear(hooked, own, from, func(g group) {
								if order, ok := g.end.Compare(from); ok && order <= 0 {
									before++
								}
							})
							want = want[min(before, len(want)):]
						})
						for range 20 {
							w.write(ctx, rand.New(rand.NewPCG(seed, 1000+i)))
						}
						_, errs[2] = w.src.db.ExecContext(ctx, `INSERT INTO podworks_marker VALUES (?, 1)`, m.token)
						both.Wait()
						if err := errors.Join(errs[:]...); err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						defer mu.Unlock()
						if !slices.Equal(got, want) {
							differ++
							if !off {
								t.Errorf("move %d from %s: got %d groups\n%.2000s\nwant %d\n%.2000s", i, from, len(got), strings.Join(got, "\n"), len(want), strings.Join(want, "\n"))
							}
						}
					})
				}
				moves.Wait()
				if off && differ == 0 {
					t.Error("without the protection all moves heard the same: this test shows nothing")
				}
			})
		}
	})
}

// write makes a random transaction.
func (w *hubWorld) write(ctx context.Context, rnd *rand.Rand) {
	tx, err := w.src.db.BeginTx(ctx, nil)
	if err != nil {
		return
	}
	defer tx.Rollback()
	for range 1 + rnd.IntN(4) {
		shop, id := 7+rnd.IntN(2), rnd.IntN(50)
		query := fmt.Sprintf(`REPLACE INTO products VALUES (%d, %d, '%x')`, shop, id, rnd.Uint64())
		if rnd.IntN(4) == 0 {
			query = fmt.Sprintf(`DELETE FROM products WHERE shop_id = %d AND id = %d`, shop, id)
		}
		if _, err := tx.ExecContext(ctx, query); err != nil {
			return // a deadlock
		}
	}
	if rnd.IntN(5) > 0 {
		_ = tx.Commit()
	}
}

// A move whose applier has to go back in the log does so alone. What the hub gives
// after that would be taken by nobody.
func TestAMoveThatGoesBackInTheLogHasLeftItsHub(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, family testcluster.Family) {
		w := newHubWorld(t, testcluster.Shared(t, family, "source"))
		other, m := w.move(8, 1), w.move(7, 2)
		defer other.listen(t.Context())()
		defer m.listen(t.Context())()
		l := m.heard
		from, err := m.logEnd(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w.exec(`INSERT INTO products VALUES (7, 1, 'a')`)
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		err = m.tail(ctx, from, func(ctx context.Context, _ group) error { // the applier ends in the middle
			cancel(errAgain)
			<-ctx.Done()
			return context.Cause(ctx)
		})
		if !errors.Is(err, errAgain) {
			t.Errorf("got %v, want %v", err, errAgain)
		}
		l.h.mu.Lock()
		defer l.h.mu.Unlock()
		if len(l.h.moves) != 1 || l.h.moves[0] != other.heard {
			t.Errorf("the hub has %d moves, want the other one alone", len(l.h.moves))
		}
	})
}

// A move that doesn't take what it hears is let go: others hear all, and so does it,
// later and by itself. While it is the only one it is waited for.
func TestAMoveThatIsSlowHoldsUpNobody(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, family testcluster.Family) {
		w := newHubWorld(t, testcluster.Shared(t, family, "source"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		slow, quick := w.move(7, 1), w.move(7, 1)
		leaveSlow := slow.listen(ctx)
		defer leaveSlow()
		from, err := slow.logEnd(ctx)
		if err != nil {
			t.Fatal(err)
		}
		stalled, goOn := make(chan struct{}), make(chan struct{})
		var slowly []string
		var slowErr error
		release := sync.OnceFunc(func() { close(goOn) })
		var wg sync.WaitGroup
		defer func() { cancel(); release(); wg.Wait() }()
		wg.Go(func() {
			var once sync.Once
			stop := sync.OnceFunc(func() { close(stalled) })
			defer stop() // if it fails before that
			slowly, slowErr = hear(ctx, slow, from, func(group) { once.Do(func() { stop(); <-goOn }) })
		})
		big := strings.Repeat("x", 1<<20)
		w.exec(`INSERT INTO products VALUES (7, 0, 'a')`)
		<-stalled
		h := slow.f.hubs.pods[1]
		for id := range 2 * maxHeard >> 20 {
			w.exec(`INSERT INTO products VALUES (7, ?, ?)`, 1+id, big)
		}
		listeners := func() (n int, bytes int) {
			h.mu.Lock()
			defer h.mu.Unlock()
			for _, l := range h.moves {
				bytes += l.bytes
			}
			return len(h.moves), bytes
		}
		for full := false; !full; {
			_, bytes := listeners()
			full = bytes > maxHeard
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				t.Fatal("waited for the queue to be full")
			}
		}
		if n, _ := listeners(); n != 1 {
			t.Errorf("the hub has %d moves, want the only one waited for", n)
		}

		leaveQuick := quick.listen(ctx)
		defer leaveQuick()
		place, err := quick.logEnd(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var quickly []string
		heard := make(chan error, 1)
		go func() {
			var err error
			quickly, err = hear(ctx, quick, place, nil)
			heard <- err
		}()
		w.exec(`INSERT INTO products VALUES (7, -1, 'z')`)
		w.exec(`INSERT INTO podworks_marker VALUES (1, 1)`)
		if err := <-heard; err != nil || len(quickly) != 2 {
			t.Errorf("beside a slow move: got %d groups, %v; want 2", len(quickly), err)
		}
		if n, _ := listeners(); n != 0 {
			t.Errorf("the hub has %d moves, want the slow one let go, and the quick one to have left", n)
		}
		release()
		wg.Wait()
		if want := 2*maxHeard>>20 + 3; slowErr != nil || len(slowly) != want {
			t.Errorf("the slow move heard %d groups, %v; want %d", len(slowly), slowErr, want)
		}
		if len(slowly) > 2 && !slices.Equal(slowly[len(slowly)-2:], quickly) {
			t.Error("the slow move's last groups are not those of the quick one")
		}
	})
}
