package toxitest_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/toxi"
	"github.com/podworks/podworks/toxi/toxitest"
)

// What happens to checkout when Redis is down? Or slow, hung, flapping? This file is
// an answer: a shop, its dependency, and a test that breaks the dependency in every
// way and looks at what a buyer sees.
func TestWhenRedisIsDownCheckoutStillAnswers200(t *testing.T) {
	t.Parallel()
	redis := toxitest.New(t, startRedis(t)) // a real one, and a proxy before it
	checkout := shop{redis: redis.Addr()}   // the shop connects to the proxy

	const (
		full     = "Thank you! Others also bought: socks\n"
		degraded = "Thank you!\n"
	)
	wantPage(t, "before", checkout, full)

	redis.Down(func() { wantPage(t, "down", checkout, degraded) })
	redis.Slow(time.Minute, func() { wantPage(t, "slow", checkout, degraded) })
	redis.Blackhole(func() { wantPage(t, "gone from the network", checkout, degraded) })
	redis.Reset(func() { wantPage(t, "resetting", checkout, degraded) })
	redis.With(toxi.Reject{}, func() { wantPage(t, "closing connections", checkout, degraded) })
	redis.With(toxi.LimitData{Bytes: 3}, func() { wantPage(t, "cut off in its answer", checkout, degraded) })

	wantPage(t, "afterwards", checkout, full)
}

// wantPage fails unless checkout answers 200 and this text.
func wantPage(t *testing.T, when string, checkout http.Handler, want string) {
	t.Helper()
	r := httptest.NewRecorder()
	checkout.ServeHTTP(r, httptest.NewRequest("POST", "/checkout", nil))
	if r.Code != 200 || r.Body.String() != want {
		t.Errorf("%s: checkout answers %d %q, want 200 %q", when, r.Code, r.Body, want)
	}
}

// A shop thanks its buyers and tells them what others have bought, if it finds out
// in time.
type shop struct{ redis string }

func (s shop) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, "Thank you!")
	if also, err := s.get("also-bought"); err == nil {
		fmt.Fprint(w, " Others also bought: ", also)
	}
	fmt.Fprintln(w)
}

// get asks Redis, for no longer than a buyer should wait for what is not essential.
func (s shop) get(key string) (string, error) {
	const budget = 100 * time.Millisecond
	c, err := net.DialTimeout("tcp", s.redis, budget)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(budget))
	fmt.Fprintf(c, "GET %s\r\n", key)
	in := bufio.NewScanner(c)
	var size int
	if !in.Scan() {
		return "", fmt.Errorf("no answer: %w", in.Err())
	}
	if _, err := fmt.Sscanf(in.Text(), "$%d", &size); err != nil {
		return "", err
	}
	if !in.Scan() || len(in.Text()) != size {
		return "", fmt.Errorf("half an answer: %w", in.Err())
	}
	return in.Text(), nil
}

// startRedis starts a Redis that knows what others have bought.
func startRedis(t *testing.T) (addr string) {
	t.Helper()
	addr = testcluster.Redis(t, &testcluster.RedisOptions{TCP: true}).Addr()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "SET also-bought socks\r\n")
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "+OK\r\n" {
		t.Fatalf("SET answers %q, %v, want +OK", line, err)
	}
	return addr
}
