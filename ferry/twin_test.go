package ferry_test

import (
	"context"
	"database/sql"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// twins are the protections of a move, each with an interleaving in which it is
// what keeps the shop's rows. The interleaving runs with the protection, and does
// no damage, and without it, and the damage must be seen: else the tests that
// rely on it would pass whatever the code did.
var twins = []struct {
	off hook.Protection
	run func(s *scene)
}{
	// A writer is in a transaction when the mover asks for the lock, and commits
	// when the source is about to be closed. The applier is slow from then on.
	{hook.Lock, func(s *scene) {
		conn := s.begin(10)
		commit := sync.OnceFunc(func() { s.commit(conn) })
		finish := make(chan struct{})
		s.at("close", func() {
			s.at("apply", func() { <-finish })
			commit()
		})
		s.at("finish", func() { close(finish) })
		s.move()
		commit()
		s.sold(10, 1)
	}},
	// A recoverer has aborted the move and opened the source again when the mover
	// comes to decide. It has not come to the target yet.
	{hook.Decision, func(s *scene) {
		s.at("decide", func() {
			s.must(s.dir.Abort(s.t.Context(), s.token()))
			s.must(fence.Reopen(s.t.Context(), s.source, s.from(), s.token()))
		})
		s.move()
		s.oneOwner()
	}},
	// What was sold just before the lock is in the log, and the applier is behind.
	// What keeps it busy changes nothing in the end, so that no comparison finds it.
	{hook.Marker, func(s *scene) {
		busy, goOn := make(chan struct{}), make(chan struct{})
		free := sync.OnceFunc(func() { close(goOn) })
		var once sync.Once
		s.at("lock", func() {
			s.at("apply", func() { once.Do(func() { close(busy) }); <-goOn })
			s.must(trade(s.t.Context(), s.source, s.shop, 1, func(tx *sql.Tx) error {
				_, err := tx.Exec(`UPDATE products SET stock = stock + 1 WHERE shop_id = ? AND id = 20`, int64(s.shop))
				if err == nil {
					_, err = tx.Exec(`UPDATE products SET stock = stock - 1 WHERE shop_id = ? AND id = 20`, int64(s.shop))
				}
				return err
			}))
			<-busy
			s.must(sell(s.t.Context(), s.source, s.shop, 1, 10))
		})
		s.at("finish", free)
		go func() {
			select {
			case <-s.back:
				free()
			case <-goOn:
			}
		}()
		s.move()
		s.sold(10, 1)
	}},
	// A mover is frozen with a change of the shop in its hand. The move is undone,
	// made by another mover, and the shop sells in the target when the first wakes.
	{hook.Apply, func(s *scene) {
		busy, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		s.at("verify", func() {
			s.at("apply", func() { once.Do(func() { close(busy) }); <-goOn })
			s.must(sell(s.t.Context(), s.source, s.shop, 1, 10))
			<-busy
			s.recover()
			_, err := s.now.Move(s.t.Context(), s.shop, 2)
			s.must(err)
			s.must(sell(s.t.Context(), s.target, s.shop, 2, 10))
			close(goOn)
		})
		s.move()
		s.sold(10, 2)
	}},
	// An asynchronous failover of the source loses the close, just before the
	// decision; its epoch is raised before it takes writes.
	{hook.PodEpoch, func(s *scene) {
		s.at("decide", func() {
			s.exec(s.master, `UPDATE podworks_pods SET epoch = epoch + 1 WHERE pod_id = 1`)
			s.exec(s.source, `UPDATE podworks_fence SET state = 'open', destination = 0, token = 0 WHERE shop_id = ?`, int64(s.shop))
		})
		s.move()
		s.oneOwner()
	}},
	// A recoverer has undone the move, but for the journal row, when its mover
	// comes to the lock, and dies once it has closed the source.
	{hook.Look, func(s *scene) {
		undone, goOn := make(chan struct{}), make(chan struct{})
		ended := make(chan struct{})
		s.at("recover.finish", func() { close(undone); <-goOn })
		s.at("lock", func() {
			go func() {
				defer close(ended)
				if _, err := s.now.Recover(s.ctx); err != nil {
					s.t.Errorf("recover: %v", err)
				}
			}()
			<-undone
		})
		s.at("decide", func() { close(goOn); runtime.Goexit() })
		s.move()
		select {
		case <-goOn:
		default:
			close(goOn)
		}
		<-ended
		s.recover()
		s.oneOwner()
	}},
	// A prepared XA transaction came after the plan and before the log was read.
	// It holds no lock on the fence, and commits when it likes.
	{hook.Prepared, func(s *scene) {
		db := s.open(1, "", "")
		db.SetMaxOpenConns(1)
		s.at("claim", func() {
			s.script(db, fmt.Sprintf(`XA START 'x'; UPDATE products SET stock = stock + 1 WHERE shop_id = %d AND id = 10; XA END 'x'; XA PREPARE 'x'`, s.shop))
		})
		s.move()
		s.script(db, `XA COMMIT 'x'`)
		s.sold(10, 1)
	}},
	// A mover is frozen before it has the target. The move is undone meanwhile.
	{hook.Tombstone, func(s *scene) {
		s.at("incoming", func() { s.recover() })
		s.move()
		if n := s.rowsOf(s.target, s.shop); n > 0 {
			s.damage("%d rows of a move that was undone are on the target, and nobody's to delete", n)
		}
	}},
	// A clean-up is frozen after its look. Another one does the work, the shop
	// comes back, and the first one wakes.
	{hook.Clean, func(s *scene) {
		s.move()
		s.at("clean.delete", func() {
			if _, err := s.now.Clean(s.t.Context(), s.shop, 1); err != nil {
				s.t.Fatal(err)
			}
			_, err := s.now.Move(s.t.Context(), s.shop, 1)
			s.must(err)
			s.must(sell(s.t.Context(), s.source, s.shop, 3, 10))
		})
		if _, err := s.ferry.Clean(s.ctx, s.shop, 1); err == nil && !s.without {
			s.t.Error("the clean-up that came late succeeded")
		}
		s.sold(10, 1)
	}},
	// A failover of the target lost rows of the copy after the decision. It is being
	// copied again when its mover dies.
	{hook.Verified, func(s *scene) {
		mv := s.leave([]string{"claim", "incoming", "copy", "note", "close", "decide"})
		again, err := s.dir.Reclaim(s.t.Context(), mv.Token)
		s.must(err)
		s.must(fence.Claim(s.t.Context(), s.target, s.shop, again.Token))
		s.exec(s.target, `DELETE FROM products WHERE shop_id = ? AND id > 5`, int64(s.shop))
		s.recover()
		s.sold(10, 0)
	}},
}

func TestEachProtectionKeepsTheShopsRows(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f, "", nil)
		for i, twin := range twins {
			for j, without := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, off %v", twin.off, without), func(t *testing.T) {
					s := newScene(w.in(t), podworks.ShopID(100+2*i+j), twin.off, without)
					twin.run(s)
					if without && s.seen == "" {
						t.Errorf("no damage without the protection %q; the interleaving proves nothing", twin.off)
					}
					if !without && s.seen != "" {
						t.Errorf("with the protection: %s", s.seen)
					}
					t.Logf("damage: %q", s.seen)
				})
			}
		}
	})
}

// A scene is a shop in a move whose steps a test decides.
type scene struct {
	*world
	ctx     context.Context // with the hooks, of the mover that is stopped
	now     *ferry.Ferry    // takes every other mover for dead
	without bool
	seen    string        // the damage
	back    <-chan string // has each step back of the mover that is stopped

	mu  sync.Mutex
	act map[string]func()
}

func newScene(w *world, shop podworks.ShopID, p hook.Protection, without bool) *scene {
	w.addShop(shop)
	w.fill(shop, 50)
	s := &scene{world: w, without: without, act: map[string]func(){}}
	// A mover whose journal tells it nothing, as that of a frozen one, and one that
	// doesn't try twice what can't succeed.
	logger, back := stepsBack()
	s.back = back
	deaf, err := ferry.New(deafDirectory{w.dir}, w.pods, &ferry.Options{Ignore: []string{"countries"}, Attempts: 2, PauseBudget: time.Second, Logger: logger})
	if err != nil {
		w.t.Fatal(err)
	}
	s.ferry = deaf
	s.now = w.newFerry(&ferry.Options{Ignore: []string{"countries"}, Lease: time.Microsecond, PauseBudget: 2 * time.Second})
	var insist time.Duration
	if p == hook.Prepared { // what it protects from never ends by itself
		insist = time.Second
	}
	s.ctx = hook.With(w.t.Context(), &hook.Set{Insist: insist, Off: map[hook.Protection]bool{p: without}, Step: func(step string) {
		s.mu.Lock()
		do := s.act[step]
		if step != "apply" {
			delete(s.act, step)
		}
		s.mu.Unlock()
		if do != nil {
			do()
		}
	}})
	return s
}

// deafDirectory is the directory of a mover that is not told once a second what
// became of its move: a process that was frozen asks too late.
type deafDirectory struct{ ferry.Tables }

func (d deafDirectory) Beat(ctx context.Context, token uint64, step string) error {
	if step == "verified" { // the look under the lock
		return d.Tables.Beat(ctx, token, step)
	}
	return nil
}

// at says what is done the first time that a step is reached; at every time, for
// an apply.
func (s *scene) at(step string, do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.act[step] = do
}

// move makes the move. What it says is not the point.
func (s *scene) move() {
	s.t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, err := s.ferry.Move(s.ctx, s.shop, 2)
		s.t.Logf("the mover: %v", err)
	}()
	<-ended
}

func (s *scene) recover() {
	s.t.Helper()
	if _, err := s.now.Recover(s.ctx); err != nil {
		s.t.Errorf("recover: %v", err)
	}
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Error(err)
	}
}

func (s *scene) token() uint64 {
	return uint64(s.count(s.master, `SELECT MAX(token) FROM podworks_moves WHERE shop_id = ?`, int64(s.shop)))
}

func (s *scene) from() podworks.Route { return podworks.Route{Shop: s.shop, Pod: 1, Epoch: 1} }

func (s *scene) damage(format string, args ...any) { s.seen = fmt.Sprintf(format, args...) }

// sold looks at the product in the pod that has the shop.
func (s *scene) sold(product, sales int) {
	s.t.Helper()
	route, err := s.dir.Fresh(s.t.Context(), s.shop)
	s.must(err)
	db := s.source
	if route.Pod == 2 {
		db = s.target
	}
	got := s.count(db, `SELECT COALESCE(SUM(stock), -1) FROM products WHERE shop_id = ? AND id = ?`, int64(s.shop), product)
	if want := int64(product + 5 + sales); got != want {
		s.damage("the stock in pod %d is %d, want %d", route.Pod, got, want)
	}
}

// oneOwner looks for the pods that take the shop's writes.
func (s *scene) oneOwner() {
	s.t.Helper()
	owners := 0
	for pod, err := range []error{sell(s.t.Context(), s.source, s.shop, 1, 10), sell(s.t.Context(), s.target, s.shop, 2, 10)} {
		if err == nil {
			owners++
		} else {
			s.t.Logf("pod %d: %v", pod+1, err)
		}
	}
	if owners != 1 {
		s.damage("%d pods take the shop's writes", owners)
	}
}

func (s *scene) commit(conn *sql.Conn) {
	_, err := conn.ExecContext(s.t.Context(), `COMMIT`)
	s.must(err)
}
