package testcluster

import (
	"errors"
	"testing"
)

func TestRedisRunsOnItsSocketAndPort(t *testing.T) {
	t.Parallel()
	s := Redis(t, &RedisOptions{TCP: true, AppendOnly: true})
	if err := askSocket(t.Context(), "unix", s.Socket(), "SET k v\r\n", "+OK"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Kill(), s.Restart(t.Context())); err != nil {
		t.Fatal(err)
	}
	// The length of the answer, which comes before it.
	if err := askSocket(t.Context(), "tcp", s.Addr(), "GET k\r\n", "$1"); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	if err := errors.Join(s.Pause(), s.Resume(), s.Stop()); err != nil {
		t.Error(err)
	}
	wantGone(t, s.Pid(), s.Dir())
}

func TestMemcachedRunsOnItsSocketOrPort(t *testing.T) {
	t.Parallel()
	for _, tcp := range []bool{false, true} {
		s := Memcached(t, &MemcachedOptions{TCP: tcp})
		network, address := "unix", s.Socket()
		if tcp {
			network, address = "tcp", s.Addr()
		}
		if err := askSocket(t.Context(), network, address, "set k 0 0 1\r\nv\r\n", "STORED"); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Kill(), s.Restart(t.Context())); err != nil {
			t.Fatal(err)
		}
		if err := askSocket(t.Context(), network, address, "get k\r\n", "END"); err != nil {
			t.Errorf("after a restart: %v", err)
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		wantGone(t, s.Pid(), s.Dir())
	}
}
