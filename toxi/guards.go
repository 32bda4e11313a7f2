package toxi

import (
	"errors"
	"time"
)

// With adds the toxic, calls during, and removes the toxic, also if during panics or ends
// its goroutine. The error says what is wrong with the toxic, and during was not called;
// or that the proxy could not listen again afterwards.
func (p *Proxy) With(t Toxic, during func()) error { return p.with(during, t) }

// Down makes the server one that is down, while during runs: its connections are closed
// and new ones are refused.
func (p *Proxy) Down(during func()) error { return p.with(during, Refuse{}) }

// Slow delays everything the server says by d, while during runs.
func (p *Proxy) Slow(d time.Duration, during func()) error {
	return p.with(during, Latency{Delay: d})
}

// Blackhole makes the network swallow everything, while during runs: nothing gets
// through in either direction, and who connects waits. Afterwards what was
// sent meanwhile arrives, as it does when a cable is put back.
func (p *Proxy) Blackhole(during func()) error {
	return p.with(during, ConnectBlackhole{}, Fault{Toxic: Stall{}, Stream: Both})
}

// Reset resets all connections, and every new one at once, while during runs.
func (p *Proxy) Reset(during func()) error { return p.with(during, ResetPeer{}) }

func (p *Proxy) with(during func(), toxics ...Toxic) (err error) {
	var removes []func() error
	defer func() {
		for i := len(removes) - 1; i >= 0; i-- {
			err = errors.Join(err, removes[i]())
		}
	}()
	for _, t := range toxics {
		remove, err := p.Add(t)
		if err != nil {
			return err
		}
		removes = append(removes, remove)
	}
	during()
	return nil
}
