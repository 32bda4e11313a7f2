package peer_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"
)

// How far from the latency that was asked for are the round trips of a message each 2 ms.
// The round trip itself is part of the error.
func BenchmarkLatency(b *testing.B) { latency(b, 100) }

// The same with two toxics, whose latencies add up.
func BenchmarkLatencyOfTwo(b *testing.B) { latency(b, 60, 40) }

func latency(b *testing.B, parts ...int64) {
	var faults []fault
	var asked time.Duration
	for i, ms := range parts {
		faults = append(faults, fault{Name: fmt.Sprint("part", i), Type: "latency", Stream: "downstream", Toxicity: 1, Attributes: map[string]int64{"latency": ms}})
		asked += time.Duration(ms) * time.Millisecond
	}
	c := &contest{B: b, kinds: present(ours, theirs), rounds: 5, ratios: []string{"p99-error-µs"}}
	c.run(func(k kind) sample {
		all := Faults{c.addrs[k], faults}
		c.agents[k].ask(b, "Add", all, new(None))
		defer c.agents[k].ask(b, "Remove", all, new(None))
		errs := make([]time.Duration, 0, 500)
		for _, got := range c.steady(k, scale(500, 50), 2*time.Millisecond) {
			errs = append(errs, (got - asked).Abs())
		}
		slices.Sort(errs)
		return sample{
			"p50-error-µs": microseconds(percentile(errs, 50)),
			"p99-error-µs": microseconds(percentile(errs, 99)),
			"max-error-µs": microseconds(errs[len(errs)-1]),
		}
	})
}

// steady sends n messages, one each pace, to an echo, and returns how long each took to come back.
func (c *contest) steady(k kind, n int, pace time.Duration) []time.Duration {
	c.Helper()
	conn := c.dial(k)
	defer conn.Close()
	if _, err := conn.Write(request(opEcho, 0)); err != nil {
		c.Fatalf("%s: %v", k, err)
	}
	times := make([]time.Duration, n)
	began := time.Now()
	var sender sync.WaitGroup
	sender.Go(func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for range n {
			<-tick.C
			if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, uint64(time.Since(began)))); err != nil {
				c.Errorf("%s: %v", k, err)
				return
			}
		}
	})
	defer sender.Wait()
	var message [8]byte
	for i := range times {
		if _, err := io.ReadFull(conn, message[:]); err != nil {
			c.Fatalf("%s: %v", k, err)
		}
		times[i] = time.Since(began) - time.Duration(binary.BigEndian.Uint64(message[:]))
	}
	return times
}

// How fast a second's worth of bytes passes, as a share of the rate that was asked for.
func BenchmarkBandwidth(b *testing.B) {
	for _, rate := range []int64{100, 1_000, 50_000} {
		b.Run(fmt.Sprintf("kB=%d", rate), func(b *testing.B) {
			c := &contest{B: b, kinds: present(ours, theirs), rounds: 3}
			limit := fault{Name: "slow", Type: "bandwidth", Stream: "upstream", Toxicity: 1, Attributes: map[string]int64{"rate": rate}}
			c.run(func(k kind) sample {
				all := Faults{c.addrs[k], []fault{limit}}
				c.agents[k].ask(b, "Add", all, new(None))
				defer c.agents[k].ask(b, "Remove", all, new(None))
				conn := c.dial(k)
				defer conn.Close()
				took := c.sink(k, conn, rate*1000)
				return sample{"of-asked": 1 / took.Seconds()}
			})
		})
	}
}
