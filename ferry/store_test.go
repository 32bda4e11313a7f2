package ferry_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// calls notes the calls of stores, and does something in some of them.
type calls struct {
	mu   sync.Mutex
	list []string
	do   map[string]func(context.Context) error // by "prepare a"
}

func (c *calls) stores(names ...string) (list []ferry.Store) {
	for _, name := range names {
		call := func(what string) func(context.Context, podworks.Move) error {
			return func(ctx context.Context, mv podworks.Move) error {
				if mv.Token == 0 || mv.From.Pod != 1 || mv.To.Pod != 2 || mv.State != map[string]podworks.MoveState{
					"prepare": podworks.MoveRunning, "finish": podworks.MoveDecided, "undo": podworks.MoveAborting}[what] {
					return fmt.Errorf("%s got the move %+v", what, mv)
				}
				what := what + " " + name
				c.mu.Lock()
				c.list = append(c.list, what)
				do := c.do[what]
				c.mu.Unlock()
				if do == nil {
					return nil
				}
				return do(ctx)
			}
		}
		list = append(list, ferry.Store{Name: name, Prepare: call("prepare"), Finish: call("finish"), Undo: call("undo"), Timeout: time.Minute})
	}
	return list
}

// want fails the test unless the calls were these, and forgets them.
func (c *calls) want(t *testing.T, want ...string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(c.list, want) {
		t.Errorf("the stores were called for %q, want %q", c.list, want)
	}
	c.list = nil
}

func withStores(stores []ferry.Store) *ferry.Options {
	return &ferry.Options{Ignore: []string{"countries"}, ChunkRows: 7, Lease: 300 * time.Millisecond, Stores: stores}
}

// The shop takes writes during each call, and the journal has the move.
func TestStoresAreCalledInOrderWhileTheShopTrades(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		c := &calls{do: map[string]func(context.Context) error{}}
		w := newWorld(t, f, "", withStores(c.stores("a", "b", "c")))
		w.fill(w.shop, 50)
		for _, name := range []string{"a", "b", "c"} {
			c.do["prepare "+name] = func(ctx context.Context) error { return sell(ctx, w.source, w.shop, 1, 10) }
			c.do["finish "+name] = func(ctx context.Context) error {
				moves, err := w.dir.Moves(ctx)
				if err == nil && len(moves) != 1 {
					err = fmt.Errorf("the journal has %v, want the move", moves)
				}
				return errors.Join(err, sell(ctx, w.target, w.shop, 2, 10))
			}
		}
		tr := &trail{at: map[string]func(){
			"prepare": func() { c.want(t) },
			"cutover": func() { c.want(t, "prepare a", "prepare b", "prepare c") },
			"opened":  func() { c.want(t) },
		}}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		c.want(t, "finish a", "finish b", "finish c")
		if report.Unfinished != "" {
			t.Errorf("unfinished: %s", report.Unfinished)
		}
		if n := w.count(w.target, `SELECT stock FROM products WHERE shop_id = 7 AND id = 10`); n != 15+6 {
			t.Errorf("got a stock of %d, want 15 and the 6 that the stores sold", n)
		}
	})
}

func TestAStoreThatCantBePreparedUndoesTheMove(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		c := &calls{do: map[string]func(context.Context) error{}}
		stores := c.stores("a", "b", "c")
		w := newWorld(t, f, "", withStores(stores))
		for i, fault := range []struct {
			name    string
			timeout time.Duration
			do      func(context.Context) error
			says    string
		}{
			{"an error", time.Minute, func(context.Context) error { return errors.New("the index is full") }, `prepare store "b": the index is full`},
			{"a panic", time.Minute, func(context.Context) error { panic("aaah") }, `prepare store "b": panicked: aaah`},
			{"no end", 50 * time.Millisecond, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, `prepare store "b": not done within 50ms`},
		} {
			t.Run(fault.name, func(t *testing.T) {
				w := w.in(t)
				w.addShop(podworks.ShopID(100 + i))
				w.fill(w.shop, 50)
				c.do["prepare b"] = fault.do
				stores[1].Timeout = fault.timeout
				w.ferry = w.newFerry(withStores(stores))
				tr := &trail{}
				_, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
				contains(t, err, nil, fault.says, "undone, the shop stays in pod 1")
				c.want(t, "prepare a", "prepare b", "undo c", "undo b", "undo a")
				if tr.passed("lock") {
					t.Error("the lock was asked for")
				}
				w.stays()
			})
		}
	})
}

// The shop trades at the target, and what failed is called again by Run, until it
// doesn't fail.
func TestAStoreThatCantBeFinishedIsFinishedByRun(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		c := &calls{}
		w := newWorld(t, f, "", withStores(c.stores("a", "b", "c")))
		w.fill(w.shop, 50)
		failures := 2
		c.do = map[string]func(context.Context) error{"finish b": func(ctx context.Context) error {
			if err := sell(ctx, w.target, w.shop, 2, 10); err != nil {
				t.Errorf("a write to the moved shop: %v", err)
			}
			if failures--; failures == 1 {
				panic("aaah")
			} else if failures == 0 {
				return errors.New("no answer")
			}
			return nil
		}}
		report, err := w.ferry.Move(t.Context(), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		if want := `finish store "b": panicked: aaah`; report.Route.Pod != 2 || !strings.HasPrefix(report.Unfinished, want) {
			t.Errorf("got a report of %+v, unfinished %q; want pod 2 and %q", report.Route, report.Unfinished, want)
		}
		_, err = w.ferry.Clean(t.Context(), w.shop, 1)
		contains(t, err, ferry.ErrRefused, "not finished")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.ferry.Run(ctx) }()
		until(t, "the move to be finished", func() bool {
			moves, err := w.dir.Moves(t.Context())
			return err == nil && len(moves) == 0
		})
		cancel()
		<-ended
		c.want(t, "prepare a", "prepare b", "prepare c", "finish a", "finish b", "finish a", "finish b", "finish a", "finish b", "finish c")
		if state := w.state(report.Token); state != string(podworks.MoveDone) {
			t.Errorf("the journal says %s, want done", state)
		}
	})
}

// fileStore is a store that notes its calls, and under which token, in a file. A
// process can be stopped in each.
func fileStore(name, who string) []ferry.Store {
	call := func(what string) func(context.Context, podworks.Move) error {
		return func(ctx context.Context, mv podworks.Move) error {
			file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
			if err != nil {
				return err
			}
			defer file.Close()
			if _, err := fmt.Fprintf(file, "%s %s %d\n", who, what, mv.Token); err != nil {
				return err
			}
			hook.Step(ctx, "in "+what)
			return nil
		}
	}
	return []ferry.Store{{Name: "jobs", Prepare: call("prepare"), Finish: call("finish"), Undo: call("undo")}}
}

// A mover is killed, and another process does about its store what is left to do.
// The twin: one that doesn't know the store leaves it as the mover did.
func TestTheStoresOfADeadMoverAreFinishedOrUndone(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		for i, tt := range []struct {
			killed string
			then   string // recover, move, or twin
			want   []string
			pod    podworks.PodID
		}{
			{"copy", "recover", []string{"other undo 1"}, 1},
			{"in prepare", "recover", []string{"mover prepare 1", "other undo 1"}, 1},
			{"lock", "recover", []string{"mover prepare 1", "other undo 1"}, 1},
			{"lock", "twin", []string{"mover prepare 1"}, 1},
			{"lock", "move", []string{"mover prepare 1", "other prepare 2", "other finish 2"}, 2},
			{"open", "recover", []string{"mover prepare 1", "other finish 1"}, 2},
			{"finish", "recover", []string{"mover prepare 1", "other finish 1"}, 2},
			{"in finish", "recover", []string{"mover prepare 1", "mover finish 1", "other finish 1"}, 2},
			{"finish", "twin", []string{"mover prepare 1"}, 2},
		} {
			t.Run("killed before "+tt.killed+", "+tt.then, func(t *testing.T) {
				w := w.in(t)
				w.addShop(podworks.ShopID(100 + i))
				w.fill(w.shop, 20)
				file := filepath.Join(t.TempDir(), "calls")
				mover := w.process(role{To: 2, ChunkRows: 7, Stop: tt.killed, Lease: soonDead, Store: file})
				mover.await("before " + tt.killed)
				first := uint64(w.count(w.master, `SELECT MAX(token) FROM podworks_moves`))
				w.must(mover.cmd.Process.Kill())
				_ = mover.cmd.Wait()

				opts := withStores(fileStore(file, "other"))
				opts.Lease = time.Microsecond
				if tt.then == "twin" {
					opts.Stores = nil
				}
				other := w.newFerry(opts)
				if tt.then == "move" {
					_, err := other.Move(t.Context(), w.shop, 2)
					w.must(err)
				} else {
					w.must(recoverAs(t.Context(), other, w.dir, w.shop))
				}
				text, err := os.ReadFile(file)
				w.must(err)
				var got []string
				for line := range strings.Lines(string(text)) {
					var who, what string
					var token uint64
					if _, err := fmt.Sscan(line, &who, &what, &token); err != nil {
						t.Fatalf("%q: %v", line, err)
					}
					got = append(got, fmt.Sprintf("%s %s %d", who, what, token-first+1))
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("the store was called by %q, want %q", got, tt.want)
				}
				if tt.pod == 1 {
					w.stays()
				} else if err := sell(t.Context(), w.target, w.shop, 2, 10); err != nil {
					t.Errorf("a write in the target: %v", err)
				}
			})
		}
	})
}

// The example's store bears a mover that is frozen on its way to a call and wakes
// when others have settled the move, and the shop has perhaps moved back. The twin:
// a store that forgets the tokens, whose jobs wait for ever or go to the wrong pod.
func TestAStoreThatKeepsTokensBearsAFrozenMover(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.exec(w.master, `CREATE TABLE job_routes (shop_id BIGINT NOT NULL PRIMARY KEY, pod INT NOT NULL, paused BOOL NOT NULL, token BIGINT UNSIGNED NOT NULL)`)
		for i, tt := range []struct {
			frozen string
			back   bool // the shop moves back meanwhile
			forget bool
			want   string
		}{
			{"prepare", false, false, "pod 1, paused 0"},
			{"prepare", false, true, "pod 1, paused 1"},
			{"finish", true, false, "pod 1, paused 0"},
			{"finish", true, true, "pod 2, paused 0"},
		} {
			t.Run(fmt.Sprintf("in %s, tokens forgotten %v", tt.frozen, tt.forget), func(t *testing.T) {
				w := w.in(t)
				w.addShop(podworks.ShopID(100 + i))
				w.fill(w.shop, 20)
				w.exec(w.master, `INSERT INTO job_routes VALUES (?, 1, FALSE, 0)`, int64(w.shop))
				jobs := jobStore(w.master)
				frozen := jobs
				late := func(fn func(context.Context, podworks.Move) error) func(context.Context, podworks.Move) error {
					return func(ctx context.Context, mv podworks.Move) error {
						hook.Step(ctx, "freeze")
						if tt.forget {
							w.exec(w.master, `UPDATE job_routes SET token = 0 WHERE shop_id = ?`, int64(w.shop))
						}
						return fn(context.WithoutCancel(ctx), mv)
					}
				}
				if tt.frozen == "prepare" {
					frozen.Prepare = late(frozen.Prepare)
				} else {
					frozen.Finish = late(frozen.Finish)
				}
				opts := withStores([]ferry.Store{jobs})
				opts.Lease = time.Microsecond
				other := w.newFerry(opts)
				tr := &trail{at: map[string]func(){"freeze": func() {
					w.must(recoverAs(t.Context(), other, w.dir, w.shop))
					if !tt.back {
						return
					}
					_, err := other.Clean(t.Context(), w.shop, 1)
					w.must(err)
					_, err = other.Move(t.Context(), w.shop, 1)
					w.must(err)
				}}}
				_, err := w.newFerry(withStores([]ferry.Store{frozen})).Move(tr.follow(t.Context()), w.shop, 2)
				t.Logf("the mover: %v", err)
				var pod, paused int
				w.must(w.master.QueryRowContext(t.Context(), `SELECT pod, paused FROM job_routes WHERE shop_id = ?`, int64(w.shop)).Scan(&pod, &paused))
				if got := fmt.Sprintf("pod %d, paused %d", pod, paused); got != tt.want {
					t.Errorf("the jobs are in %s, want %s", got, tt.want)
				}
			})
		}
	})
}
