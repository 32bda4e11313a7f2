package toxi_test

import (
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi"
)

// A foreign toxic has the methods and is none.
type foreign struct{ toxi.Latency }

func TestBadToxicsAreRefusedWithEveryProblemNamed(t *testing.T) {
	t.Parallel()
	const year = 366 * 24 * time.Hour
	tests := []struct {
		toxic toxi.Toxic
		want  []string
	}{
		{nil, []string{"nil"}},
		{toxi.Fault{}, []string{"Toxic is nil"}},
		{toxi.Fault{Toxic: toxi.Fault{Toxic: toxi.Noop{}}}, []string{"Toxic is a Fault"}},
		{toxi.Fault{Toxic: toxi.Fault{}}, []string{"Toxic is a Fault"}},
		{&toxi.Latency{}, []string{"pointer", "toxi.Latency"}},
		{(*toxi.Latency)(nil), []string{"pointer", "toxi.Latency"}},
		{&toxi.Fault{}, []string{"pointer", "toxi.Fault"}},
		{toxi.Fault{Toxic: &toxi.Refuse{}}, []string{"pointer", "toxi.Refuse"}},
		{foreign{}, []string{"toxi_test.foreign", "package toxi"}},
		{&foreign{}, []string{"toxi_test.foreign", "package toxi"}},
		{toxi.Latency{Delay: -1, Jitter: year}, []string{"Delay is -1ns", "Jitter is 8784h"}},
		{toxi.Bandwidth{Rate: -1}, []string{"Rate is -1"}},
		{toxi.SlowClose{Delay: -1}, []string{"Delay is -1ns"}},
		{toxi.Timeout{After: -1}, []string{"After is -1ns"}},
		{toxi.ResetPeer{After: year}, []string{"After is"}},
		{toxi.Slicer{}, []string{"Size is 0"}},
		{toxi.Slicer{Size: 10, Variation: 10, Delay: -1}, []string{"Variation is 10", "Delay is -1ns"}},
		{toxi.Slicer{Size: -5, Variation: -1}, []string{"Size is -5", "Variation is -1"}},
		{toxi.LimitData{Bytes: -1}, []string{"Bytes is -1"}},
		{toxi.PacketLoss{Rate: 1.1, Correlation: -0.1, Retransmit: -1}, []string{"Rate is 1.1", "Correlation is -0.1", "Retransmit is -1ns"}},
		{toxi.Corrupt{}, []string{"Rate is 0"}},
		{toxi.Corrupt{Rate: 2}, []string{"Rate is 2"}},
		{toxi.Stall{After: -1, Bytes: -1}, []string{"After is -1ns", "Bytes is -1"}},
		{toxi.Cut{}, []string{"After and Bytes"}},
		{toxi.Cut{After: -1, Bytes: -2}, []string{"After is -1ns", "Bytes is -2"}},
		{toxi.SlowConnect{Delay: -1}, []string{"Delay is -1ns"}},
		{toxi.Fault{Toxic: toxi.Latency{Delay: -1}, Stream: 3, Toxicity: 7}, []string{"Delay is -1ns", "Stream is 3", "Toxicity is 7"}},
		{toxi.Fault{Toxic: toxi.Noop{}, Toxicity: -0.5}, []string{"Toxicity is -0.5"}},
		{toxi.Fault{Toxic: toxi.Noop{}, Toxicity: nan()}, []string{"Toxicity is NaN"}},
		{toxi.Fault{Toxic: toxi.Hang{}, Stream: toxi.Upstream}, []string{"Stream is upstream"}},
		{toxi.Fault{Toxic: toxi.Refuse{}, Toxicity: 0.5, Stream: toxi.Both}, []string{"Toxicity and Only", "Stream is both"}},
		{toxi.Fault{Toxic: toxi.ConnectBlackhole{}, Only: toxi.First(1)}, []string{"Toxicity and Only"}},
	}
	p := proxy(t, "127.0.0.1:1", nil)
	add(t, p, toxi.Latency{Delay: 1})
	for _, tt := range tests {
		for _, ask := range []struct {
			name string
			do   func() error
		}{
			{"Add", func() error { _, err := p.Add(tt.toxic); return err }},
			{"Update", func() error { return p.Update("latency_downstream", tt.toxic) }},
			{"With", func() error { return p.With(tt.toxic, func() { t.Error("the block was run") }) }},
			{"Play", func() error { return p.Play(t.Context(), toxi.Step{For: 1, Toxic: tt.toxic}) }},
		} {
			err := ask.do()
			if err == nil {
				t.Errorf("%s(%+v) gives no error", ask.name, tt.toxic)
				continue
			}
			for _, want := range append(tt.want, "toxi") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s(%+v) says %q, want it to contain %q", ask.name, tt.toxic, err, want)
				}
			}
		}
		if got := p.Faults(); len(got) != 1 || got[0].Toxic != (toxi.Latency{Delay: 1}) {
			t.Fatalf("%+v has changed the faults to %v", tt.toxic, got)
		}
	}
}

func nan() float64 { var zero float64; return zero / zero }
