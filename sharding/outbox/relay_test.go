package outbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/cut"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/sharding/outbox"
)

// without switches a protection off.
func without(ctx context.Context, p hook.Protection) context.Context {
	return hook.With(ctx, &hook.Set{Off: map[hook.Protection]bool{p: true}})
}

func TestACommitWakesTheRelay(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		dialer := new(cut.Dialer)
		w := newWorld(t, f, dialer.Use)
		var in inbox
		box := w.newBox(w.cluster, in.receive, &never)
		w.relay(t.Context(), box)
		var took []time.Duration
		for i := range 50 {
			topic := fmt.Sprint(i)
			if i%10 == 9 { // and so does one whose outcome is unknown
				dialer.At(cut.BeforeTheAnswer)
			}
			start := time.Now()
			if err := add(t.Context(), w.cluster, box, 1, topic); (i%10 == 9) != errors.Is(err, podworks.ErrOutcomeUnknown) {
				t.Fatalf("message %d: the transaction ended with %v", i, err)
			}
			in.await(t, 1, topic)
			took = append(took, time.Since(start))
		}
		w.awaitEmpty(1)
		slices.Sort(took)
		t.Logf("of 50 deliveries half came within %v of the transaction's beginning, and all within %v", took[25], took[49])
	})
}

// Two processes, each of which writes to every shop and runs a relay that never
// looks: a message whose process finds its shop taken is left to the other relay.
func TestTwoRelaysDeliverOnceEach(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil)
		var in inbox
		var boxes []*outbox.Outbox
		clusters := []*sharding.Cluster{w.cluster, w.newCluster(nil)}
		for _, c := range clusters {
			box := w.newBox(c, in.receive, &never)
			boxes = append(boxes, box)
			w.relay(t.Context(), box)
		}
		const each = 30
		var wg sync.WaitGroup
		for p := range boxes {
			for shop := podworks.ShopID(1); shop <= 3; shop++ {
				wg.Go(func() {
					for i := range each {
						if err := add(t.Context(), clusters[p], boxes[p], shop, fmt.Sprintf("%d of %d", i, p)); err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
		wg.Wait()
		w.awaitEmpty(1)
		w.awaitEmpty(2)
		for shop := podworks.ShopID(1); shop <= 3; shop++ {
			got := in.of(shop)
			if len(got) != 2*each {
				t.Errorf("shop %d: %d deliveries, want %d", shop, len(got), 2*each)
			}
			for p := range boxes { // in order, for each writer
				var want, of []string
				for i := range each {
					want = append(want, fmt.Sprintf("%d of %d", i, p))
				}
				for _, topic := range got {
					if strings.HasSuffix(topic, fmt.Sprintf("of %d", p)) {
						of = append(of, topic)
					}
				}
				checkTopics(t, fmt.Sprintf("shop %d, writer %d", shop, p), of, want...)
			}
		}
	})
}

// A relay that finds a shop taken leaves its message to the one that has it, which
// looks once more after it has let go.
func TestAMessageThatComesWhileItsShopIsTakenIsNotForgotten(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil)
		began, end := make(chan string, 10), make(chan struct{})
		first := w.newBox(w.newCluster(nil), func(_ context.Context, m outbox.Message) error {
			began <- m.Topic
			<-end
			return nil
		}, &never)
		w.relay(t.Context(), first)
		w.add(first, 1, "a")
		recv(t, "the first relay's delivery", began)

		var in inbox
		second := w.newBox(w.newCluster(nil), in.receive, &outbox.Options{Poll: time.Hour, Concurrency: 1})
		w.relay(t.Context(), second)
		await(t, "the second relay's only look", func() bool { return second.Stats().Pods[1].Pending == 1 })
		w.add(second, 1, "b")
		w.add(second, 3, "c")
		in.await(t, 3, "c") // so the only worker has tried shop 1
		close(end)
		if got := recv(t, "the first relay's second delivery", began); got != "b" {
			t.Errorf("the first relay delivered %q, want b", got)
		}
		w.awaitEmpty(1)
	})
}

// While a relay delivers for a shop, another one leaves the shop alone; its twin,
// without the lock, doesn't.
func TestOneRelayAtATimeServesAShop(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		shared := newWorld(t, f, nil)
		for _, c := range []struct {
			name string
			ctx  context.Context
			want []string
		}{
			{"locked", t.Context(), nil},
			{"twin", without(t.Context(), outbox.OffLock), []string{"a"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				w := shared.with(t)
				began, end := make(chan outbox.Message, 10), make(chan struct{})
				one := outbox.Options{Poll: 40 * time.Millisecond, Concurrency: 1}
				first := w.newBox(w.newCluster(nil), func(_ context.Context, m outbox.Message) error {
					began <- m
					<-end
					return nil
				}, &one)
				w.add(first, 1, "a")
				w.relay(t.Context(), first)
				recv(t, "the first relay's delivery", began)

				var in inbox
				second := w.newBox(w.newCluster(nil), in.receive, &one)
				w.relay(c.ctx, second)
				for i := range 5 { // each found by a look, in which shop 1 comes first
					topic := fmt.Sprint(i)
					w.add(first, 3, topic)
					in.await(t, 3, topic)
				}
				checkTopics(t, "the second relay delivered meanwhile", in.of(1), c.want...)
				close(end)
				w.awaitEmpty(1)
				checkTopics(t, "the second relay delivered", in.of(1), c.want...)
			})
		}
	})
}

// A message that fails holds back those behind it, in its shop alone. Its twin
// overtakes.
func TestAMessageThatFailsHoldsBackItsShop(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		shared := newWorld(t, f, nil)
		for _, c := range []struct {
			name string
			ctx  context.Context
			want []string
		}{
			{"in order", t.Context(), []string{"a", "b", "c", "d"}},
			{"twin", without(t.Context(), outbox.OffHold), []string{"a", "c", "d", "b"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				w := shared.with(t)
				var in inbox
				var attempts []int
				var open atomic.Bool
				box := w.newBox(w.cluster, func(ctx context.Context, m outbox.Message) error {
					if m.Topic == "b" {
						attempts = append(attempts, m.Attempt) // one at a time
						if !open.Load() {
							return errors.New("not b, not yet")
						}
					}
					return in.receive(ctx, m)
				}, nil)
				w.add(box, 1, "a", "b", "c", "d")
				stop := w.relay(c.ctx, box)
				await(t, "three attempts", func() bool { return box.Stats().Failed >= 3 })
				w.add(box, 3, "of another shop")
				in.await(t, 3, "of another shop")
				open.Store(true)
				w.awaitEmpty(1)
				checkTopics(t, "delivered", in.of(1), c.want...)
				stop()
				for i, n := range attempts {
					if n != i+1 {
						t.Errorf("attempt %d said it was attempt %d", i+1, n)
					}
				}
			})
		}
	})
}

func TestAPoisonedMessageIsParked(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil)
		var in inbox
		var cured atomic.Bool
		var mu sync.Mutex
		told := map[string]int{}
		tell := func(what string) func(outbox.Message, error) {
			return func(m outbox.Message, err error) {
				mu.Lock()
				defer mu.Unlock()
				told[what+" "+m.Topic]++
				if err == nil {
					t.Errorf("%s %s without an error", what, m.Topic)
				}
			}
		}
		box := w.newBox(w.cluster, func(ctx context.Context, m outbox.Message) error {
			switch {
			case cured.Load():
				if m.Attempt != 1 {
					t.Errorf("attempt %d of %q after Unpark, want the first", m.Attempt, m.Topic)
				}
			case m.Topic == "poison":
				return errors.New("no")
			case m.Topic == "panic":
				panic("aaah")
			case m.Topic == "hopeless":
				return fmt.Errorf("gone: %w", outbox.ErrPark)
			}
			return in.receive(ctx, m)
		}, &outbox.Options{Poll: 40 * time.Millisecond, Backoff: time.Millisecond, MaxAttempts: 3, Hooks: outbox.Hooks{Failed: tell("failed"), Parked: tell("parked")}})
		w.add(box, 1, "a", "poison", "panic", "hopeless", "b")
		w.relay(t.Context(), box)
		in.await(t, 1, "b")
		await(t, "what is left to be the parked", func() bool { return w.count(1, `SELECT COUNT(*) FROM podworks_outbox`) == 3 })
		mu.Lock()
		if got, want := fmt.Sprint(told), "map[failed panic:2 failed poison:2 parked hopeless:1 parked panic:1 parked poison:1]"; got != want {
			t.Errorf("the hooks were told %s, want %s", got, want)
		}
		mu.Unlock()
		if n := w.count(1, `SELECT COUNT(*) FROM podworks_outbox WHERE error LIKE '%aaah%relay%serve%'`); n != 1 {
			t.Errorf("%d rows keep the panic and its stack, want 1", n)
		}
		if s := box.Stats(); s.Delivered != 2 || s.Failed != 4 || s.Parked != 3 {
			t.Errorf("%d delivered, %d failed, %d parked; want 2, 4, 3", s.Delivered, s.Failed, s.Parked)
		}
		await(t, "the gauge of the parked", func() bool { return box.Stats().Pods[1].Parked == 3 })

		cured.Store(true)
		if n, err := box.Unpark(t.Context()); n != 3 || err != nil {
			t.Errorf("Unpark = %d, %v; want 3", n, err)
		}
		w.awaitEmpty(1)
		checkTopics(t, "delivered", in.of(1), "a", "b", "poison", "panic", "hopeless")
	})
}

// Numbers are given at INSERT, and rows are seen at COMMIT.
func TestALateCommitIsNotSkippedNorWaitedFor(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil)
		var in inbox
		box := w.newBox(w.cluster, in.receive, nil)
		w.relay(t.Context(), box)
		err := w.cluster.Do(t.Context(), 1, func(ctx context.Context, s *sharding.Scope) error {
			return s.Tx(ctx, func(ctx context.Context, _ *sharding.Tx) error {
				if err := box.Add(ctx, "early number", nil); err != nil {
					return err
				}
				for _, topics := range [][]string{{"a"}, {"b", "c", "d", "e", "f", "g", "h", "i"}} { // the servers have other plans for many than for one
					w.add(box, 1, topics...)
					in.await(t, 1, topics[len(topics)-1])
					w.awaitEmpty(1)
				}
				w.add(box, 3, "of another shop")
				in.await(t, 3, "of another shop")
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		in.await(t, 1, "early number")
		checkTopics(t, "delivered", in.of(1), "a", "b", "c", "d", "e", "f", "g", "h", "i", "early number")
	})
}

func TestADeliveryThatHangsIsCutOffAndHoldsBackItsShopAlone(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil)
		var in inbox
		causes := make(chan error, 100)
		box := w.newBox(w.cluster, func(ctx context.Context, m outbox.Message) error {
			if m.Shop == 1 && m.Attempt <= 2 {
				<-ctx.Done()
				causes <- context.Cause(ctx)
				return ctx.Err()
			}
			return in.receive(ctx, m)
		}, &outbox.Options{Poll: 40 * time.Millisecond, Backoff: time.Millisecond, Timeout: 300 * time.Millisecond})
		w.add(box, 1, "a", "b")
		w.add(box, 3, "c")
		w.relay(t.Context(), box)
		in.await(t, 3, "c")
		checkText(t, "why the delivery's context ended", recv(t, "the end of the first delivery", causes), "Timeout, 300ms")
		in.await(t, 1, "b")
		checkTopics(t, "delivered", in.of(1), "a", "b")
	})
}

func TestAReceiverThatWasDownGetsEverythingInOrder(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil)
		var in inbox
		var up atomic.Bool
		box := w.newBox(w.cluster, func(ctx context.Context, m outbox.Message) error {
			if !up.Load() {
				return errors.New("connection refused")
			}
			return in.receive(ctx, m)
		}, &outbox.Options{Poll: 40 * time.Millisecond, Backoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond, MaxAttempts: 1 << 30})
		w.relay(t.Context(), box)
		var want []string
		for i := range 100 { // more than a worker reads at a time
			want = append(want, fmt.Sprint(i))
		}
		for shop := podworks.ShopID(1); shop <= 3; shop++ {
			w.add(box, shop, want...)
		}
		await(t, "failures", func() bool { return box.Stats().Failed >= 10 })
		await(t, "the gauges", func() bool {
			s := box.Stats()
			return s.Pods[1].Pending == 200 && s.Pods[2].Pending == 100 && s.Pods[2].Oldest > 0 && s.Pods[2].Oldest < time.Hour
		})
		up.Store(true)
		for shop := podworks.ShopID(1); shop <= 3; shop++ {
			in.await(t, shop, "99")
			checkTopics(t, fmt.Sprintf("delivered of shop %d", shop), in.of(shop), want...)
		}
		await(t, "the gauges to fall", func() bool { p := box.Stats().Pods[1]; return p.Pending == 0 && p.Oldest == 0 })
	})
}

// Run's end begins no delivery, tells the one under way, and notes it if it went
// through all the same.
func TestRunEndsInGoodOrder(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		shared := newWorld(t, f, nil)
		for _, c := range []struct {
			name string
			err  error
			want []string // of the next relay
		}{
			{"delivered", nil, []string{"b"}},
			{"interrupted", errors.New("interrupted"), []string{"a", "b"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				w := shared.with(t)
				began := make(chan string, 10)
				box := w.newBox(w.cluster, func(ctx context.Context, m outbox.Message) error {
					began <- m.Topic
					<-ctx.Done()
					return c.err
				}, nil)
				w.add(box, 1, "a", "b")
				stop := w.relay(t.Context(), box)
				recv(t, "a delivery", began)
				stop()
				if len(began) > 0 {
					t.Errorf("delivery of %q was begun after the end", <-began)
				}
				if s := box.Stats(); s.Failed != 0 || len(s.Pods) != 0 {
					t.Errorf("after the end: %d failed and %d pods are served, want none", s.Failed, len(s.Pods))
				}
				var in inbox
				w.relay(t.Context(), w.newBox(w.cluster, in.receive, nil))
				in.await(t, 1, "b")
				checkTopics(t, "the next relay delivered", in.of(1), c.want...)
				for _, m := range in.got {
					if m.Attempt != 1 {
						t.Errorf("%q came with attempt %d, want 1", m.Topic, m.Attempt)
					}
				}
			})
		}
	})
}

func TestRunRunsOnceAndOutsideOfScopes(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil)
		box := w.newBox(w.cluster, refuse, nil)
		err := w.cluster.Do(t.Context(), 1, func(ctx context.Context, _ *sharding.Scope) error { return box.Run(ctx) })
		if !errors.Is(err, sharding.ErrRefused) {
			t.Errorf("Run in a scope: got %v, want %v", err, sharding.ErrRefused)
		}
		stop := w.relay(t.Context(), box)
		checkText(t, "a second Run", box.Run(t.Context()), "running already")
		stop()
		w.relay(t.Context(), box)()
	})
}

// A pod that can't be served is told of, keeps no other waiting, and is served
// again when it can be.
func TestAPodThatFailsStopsNoOther(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil)
		w.exec(2, `DROP TABLE podworks_outbox`)
		var in inbox
		var log lockedBuffer
		box := w.newBox(w.cluster, in.receive, &outbox.Options{Poll: 40 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		w.relay(t.Context(), box)
		await(t, "the error", func() bool { return box.Stats().Pods[2].Err != nil })
		checkText(t, "the pod's error", box.Stats().Pods[2].Err, "pod 2", "run Migrate")
		w.add(box, 1, "a")
		in.await(t, 1, "a")
		if err := box.Stats().Pods[1].Err; err != nil {
			t.Errorf("the other pod's error: %v", err)
		}
		if err := box.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.add(box, 2, "b")
		in.await(t, 2, "b")
		await(t, "the end of the error", func() bool { return box.Stats().Pods[2].Err == nil })
		await(t, "the log to say so", func() bool { return strings.Contains(log.String(), "served again") })
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Errorf("%d lines were logged, want one for each change:\n%s", n, log.String())
		}
	})
}

type lockedBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// A delivery that can't be noted is noted later, rather than repeated, and the
// lock that its session may still have is given up.
func TestADeliveryIsNotedInTheEnd(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		shared := newWorld(t, f, nil)
		const lock = `CONCAT('podworks_outbox.', CRC32(DATABASE()), '.1')`
		for _, c := range []struct {
			name string
			fail func(*world)
			mend func(*world, *outbox.Outbox)
		}{
			{"session lost", func(w *world) {
				w.exec(1, fmt.Sprintf(`KILL %d`, w.count(1, `SELECT IS_USED_LOCK(`+lock+`)`)))
			}, func(*world, *outbox.Outbox) {}},
			{"table away", func(w *world) {
				w.exec(1, `RENAME TABLE podworks_outbox TO away`)
			}, func(w *world, box *outbox.Outbox) {
				await(t, "the error", func() bool { return box.Stats().Pods[1].Err != nil })
				w.exec(1, `RENAME TABLE away TO podworks_outbox`)
			}},
		} {
			t.Run(c.name, func(t *testing.T) {
				w := shared.with(t)
				var in inbox
				box := w.newBox(w.cluster, func(ctx context.Context, m outbox.Message) error {
					if m.Topic == "a" {
						c.fail(w)
					}
					return in.receive(ctx, m)
				}, nil)
				w.add(box, 1, "a")
				w.relay(t.Context(), box)
				in.await(t, 1, "a")
				c.mend(w, box)
				w.awaitEmpty(1)
				await(t, "the lock to be free", func() bool { return w.count(1, `SELECT IS_FREE_LOCK(`+lock+`)`) == 1 })
				w.add(box, 1, "b")
				in.await(t, 1, "b")
				checkTopics(t, "delivered", in.of(1), "a", "b")
			})
		}
	})
}

// Nothing that a writer was told is committed is lost with the server.
func TestAServerThatIsKilledUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		server := testcluster.Start(t, &testcluster.MySQLOptions{Family: f})
		w := worldOn(t, server, nil)
		var in inbox
		box := w.newBox(w.cluster, in.receive, nil)
		w.relay(t.Context(), box)

		ctx, stop := context.WithCancel(t.Context())
		var mu sync.Mutex
		acknowledged := map[podworks.ShopID][]string{}
		var wg sync.WaitGroup
		for writer := range 6 {
			shop := podworks.ShopID(writer%3 + 1)
			wg.Go(func() {
				tick := time.NewTicker(2 * time.Millisecond)
				defer tick.Stop()
				for i := 0; ctx.Err() == nil; i++ {
					topic := fmt.Sprintf("%d of %d", i, writer)
					if add(t.Context(), w.cluster, box, shop, topic) == nil {
						mu.Lock()
						acknowledged[shop] = append(acknowledged[shop], topic)
						mu.Unlock()
					}
					<-tick.C
				}
			})
		}
		total := func() (n int) {
			mu.Lock()
			defer mu.Unlock()
			for _, topics := range acknowledged {
				n += len(topics)
			}
			return n
		}
		await(t, "writes", func() bool { return total() > 100 })
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := total()
		await(t, "writes after the restart", func() bool { return total() > before+100 })
		stop()
		wg.Wait()
		w.awaitEmpty(1)
		w.awaitEmpty(2)
		delivered := 0
		for shop, topics := range acknowledged {
			got := in.of(shop)
			delivered += len(got)
			for _, topic := range topics {
				if !slices.Contains(got, topic) {
					t.Errorf("shop %d: %q was acknowledged and not delivered", shop, topic)
				}
			}
		}
		t.Logf("%d messages acknowledged, %d deliveries", total(), delivered)

		// What can't be deleted is better not delivered at all.
		w.exec(1, `SET GLOBAL read_only = ON`)
		w.exec(1, `INSERT INTO podworks_outbox (shop_id, pending, epoch, id, topic, payload, created, due) VALUES (1, 1, 1, 'x', 'read only', '', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))`)
		await(t, "the pod's error to be that", func() bool {
			err := box.Stats().Pods[1].Err
			return err != nil && strings.Contains(err.Error(), "read_only")
		})
		if slices.Contains(in.of(1), "read only") {
			t.Error("a message was delivered though its server is read_only")
		}
		w.exec(1, `SET GLOBAL read_only = OFF`)
		in.await(t, 1, "read only")
	})
}
