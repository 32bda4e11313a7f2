package master_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/cut"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding/master"
)

// mustClaim claims a domain.
func (w *world) mustClaim(name string, owner int64, ttl time.Duration) master.Claim {
	w.t.Helper()
	c, err := w.Claim(w.t.Context(), "domain", name, owner, ttl)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// lapse lets what is not confirmed lapse.
func (w *world) lapse(name string) {
	w.t.Helper()
	w.exec(fmt.Sprintf(`UPDATE podworks_claims SET expires_at = UTC_TIMESTAMP(6) - INTERVAL 1 SECOND WHERE name = '%s' AND expires_at IS NOT NULL`, name))
}

func TestTheLifeOfAClaim(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), nil, nil)
		ctx := w.WithSession(t.Context(), "")
		claim := func(name string, owner int64, ttl time.Duration) (master.Claim, error) {
			return w.Claim(ctx, "domain", name, owner, ttl)
		}
		const name = "hats.example"
		if _, err := w.Lookup(ctx, "domain", name); !errors.Is(err, sql.ErrNoRows) {
			t.Errorf("Lookup of a free name: %v, want sql.ErrNoRows", err)
		}
		first, err := claim(name, 7, time.Minute)
		if err != nil || first.Owner != 7 || first.Kind != "domain" || first.Name != name || first.Confirmed() || first.Left <= 50*time.Second || first.Left > time.Minute {
			t.Fatalf("Claim = %+v, %v", first, err)
		}
		var taken *master.Error
		_, err = claim(name, 8, time.Minute)
		wantErr(t, "another's claim", err, master.ErrTaken, `domain "hats.example"`, "reserved for 7 and lapses in")
		if !errors.As(err, &taken) || taken.Owner != 7 || taken.Left <= 0 || taken.Name != name {
			t.Errorf("another's claim: got %#v, want who has it", taken)
		}
		again, err := claim(name, 7, time.Hour)
		if err != nil || again.Token != first.Token || again.Left <= 50*time.Minute {
			t.Errorf("the owner's claim once more = %+v, %v; want the token %d, and an hour", again, err, first.Token)
		}
		for range 2 {
			if err := w.Confirm(ctx, first); err != nil {
				t.Errorf("Confirm: %v", err)
			}
		}
		if got, err := w.Lookup(ctx, "domain", name); err != nil || got.Token != first.Token || got.Owner != 7 || !got.Confirmed() {
			t.Errorf("Lookup = %+v, %v; want a confirmed claim of 7", got, err)
		}
		_, err = claim(name, 8, time.Minute)
		wantErr(t, "a claim of a confirmed name", err, master.ErrTaken, "it belongs to 7")
		if got, err := claim(name, 7, time.Minute); err != nil || !got.Confirmed() {
			t.Errorf("the owner's claim of the confirmed name = %+v, %v; want it as it is", got, err)
		}
		w.lapse(name)
		_, err = claim(name, 8, time.Minute)
		wantErr(t, "a claim of a confirmed name, later", err, master.ErrTaken)

		// Kinds and bytes are told apart.
		for _, other := range []string{"HATS.example", "hats.example ", "hats.exämple", "hats.exa\x00mple", "x'y\\", strings.Repeat("n", 255)} {
			if c, err := claim(other, 8, time.Minute); err != nil || c.Name != other || c.Owner != 8 {
				t.Errorf("a claim of %q = %+v, %v; want it to be another name", other, c, err)
			}
		}
		if _, err := w.Claim(ctx, "email", name, 8, time.Minute); err != nil {
			t.Errorf("a claim of another kind: %v", err)
		}

		for range 2 {
			if err := w.Release(ctx, again); err != nil {
				t.Errorf("Release: %v", err)
			}
		}
		wantErr(t, "Confirm after Release", w.Confirm(ctx, first), master.ErrLapsed)
		if c, err := claim(name, 8, time.Minute); err != nil || c.Owner != 8 {
			t.Errorf("a claim of the name that was released = %+v, %v", c, err)
		}
	})
}

// lateConfirm claims a name for 7, lets that lapse and be claimed for 8, and
// returns what comes of both confirming, and of 7's giving it back.
func lateConfirm(w *world, name string) (owner int64, late, second error) {
	w.t.Helper()
	ctx := w.t.Context()
	first := w.mustClaim(name, 7, time.Minute)
	w.lapse(name)
	other := w.mustClaim(name, 8, time.Minute)
	late = w.Confirm(ctx, first)
	second = w.Confirm(ctx, other)
	if err := w.Release(ctx, first); err != nil {
		w.t.Error(err)
	}
	_ = w.primary.QueryRowContext(ctx, `SELECT owner FROM podworks_claims WHERE name = ?`, name).Scan(&owner)
	return owner, late, second
}

func TestALapsedClaimCanNotBeConfirmedAfterAnother(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), nil, nil)
		owner, late, err := lateConfirm(w, "a.example")
		wantErr(t, "the late one's Confirm", late, master.ErrLapsed, `domain "a.example"`)
		if err != nil || owner != 8 {
			t.Errorf("the second's Confirm: %v, and the owner is %d, want 8", err, owner)
		}

		// The same owner's later claim is another.
		first := w.mustClaim("b.example", 7, time.Minute)
		w.lapse("b.example")
		second := w.mustClaim("b.example", 7, time.Minute)
		if first.Token == second.Token {
			t.Error("a name that lapsed and was claimed again has the same token")
		}
		// One that lapsed, and that nobody wanted, is still there.
		w.lapse("b.example")
		if err := w.pair.replica.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Lookup(t.Context(), "domain", "b.example"); !errors.Is(err, sql.ErrNoRows) {
			t.Errorf("Lookup of a lapsed claim: %v, want sql.ErrNoRows", err)
		}
		if err := w.Confirm(t.Context(), second); err != nil {
			t.Errorf("Confirm of a lapsed claim that nobody has taken: %v", err)
		}
	})
}

// The twin: without the token, two owners believe that the name is theirs.
func TestWithoutTheTokenTwoOwnersConfirm(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), nil, nil)
		w.SkipToken()
		owner, late, err := lateConfirm(w, "a.example")
		if late != nil || err != nil || owner != 0 {
			t.Errorf("without the token: Confirm = %v and %v, owner %d; want both to succeed, and the late one's Release to take the other's name", late, err, owner)
		}
	})
}

func TestOfManyClaimersOneWins(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), nil, nil)
		const claimers, names = 8, 20
		w.mustClaim("0.example", 100, time.Minute)
		w.lapse("0.example") // of those of the first name one takes it over
		for n := range names {
			name := fmt.Sprintf("%d.example", n)
			var won atomic.Int64
			var wg sync.WaitGroup
			for i := range claimers {
				wg.Go(func() {
					c, err := w.Claim(t.Context(), "domain", name, int64(i+1), time.Minute)
					if err == nil {
						won.Add(1)
						err = w.Confirm(t.Context(), c)
					} else if errors.Is(err, master.ErrTaken) {
						return
					}
					if err != nil {
						t.Errorf("claimer %d of %s: %v", i+1, name, err)
					}
				})
			}
			wg.Wait()
			if won.Load() != 1 {
				t.Errorf("%s was claimed by %d, want one", name, won.Load())
			}
		}
	})
}

func TestAClaimWhoseCommitIsLostIsClaimedAgain(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		dialer := new(cut.Dialer)
		w := newWorld(t, sharedServers(t, f), nil, dialer.Use)
		for _, how := range []cut.How{cut.BeforeTheAnswer, cut.WhileSending} {
			dialer.At(how)
			_, err := w.Claim(t.Context(), "domain", "a.example", 7, time.Minute)
			wantErr(t, "Claim", err, podworks.ErrOutcomeUnknown)
			c := w.mustClaim("a.example", 7, time.Minute)
			dialer.At(how)
			wantErr(t, "Confirm", w.Confirm(t.Context(), c), podworks.ErrOutcomeUnknown)
			if err := w.Confirm(t.Context(), c); err != nil {
				t.Errorf("Confirm once more: %v", err)
			}
			dialer.At(how)
			wantErr(t, "Release", w.Release(t.Context(), c), podworks.ErrOutcomeUnknown)
			if err := w.Release(t.Context(), c); err != nil {
				t.Errorf("Release once more: %v", err)
			}
		}
	})
}

func TestClaimsArePartOfTheTransactionOfTheContext(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), nil, nil)
		c := w.mustClaim("a.example", 7, time.Minute)
		confirm := func(end error) error {
			return w.Tx(t.Context(), func(ctx context.Context, tx *master.Tx) error {
				// The snapshot is older than what another does next.
				var n int
				if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM things`).Scan(&n); err != nil {
					return err
				}
				w.mustClaim("b.example", 8, time.Minute)
				_, err := w.Claim(ctx, "domain", "b.example", 9, time.Minute)
				wantErr(t, "a claim of what another took since", err, master.ErrTaken, "reserved for 8")
				return errors.Join(w.Confirm(ctx, c), end)
			})
		}
		wantErr(t, "Tx", confirm(errBoom), errBoom)
		if got := w.mustClaim("a.example", 7, time.Minute); got.Confirmed() {
			t.Error("a claim is confirmed by a transaction that was rolled back")
		}
		if err := confirm(nil); err != nil {
			t.Error(err)
		}
		if got := w.mustClaim("a.example", 7, time.Minute); !got.Confirmed() {
			t.Error("a claim is not confirmed by a transaction that was committed")
		}
	})
}

func TestBadClaimsAreRefused(t *testing.T) {
	t.Parallel()
	m := newAway(t)
	for _, tt := range []struct {
		kind, name string
		owner      int64
		ttl        time.Duration
		want       []string
	}{
		{"", "", 0, 0, []string{`kind is "", want 1 to 32 letters`, "name has 0 bytes, want 1 to 255", "owner is 0, want 1 or more", "ttl is 0s, want a millisecond to 10 years"}},
		{"do'main", "a", 1, time.Minute, []string{"kind is"}},
		{strings.Repeat("k", 33), "a", 1, time.Minute, []string{"kind is"}},
		{"domain", strings.Repeat("n", 256), 1, time.Minute, []string{"name has 256 bytes"}},
		{"domain", "a", -1, time.Minute, []string{"owner is -1"}},
		{"domain", "a", 1, 11 * 365 * 24 * time.Hour, []string{"ttl is"}},
	} {
		_, err := m.Claim(t.Context(), tt.kind, tt.name, tt.owner, tt.ttl)
		if err == nil || errors.Is(err, master.ErrPrimary) {
			t.Errorf("Claim(%q, %.10q, %d, %v) = %v, want it to be refused first", tt.kind, tt.name, tt.owner, tt.ttl, err)
			continue
		}
		wantErr(t, "Claim", err, err, tt.want...)
	}
	bad := master.Claim{Kind: "x' OR '1"}
	_, err := m.Lookup(t.Context(), bad.Kind, bad.Name)
	for _, err := range []error{m.Confirm(t.Context(), bad), m.Release(t.Context(), bad), err} {
		if err == nil || errors.Is(err, master.ErrPrimary) {
			t.Errorf("a claim without a name: %v, want it to be refused first", err)
		}
	}
}
