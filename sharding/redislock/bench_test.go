package redislock_test

import (
	"testing"
	"time"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding/redislock"
)

// What a writer pays: a lease, its check, its release, over a unix socket. The
// PING is one round trip, for comparison.
func BenchmarkWriter(b *testing.B) {
	p := newPod(b, testcluster.Redis(b, nil), nil)
	p.set(open)
	b.Run("lease+check+release", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			writeOnce(b, p)
		}
	})
	b.Run("16 at once", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(8) // times two processors
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				writeOnce(b, p)
			}
		})
	})
	b.Run("1000 leases held", func(b *testing.B) {
		for range 1000 {
			p.write()
		}
		b.ReportAllocs()
		for b.Loop() {
			writeOnce(b, p)
		}
	})
	b.Run("ping", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := p.client.Ping(b.Context()).Err(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func writeOnce(b *testing.B, p *pod) {
	s, err := p.Lease(b.Context(), from)
	if err != nil {
		b.Error(err)
		return
	}
	if err := s.Check(b.Context()); err != nil {
		b.Error(err)
	}
	if err := s.Release(); err != nil {
		b.Error(err)
	}
}

func BenchmarkCheck(b *testing.B) {
	p := newPod(b, testcluster.Redis(b, nil), &redislock.Options{Lease: time.Hour})
	p.set(open)
	s := p.write()
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Check(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// What a mover pays to close and to reopen an idle shop.
func BenchmarkCloseReopen(b *testing.B) {
	p := newPod(b, testcluster.Redis(b, nil), nil)
	p.set(open)
	for token := uint64(1); b.Loop(); token++ {
		if err := p.Close(b.Context(), from, 2, token, time.Minute, nothing); err != nil {
			b.Fatal(err)
		}
		if err := p.Reopen(b.Context(), from, token); err != nil {
			b.Fatal(err)
		}
	}
}
