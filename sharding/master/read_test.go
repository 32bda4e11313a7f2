package master_test

import (
	"context"
	"database/sql"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding/master"
)

// awaitWaiter returns when a session of the replica waits for a GTID.
func (w *world) awaitWaiter() {
	w.t.Helper()
	await(w.t, "a read that waits on the replica", func() bool {
		var n int
		err := w.admin.QueryRowContext(w.t.Context(), `SELECT COUNT(*) FROM information_schema.processlist
			WHERE db = ? AND (info LIKE 'SELECT MASTER_GTID_WAIT(%' OR info LIKE 'SELECT WAIT_FOR_EXECUTED_GTID_SET(%')`, w.name).Scan(&n)
		if err != nil {
			w.t.Error(err)
		}
		return n > 0
	})
}

// A result is what a read in another goroutine came to.
type result struct {
	sight
	err error
}

// seeLater reads in another goroutine.
func (w *world) seeLater(ctx context.Context) <-chan result {
	done := make(chan result, 1)
	go func() {
		s, err := see(ctx, w.Master)
		done <- result{s, err}
	}()
	return done
}

func TestAReaderWaitsForItsWriteAndSeesIt(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, fragileServers(t, f), &master.Options{Wait: time.Minute}, nil)
		w.stopReplica()
		ctx := w.WithSession(t.Context(), "")
		w.mustPut(ctx, 1)

		// Its own request, and the next, which knows a token.
		token := w.Token(ctx)
		next := w.WithSession(t.Context(), token)
		for i, ctx := range []context.Context{ctx, next} {
			done := w.seeLater(ctx)
			w.awaitWaiter()
			select {
			case r := <-done:
				t.Errorf("reader %d did not wait: %+v", i, r)
			default:
			}
			// Those who wrote nothing don't wait.
			w.wantSight(w.WithSession(t.Context(), ""), i, w.pair.replica)
			w.wantSight(t.Context(), i, w.pair.replica)
			w.startReplica()
			r := <-done
			if want := (sight{i + 1, w.pair.replica.ServerID()}); r.err != nil || r.sight != want {
				t.Errorf("reader %d saw %+v, %v; want %+v", i, r.sight, r.err, want)
			}
			if i == 0 {
				w.stopReplica()
				w.mustPut(next, 2)
			}
		}
		if got := w.Stats(); got != (master.Stats{ReplicaReads: 6}) {
			t.Errorf("Stats = %+v, want 6 reads of the replica", got)
		}
	})
}

// The twin: without the wait, the reader misses its write.
func TestWithoutTheWaitAReaderMissesItsWrite(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, fragileServers(t, f), nil, nil)
		w.SkipWait()
		w.stopReplica()
		ctx := w.WithSession(t.Context(), "")
		w.mustPut(ctx, 1)
		w.wantSight(ctx, 0, w.pair.replica)
		w.startReplica()
	})
}

func TestALateReplicaIsReadPastAndNotWaitedForByEveryone(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		const wait = 500 * time.Millisecond // a busy machine takes its time to connect
		w := newWorld(t, fragileServers(t, f), &master.Options{Wait: wait}, nil)
		w.KeepFaults()
		var waits []time.Duration
		w.OnWait(func(d time.Duration) { waits = append(waits, d) })
		step := func(what string, ctx context.Context, things int, on *testcluster.MySQLServer, want ...time.Duration) {
			t.Helper()
			waits = nil
			w.wantSight(ctx, things, on)
			if !slices.Equal(waits, want) {
				t.Errorf("%s: the replica was asked with waits %v, want %v", what, waits, want)
			}
		}
		old := w.WithSession(t.Context(), "")
		w.mustPut(old, 1)
		w.awaitReplica(1)
		step("a replica that follows", old, 1, w.pair.replica, wait)
		w.stopReplica()
		fresh := w.WithSession(t.Context(), "")
		w.mustPut(fresh, 2)
		step("the first to miss its write", fresh, 2, w.pair.primary, wait)
		step("the next", fresh, 2, w.pair.primary, 0)
		step("one whose write was there before", old, 1, w.pair.replica, 0)
		step("without a session", t.Context(), 1, w.pair.replica)
		w.TryAgain()
		step("one whose write was there before, a second later", old, 1, w.pair.replica, 0)
		step("the first a second later", fresh, 2, w.pair.primary, 0, wait)
		step("the next", fresh, 2, w.pair.primary, 0)
		w.startReplica()
		w.awaitReplica(2)
		step("when it has come", fresh, 2, w.pair.replica, 0)
		if got := w.Stats(); got != (master.Stats{ReplicaReads: 5, PrimaryReads: 4, Late: 4}) {
			t.Errorf("Stats = %+v, want 5 reads of the replica, 4 of the primary, 4 late", got)
		}
	})
}

// The one that waits while the others are sent away sees the replica move.
func TestAReplicaThatMovesAgainIsWaitedForAgain(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		pair := fragileServers(t, f)
		w := newWorld(t, pair, &master.Options{Wait: 500 * time.Millisecond}, nil)
		w.KeepFaults()
		w.stopReplica()
		ctx := w.WithSession(t.Context(), "")
		w.mustPut(ctx, 1)
		w.wantSight(ctx, 1, pair.primary)

		var mu sync.Mutex
		var waits []time.Duration
		w.OnWait(func(d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			waits = append(waits, d)
			if d > 0 && len(waits) == 2 {
				w.startReplica()
				w.awaitReplica(1) // between the question and the wait
			}
		})
		w.TryAgain()
		w.wantSight(ctx, 1, pair.replica)
		w.mustPut(ctx, 2)
		w.awaitReplica(2)
		w.wantSight(ctx, 2, pair.replica)
		want := []time.Duration{0, 500 * time.Millisecond, 500 * time.Millisecond}
		if !slices.Equal(waits, want) {
			t.Errorf("the replica was asked with waits %v, want %v", waits, want)
		}
	})
}

func TestServersThatDie(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, fragileServers(t, f), nil, nil)
		w.KeepFaults()
		ids, err := w.Sequence("orders", &master.SequenceOptions{Block: 4})
		if err != nil {
			t.Fatal(err)
		}
		next := func() (int64, error) { return ids.Next(t.Context()) }
		for want := int64(1); want <= 3; want++ { // two blocks are here by now
			if id, err := next(); id != want || err != nil {
				t.Fatalf("Next = %d, %v; want %d", id, err, want)
			}
		}
		session := w.WithSession(t.Context(), "")
		w.mustPut(session, 1)
		w.awaitReplica(1)
		w.stopReplica()
		w.mustPut(session, 2)
		if err := w.pair.primary.Kill(); err != nil {
			t.Fatal(err)
		}
		// What reads the replica goes on; so does who can do with an older value.
		w.wantSight(t.Context(), 1, w.pair.replica)
		w.wantSight(w.WithSession(session, ""), 1, w.pair.replica)
		_, err = see(session, w.Master)
		wantErr(t, "a read of what only the dead primary has", err, master.ErrBehind)
		wantErr(t, "a read of what only the dead primary has", err, master.ErrPrimary)

		wantErr(t, "a write", put(t.Context(), w.Master, 3), master.ErrPrimary, "global writes fail until it is back; shops are not affected")
		_, err = w.Claim(t.Context(), "domain", "a.example", 1, time.Minute)
		wantErr(t, "a claim", err, master.ErrPrimary, `claim domain "a.example"`)
		wantErr(t, "Advance", w.Advance(t.Context(), "orders", 100), master.ErrPrimary)
		wantErr(t, "Migrate", w.Migrate(t.Context()), master.ErrPrimary)
		wantErr(t, "Check", w.Check(t.Context()), master.ErrPrimary)
		for want := int64(4); want <= 8; want++ {
			if id, err := next(); id != want || err != nil {
				t.Errorf("Next without a primary = %d, %v; want %d, of the blocks that are here", id, err, want)
			}
		}
		_, err = next()
		wantErr(t, "Next when the blocks are used up", err, master.ErrPrimary, "sequence orders")

		// And with both away, both are named.
		if err := w.pair.replica.Kill(); err != nil {
			t.Fatal(err)
		}
		_, err = see(t.Context(), w.Master)
		wantErr(t, "a read without servers", err, master.ErrPrimary, "and the replica: ")

		// With the primary back and no replica, the primary serves the reads.
		if err := w.pair.primary.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.wantSight(session, 2, w.pair.primary)
		w.wantSight(t.Context(), 2, w.pair.primary)
		if id, err := next(); id < 9 || err != nil {
			t.Errorf("Next with the primary back = %d, %v; want 9 or more", id, err)
		}
		w.mustPut(session, 3)
		if err := w.pair.replica.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.awaitReplica(3)
		w.TryAgain()
		w.wantSight(session, 3, w.pair.replica)
	})
}

// A replica that hangs is not waited for by everyone either.
func TestAReplicaThatHangsIsReadPast(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		pair := fragileServers(t, f)
		w := newWorld(t, pair, &master.Options{Wait: 500 * time.Millisecond}, nil)
		w.KeepFaults()
		session := w.WithSession(t.Context(), "")
		w.mustPut(session, 1)
		w.awaitReplica(1)
		w.wantSight(session, 1, pair.replica) // there is a connection in the pool
		if err := pair.replica.Pause(); err != nil {
			t.Fatal(err)
		}
		w.wantSight(session, 1, pair.primary)
		w.OnWait(func(time.Duration) { t.Error("the replica was asked again at once") })
		w.wantSight(session, 1, pair.primary)
		w.wantSight(t.Context(), 1, pair.primary)
		if err := pair.replica.Resume(); err != nil {
			t.Fatal(err)
		}
		w.TryAgain()
		w.wantSight(t.Context(), 1, pair.replica)
	})
}

func TestReadWithoutAWriteAddsNoStatement(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), nil, nil)
		w.replica.SetMaxOpenConns(1)
		var asked []int
		for _, ctx := range []context.Context{t.Context(), t.Context(), w.WithSession(t.Context(), "")} {
			err := w.Read(ctx, func(ctx context.Context, q master.Querier) error {
				var name, value string
				if err := q.QueryRowContext(ctx, `SHOW SESSION STATUS LIKE 'Questions'`).Scan(&name, &value); err != nil {
					return err
				}
				n, err := strconv.Atoi(value)
				asked = append(asked, n)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if asked[1]-asked[0] != 1 || asked[2]-asked[1] != 1 {
			t.Errorf("the session had answered %v statements, want one more each time: the test's own", asked)
		}
	})
}

func TestAWriteInReadIsRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		p := sharedServers(t, f)
		w := newWorld(t, p, nil, nil)
		alone, err := master.New(w.primary, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		// Where only the session stands in the way.
		onto, err := master.New(w.primary, openPool(t, master.ReadOnly(connect(t, p.primary, w.name, nil))), nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, m := range map[string]*master.Master{"replica": w.Master, "primary alone": alone, "read-only session": onto} {
			err := m.Read(t.Context(), func(ctx context.Context, q master.Querier) error {
				_, err := q.ExecContext(ctx, `INSERT INTO things (id, v) VALUES (1, 1)`)
				return err
			})
			wantErr(t, name, err, err, "master: a write in Read, which only reads; use Tx")
			if err == nil {
				t.Errorf("%s: a write in Read succeeded", name)
			}
		}
		w.wantSight(t.Context(), 0, w.pair.replica)
	})
}

func TestWithoutAReplicaThePrimaryServesReads(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), nil, nil)
		m, err := master.New(w.primary, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx := m.WithSession(t.Context(), "")
		if err := put(ctx, m, 1); err != nil {
			t.Fatal(err)
		}
		got, err := see(ctx, m)
		if want := (sight{1, w.pair.primary.ServerID()}); err != nil || got != want {
			t.Errorf("a read saw %+v, %v; want %+v", got, err, want)
		}
		// Another process of another region has a replica.
		w.wantSight(w.WithSession(t.Context(), m.Token(ctx)), 1, w.pair.replica)
	})
}

// Panics and cancelled contexts give the connections back.
func TestReadLeavesNoConnectionBehind(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), nil, nil)
		read := func(ctx context.Context, m *master.Master) (panicked any, err error) {
			defer func() { panicked = recover() }()
			return nil, m.Read(ctx, func(context.Context, master.Querier) error { panic("boom") })
		}
		alone, err := master.New(w.primary, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		ended, end := context.WithCancel(t.Context())
		end()
		for _, m := range []*master.Master{w.Master, alone} {
			if panicked, err := read(t.Context(), m); panicked != "boom" {
				t.Errorf("Read of a function that panics: %v, %v; want the panic", err, panicked)
			}
			panicked, err := read(ended, m)
			wantErr(t, "Read with a context that has ended", err, context.Canceled)
			if panicked != nil {
				t.Error("Read with a context that has ended ran the function")
			}
		}
		for _, db := range []*sql.DB{w.replica, w.primary} {
			await(t, "the connections to come back", func() bool { return db.Stats().InUse == 0 })
		}
		w.wantSight(t.Context(), 0, w.pair.replica)
	})
}
