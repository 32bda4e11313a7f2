package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi/matrix"
)

// What comes at once to a pod that hangs: more than twice of what one pod's
// requests may take of the storefront.
const flood = 200

// shed wants a crowd at a pod whose stores are all frozen to be answered: those
// for whom there is room when the database's time is over, the others at once and
// with a word of when to try again. The other pod serves meanwhile, and the first
// one is back when its stores are.
func (m *mall) shed(t *testing.T) {
	at, sh := m.servers.Pods[secondPod], m.shops[secondPod-firstPod]
	thaw, err := frozen(at.mysql, at.redis, at.memcached)(t.Context())
	defer func() {
		if thaw != nil {
			_ = thaw(context.WithoutCancel(t.Context())) // for the second time, if all went well
		}
	}()
	if err != nil {
		t.Fatal(err)
	}

	replies, errs := make([]reply, flood), make([]error, flood)
	var visitors sync.WaitGroup
	for i := range flood {
		visitors.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			replies[i], errs[i] = m.send(ctx, sh, fmt.Sprintf("visitor%d", i), http.MethodGet, "/products/3", nil)
		})
	}
	over := make(chan struct{})
	go func() {
		visitors.Wait()
		close(over)
	}()
	for served := 0; ; served++ {
		if seen := m.neighbour(t.Context(), m.shops[0], newToken()); seen.Outcome != matrix.OutcomeUp {
			t.Errorf("a shop of the other pod is %v (%s) meanwhile, want up", seen.Outcome, seen.Text)
		}
		select {
		case <-over:
		default:
			continue
		}
		t.Logf("the other pod has served %d buyers meanwhile", served+1)
		break
	}

	atOnce, slowest := 0, time.Duration(0)
	for i, r := range replies {
		switch {
		case errs[i] != nil:
			t.Errorf("a visitor had no answer within %v: %v", patience, errs[i])
		case r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "":
			t.Errorf("a visitor was answered %d, Retry-After %q: %s; want 503, and when to try again", r.status, r.header.Get("Retry-After"), r.says())
		case r.took < pageWithin:
			atOnce++
		}
		slowest = max(slowest, r.took)
	}
	t.Logf("%d of %d were refused at once, the last after %v", atOnce, flood, slowest.Round(time.Millisecond))
	if atOnce < flood/4 {
		t.Errorf("%d of %d visitors were refused within %v, want %d or more", atOnce, flood, pageWithin, flood/4)
	}

	if err := thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	thawed, last := time.Now(), matrix.Seen{}
	for tick := time.Tick(20 * time.Millisecond); ; <-tick {
		if last = m.product(t.Context(), sh, ""); last.Outcome == matrix.OutcomeUp {
			t.Logf("the pod is back %v after its stores", time.Since(thawed).Round(time.Millisecond))
			return
		}
		if time.Since(thawed) > recoverWithin {
			t.Fatalf("the pod is not back %v after its stores: %s", recoverWithin, last.Text)
		}
	}
}
