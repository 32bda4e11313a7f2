package redispush_test

import (
	"testing"

	"github.com/podworks/podworks/internal/testcluster"
)

// From Publish to heard, over a unix socket.
func BenchmarkPublishHeard(b *testing.B) {
	server := testcluster.Redis(b, nil)
	p := newPush(b, server.Socket(), nil)
	s := subscribe(b, p, p)
	b.ReportAllocs()
	for v := uint64(2); b.Loop(); v++ {
		if err := p.Publish(b.Context(), v); err != nil {
			b.Fatal(err)
		}
		if got := s.next(); got != v {
			b.Fatalf("heard %d, want %d", got, v)
		}
	}
}
