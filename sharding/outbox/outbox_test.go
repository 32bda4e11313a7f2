package outbox_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/cut"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/sharding/outbox"
)

// Every way a transaction can end that its process survives.
func TestAMessageIsDeliveredIffItsTransactionCommitted(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	type run struct {
		ctx    context.Context
		tx     *sharding.Tx
		scope  *sharding.Scope
		box    *outbox.Outbox
		dialer *cut.Dialer
	}
	cases := []struct {
		name string
		fn   func(r run) error
		want []string
		rows int // of things: what the transaction wrote besides
	}{
		{"commit", func(run) error { return nil }, []string{"a"}, 1},
		{"error", func(run) error { return boom }, nil, 0},
		{"panic", func(run) error { panic(boom) }, nil, 0},
		{"BeforeCommit that fails", func(r run) error {
			r.tx.BeforeCommit(func(context.Context) error { return boom })
			return nil
		}, nil, 0},
		{"BeforeCommit that adds another", func(r run) error {
			r.tx.BeforeCommit(func(ctx context.Context) error { return r.box.Add(ctx, "b", nil) })
			return nil
		}, []string{"a", "b"}, 1},
		{"savepoint that is kept", func(r run) error {
			return r.scope.Tx(r.ctx, func(ctx context.Context, _ *sharding.Tx) error { return r.box.Add(ctx, "b", nil) })
		}, []string{"a", "b"}, 1},
		{"savepoint that is undone", func(r run) error {
			_ = r.scope.Tx(r.ctx, func(ctx context.Context, _ *sharding.Tx) error {
				if err := r.box.Add(ctx, "b", nil); err != nil {
					return err
				}
				return boom
			})
			return nil
		}, []string{"a"}, 1},
		{"connection lost before COMMIT was sent", func(r run) error {
			r.dialer.At(cut.BeforeSending)
			return nil
		}, nil, 0},
		{"connection lost while COMMIT was sent", func(r run) error {
			r.dialer.At(cut.WhileSending)
			return nil
		}, nil, 0},
		{"connection lost before COMMIT was answered", func(r run) error {
			r.dialer.At(cut.BeforeTheAnswer)
			return nil
		}, []string{"a"}, 1},
	}
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		dialer := new(cut.Dialer)
		w := newWorld(t, f, dialer.Use)
		var in inbox
		// The relay has connections of its own: its commits are not the ones to break.
		w.relay(t.Context(), w.newBox(w.newCluster(nil), in.receive, nil))
		box := w.newBox(w.cluster, refuse, nil)
		for i, c := range cases {
			before := len(in.of(1))
			func() {
				defer func() { _ = recover() }()
				_ = w.cluster.Do(t.Context(), 1, func(ctx context.Context, s *sharding.Scope) error {
					return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
						if _, err := tx.ExecContext(ctx, `INSERT INTO things VALUES (1, ?)`, i); err != nil {
							t.Error(err)
						}
						if err := box.Add(ctx, "a", nil); err != nil {
							t.Error(err)
						}
						return c.fn(run{ctx, tx, s, box, dialer})
					})
				})
			}()
			// What comes after the last message of the shop comes after all others.
			last := "after " + c.name
			w.add(box, 1, last)
			in.await(t, 1, last)
			checkTopics(t, c.name, in.of(1)[before:], append(c.want, last)...)
			if n := w.count(1, `SELECT COUNT(*) FROM things WHERE id = ?`, i); n != c.rows {
				t.Errorf("%s: the transaction wrote %d things, want %d", c.name, n, c.rows)
			}
			w.awaitEmpty(1)
		}
	})
}

// The twin: a row written beside the transaction is delivered though it was
// rolled back.
func TestARowOutsideOfTheTransactionWouldBeDelivered(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil)
		var in inbox
		box := w.newBox(w.cluster, in.receive, nil)
		w.relay(t.Context(), box)
		boom := errors.New("boom")
		box.WriteOutside(w.plain[1])
		err := w.cluster.Do(t.Context(), 1, func(ctx context.Context, s *sharding.Scope) error {
			return s.Tx(ctx, func(ctx context.Context, _ *sharding.Tx) error {
				if err := box.Add(ctx, "a", nil); err != nil {
					t.Error(err)
				}
				return boom
			})
		})
		if !errors.Is(err, boom) {
			t.Fatalf("the transaction ended with %v, want %v", err, boom)
		}
		in.await(t, 1, "a")
	})
}

func TestAMessageArrivesAsItWasAdded(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil)
		got := make(chan outbox.Message, 10)
		box := w.newBox(w.cluster, func(ctx context.Context, m outbox.Message) error {
			if s := sharding.FromContext(ctx); s != nil {
				t.Errorf("deliver's context has the scope %v, want none", s)
			}
			if _, ok := ctx.Deadline(); !ok {
				t.Error("deliver's context has no deadline")
			}
			got <- m
			return nil
		}, nil)
		w.relay(t.Context(), box)
		ids := map[string]bool{}
		for _, c := range []struct {
			topic   string
			payload []byte
		}{
			{"a", nil},
			{"\xff\x00'\\ü", []byte("\xff\x00'\\ü")},
			{strings.Repeat("t", outbox.MaxTopic), bytes.Repeat([]byte{0, 0xff}, outbox.MaxPayload/2)},
		} {
			before := time.Now().Add(-time.Minute)
			err := w.cluster.Do(t.Context(), 2, func(ctx context.Context, s *sharding.Scope) error {
				return s.Tx(ctx, func(ctx context.Context, _ *sharding.Tx) error { return box.Add(ctx, c.topic, c.payload) })
			})
			if err != nil {
				t.Fatal(err)
			}
			m := recv(t, "the message", got)
			if m.Topic != c.topic || !bytes.Equal(m.Payload, c.payload) {
				t.Errorf("got topic %.20q and %d bytes, want %.20q and %d bytes", m.Topic, len(m.Payload), c.topic, len(c.payload))
			}
			if m.Shop != 2 || m.Pod != 2 || m.Epoch != 1 || m.Attempt != 1 || m.Seq == 0 || len(m.ID) != 26 || ids[m.ID] {
				t.Errorf("got shop %d, pod %d, epoch %d, attempt %d, seq %d, id %q; want 2, 2, 1, 1, a number and a new id of 26 letters", m.Shop, m.Pod, m.Epoch, m.Attempt, m.Seq, m.ID)
			}
			if m.Created.Before(before) || m.Created.After(time.Now().Add(time.Minute)) {
				t.Errorf("created at %v, want about now", m.Created)
			}
			ids[m.ID] = true
		}
	})
}

func TestAddRefusesWhatItCanNotKeep(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil)
		box := w.newBox(w.cluster, refuse, nil)
		checkText(t, "Add without anything", box.Add(t.Context(), "a", nil), "Scope.Tx")
		err := w.cluster.Do(t.Context(), 1, func(ctx context.Context, s *sharding.Scope) error {
			checkText(t, "Add without a transaction", box.Add(ctx, "a", nil), "Scope.Tx")
			return s.Tx(ctx, func(ctx context.Context, _ *sharding.Tx) error {
				checkText(t, "Add without a topic", box.Add(ctx, "", nil), "topic has 0 bytes")
				checkText(t, "Add with a long topic", box.Add(ctx, strings.Repeat("t", 256), nil), "topic has 256 bytes")
				checkText(t, "Add with a large payload", box.Add(ctx, "a", make([]byte, outbox.MaxPayload+1)), "payload has 1048577 bytes")
				return nil
			})
		})
		if err != nil {
			t.Errorf("the transaction after all that: %v", err)
		}
		if n := w.count(1, `SELECT COUNT(*) FROM podworks_outbox`); n != 0 {
			t.Errorf("%d rows were written, want none", n)
		}
		w.exec(1, `DROP TABLE podworks_outbox`)
		checkText(t, "Add without the table", add(t.Context(), w.cluster, box, 1, "a"), "run Migrate", "shop 1 in pod 1")
	})
}

func TestNewRefusesWhatCanNotBe(t *testing.T) {
	t.Parallel()
	_, err := outbox.New(nil, nil, &outbox.Options{Poll: -1, Timeout: -1, Backoff: -1, MaxBackoff: -2, Concurrency: -1, MaxAttempts: -1})
	checkText(t, "New", err, "outbox: ", "the cluster is nil", "deliver is nil", "Poll is -1ns", "Timeout is -1ns", "Backoff is -1ns", "MaxBackoff is -2ns", "Concurrency is -1", "MaxAttempts is -1")
}

// A shop's messages of before a move stay in the pod that it left. Epoch and Seq
// tell the receiver their order.
func TestMessagesOfAShopThatMovedAreDelivered(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil)
		var in inbox
		box := w.newBox(w.cluster, in.receive, nil)
		w.add(box, 1, "a", "b")
		w.move(1, 1, 2)
		w.add(box, 1, "c")
		if old, now := w.count(1, `SELECT COUNT(*) FROM podworks_outbox`), w.count(2, `SELECT COUNT(*) FROM podworks_outbox`); old != 2 || now != 1 {
			t.Fatalf("%d messages in the old pod and %d in the new, want 2 and 1", old, now)
		}
		w.relay(t.Context(), box)
		for _, topic := range []string{"a", "b", "c"} {
			in.await(t, 1, topic)
		}
		in.mu.Lock()
		defer in.mu.Unlock()
		at := map[string]outbox.Message{}
		for _, m := range in.got {
			at[m.Topic] = m
		}
		a, b, c := at["a"], at["b"], at["c"]
		if !(a.Pod == 1 && b.Pod == 1 && c.Pod == 2) {
			t.Errorf("came from pods %d, %d, %d; want 1, 1, 2", a.Pod, b.Pod, c.Pod)
		}
		if !(a.Epoch == b.Epoch && a.Seq < b.Seq && b.Epoch < c.Epoch) {
			t.Errorf("(Epoch, Seq) is %s, want it to grow", fmt.Sprint([][2]uint64{{uint64(a.Epoch), a.Seq}, {uint64(b.Epoch), b.Seq}, {uint64(c.Epoch), c.Seq}}))
		}
	})
}

// move moves a shop of which the suite's tables have all the rows, as a ferry
// does.
func (w *world) move(shop podworks.ShopID, from, to podworks.PodID) {
	w.t.Helper()
	ctx, store := w.t.Context(), directory.New(w.open(w.master))
	m, err := store.Claim(ctx, shop, to, time.Minute)
	if err != nil {
		w.t.Fatal(err)
	}
	nothing := func(context.Context, *sql.Conn) error { return nil }
	for _, step := range []func() error{
		func() error { return fence.Claim(ctx, w.plain[to], shop, m.Token) },
		func() error { return store.Note(ctx, m.Token) },
		func() error {
			return fence.Close(ctx, w.plain[from], fence.Closing{From: m.From, To: to, Token: m.Token, Budget: 10 * time.Second}, nothing)
		},
		func() error { _, err := store.Decide(ctx, m.Token); return err },
		func() error { return fence.Release(ctx, w.plain[to], shop, m.To.Epoch, m.Token) },
		func() error { return store.Finish(ctx, m.Token) },
	} {
		if err := step(); err != nil {
			w.t.Fatal(err)
		}
	}
}
