package master_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/cut"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding/master"
)

// newAway returns a Master whose servers are away, which sessions don't need.
func newAway(t testing.TB) *master.Master {
	t.Helper()
	m, err := master.New(openPool(t, connectNowhere(t)), openPool(t, connectNowhere(t)), nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTokens(t *testing.T) {
	t.Parallel()
	m := newAway(t)
	const uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
	longest := uuid + ":1" + strings.Repeat(":3", (master.MaxToken-len(uuid)-2)/2)
	for token, want := range map[string]string{
		"":                  "",
		"0-1-100":           "0-1-100",
		uuid + ":1-5:tag:1": uuid + ":1-5:tag:1",
		"primary":           "primary",
		"garbage":           "primary",
		"0-1-100'":          "primary",
		"0-1-1\x00":         "primary",
		longest:             longest,
		longest + ":5":      "primary",
	} {
		if got := m.Token(m.WithSession(t.Context(), token)); got != want {
			t.Errorf("the token %.60q became %.60q, want %.60q", token, got, want)
		}
	}
	ctx := m.WithSession(t.Context(), "0-1-100")
	if got := newAway(t).Token(ctx); got != "" {
		t.Errorf("another Master's token is %q, want none", got)
	}
	if got := m.Token(t.Context()); got != "" {
		t.Errorf("the token without a session is %q, want none", got)
	}
}

func FuzzSession(f *testing.F) {
	for _, token := range []string{"", "primary", "0-1-100,1-2-3", "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:tag:1", "0-1-1') OR SLEEP(9) -- "} {
		f.Add(token)
	}
	m := newAway(f)
	f.Fuzz(func(t *testing.T, token string) {
		got := m.Token(m.WithSession(t.Context(), token))
		if len(got) > master.MaxToken || strings.Trim(got, "0123456789abcdefghijklmnopqrstuvwxyz_-,:") != "" {
			t.Errorf("the token %q became %q", token, got)
		}
		if again := m.Token(m.WithSession(t.Context(), got)); again != got {
			t.Errorf("the token %q became %q, and that %q", token, got, again)
		}
	})
}

// A token from elsewhere that the replica never reaches costs its bearer
// Options.Wait and a read of the primary; the others are not sent there.
func TestAForgedTokenCostsABoundedWait(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), &master.Options{Wait: 500 * time.Millisecond}, nil)
		w.KeepFaults()
		for _, token := range []string{
			"0-1-18446744073709551615", "7-7-7", "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-9223372036854775806", "garbage", "' OR SLEEP(100) -- ",
		} {
			w.wantSight(w.WithSession(t.Context(), token), 0, w.pair.primary)
		}
		ctx := w.WithSession(t.Context(), "")
		w.mustPut(ctx, 1)
		w.awaitReplica(1)
		w.wantSight(ctx, 1, w.pair.replica)
		w.wantSight(t.Context(), 1, w.pair.replica)
	})
}

func TestAWriteWhoseOutcomeIsUnknownIsReadOnThePrimary(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		dialer := new(cut.Dialer)
		w := newWorld(t, sharedServers(t, f), nil, dialer.Use)
		ctx := w.WithSession(t.Context(), "")
		dialer.At(cut.BeforeTheAnswer)
		wantErr(t, "Tx", put(ctx, w.Master, 1), podworks.ErrOutcomeUnknown)
		w.wantSight(ctx, 1, w.pair.primary)
		token := w.Token(ctx)
		if token == "" || len(token) > 100 {
			t.Errorf("the token is %q, want a short one", token)
		}
		w.wantSight(w.WithSession(t.Context(), token), 1, w.pair.primary)
		// What comes after doesn't make the first one known.
		w.mustPut(ctx, 2)
		w.wantSight(ctx, 2, w.pair.primary)
	})
}

func TestAWriteThatIsNamedByNoGTIDIsReadOnThePrimary(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		server := unnamedServer(t, f)
		name := testcluster.Database(t, server)
		primary := openPool(t, connect(t, server, name, nil))
		m, err := master.New(primary, openPool(t, connectNowhere(t)), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := primary.ExecContext(t.Context(), `CREATE TABLE things (id INT NOT NULL PRIMARY KEY, v INT NOT NULL)`); err != nil {
			t.Fatal(err)
		}
		ctx := m.WithSession(t.Context(), "")
		if err := put(ctx, m, 1); err != nil {
			t.Fatal(err)
		}
		if got := m.Token(ctx); got != "primary" {
			t.Errorf("the token is %q, want that of a session that reads from the primary", got)
		}
	})
}

// Of several writers in one session none is forgotten, in whatever order the
// servers' answers come.
func TestConcurrentWritersOfOneSession(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), &master.Options{Wait: 30 * time.Second}, nil)
		const writers, rounds = 4, 10
		for round := range rounds {
			ctx := w.WithSession(t.Context(), "")
			var wg sync.WaitGroup
			for i := range writers {
				wg.Go(func() {
					if err := put(ctx, w.Master, round*writers+i); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			w.wantSight(ctx, (round+1)*writers, w.pair.replica)
		}
	})
}

func TestTxWithoutASessionAsksForNoGTID(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), nil, nil)
		w.primary.SetMaxOpenConns(1)
		questions := func(ctx context.Context) (n int) {
			t.Helper()
			err := w.Tx(ctx, func(ctx context.Context, tx *master.Tx) error {
				var name string
				return tx.QueryRowContext(ctx, `SHOW SESSION STATUS LIKE 'Questions'`).Scan(&name, &n)
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		session := w.WithSession(t.Context(), "")
		questions(session) // which also finds out the family
		before := questions(t.Context())
		if n := questions(t.Context()) - before; n != 3 {
			t.Errorf("a transaction of one statement took %d, want 3 with its beginning and its end", n)
		}
		before = questions(session)
		if n := questions(session) - before; n != 4 {
			t.Errorf("a transaction of one statement in a session took %d, want 4", n)
		}
	})
}
