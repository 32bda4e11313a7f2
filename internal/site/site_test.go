package site_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/podworks/podworks/internal/site"
)

//go:noinline
func where() site.Site { return site.Caller() }

func TestCallerIsTheCallersCaller(t *testing.T) {
	t.Parallel()
	got := []string{where().String(), where().String()}
	func() { got = append(got, where().String()) }()
	var wg sync.WaitGroup
	wg.Go(func() { got = append(got, where().String()) })
	wg.Wait()
	defer func() {
		got = append(got, where().String())
		for i, want := range []string{"16", "16", "17", "19", "22"} {
			if want = "site/site_test.go:" + want; got[i] != want {
				t.Errorf("call %d: got %q, want %q", i, got[i], want)
			}
		}
	}()
}

func TestNowhereIsEmpty(t *testing.T) {
	t.Parallel()
	if got := site.Site(0).String(); got != "" {
		t.Errorf("got %q, want nothing", got)
	}
}

func TestAFunctionsSiteIsItsBeginning(t *testing.T) {
	t.Parallel()
	fn := func() {}
	if got, want := site.Func(fn).Start(), "site/site_test.go:40"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestUseSkipsWhatItIsTold(t *testing.T) {
	t.Parallel()
	if got, want := site.Use(), "site/site_test.go:48"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := site.Use("github.com/podworks/podworks/internal/site_test."); strings.Contains(got, "site_test.go") {
		t.Errorf("got %q, want no line of this file", got)
	}
}

func BenchmarkCaller(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		where()
	}
}
