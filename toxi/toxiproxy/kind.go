package toxiproxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"

	"github.com/podworks/podworks/toxi"
)

// A kind is a type of toxic: its name in the API and its attributes. The table kinds is
// all that the API knows of them: what it reads, checks, writes and documents.
type kind struct {
	name string
	on   place
	// fresh is a toxic with the attributes that need not be given.
	fresh toxi.Toxic
	// bind returns the attributes of a copy of t, and the copy.
	bind func(t toxi.Toxic) (fields []field, toxic func() toxi.Toxic)
	// conflict says what is wrong with attributes that are right each by itself, or "",
	// in the names that they have here. The last word has toxi.
	conflict func(t toxi.Toxic) string
}

// A place is what a toxic works on.
type place int

const (
	perStream     place = iota // one direction of a connection, or each by itself
	perConnection              // it has no stream
	perProxy                   // it has no stream, and no toxicity
)

func (p place) String() string {
	switch p {
	case perConnection:
		return "the connection"
	case perProxy:
		return "the whole proxy"
	}
	return "the stream"
}

// of makes a kind of the toxics of type T.
func of[T toxi.Toxic](name string, on place, fresh T, fields func(*T) []field) *kind {
	return &kind{
		name: name, on: on, fresh: fresh,
		bind: func(t toxi.Toxic) ([]field, func() toxi.Toxic) {
			v := t.(T)
			return fields(&v), func() toxi.Toxic { return v }
		},
		conflict: func(toxi.Toxic) string { return "" },
	}
}

// but adds to k a check of attributes against each other.
func but[T toxi.Toxic](k *kind, conflict func(T) string) *kind {
	k.conflict = func(t toxi.Toxic) string { return conflict(t.(T)) }
	return k
}

func none[T any](*T) []field { return nil }

// kinds are in the order of the documentation: Toxiproxy's, ours, those that speak a
// protocol.
var kinds = []*kind{
	of("latency", perStream, toxi.Latency{}, func(t *toxi.Latency) []field {
		return []field{milliseconds("latency", &t.Delay), milliseconds("jitter", &t.Jitter)}
	}),
	of("bandwidth", perStream, toxi.Bandwidth{}, func(t *toxi.Bandwidth) []field {
		return []field{integer("rate", "KB/s", &t.Rate, 1000, 0, math.MaxInt64/1000), ours(flag("shared", &t.Shared))}
	}),
	of("slow_close", perStream, toxi.SlowClose{}, func(t *toxi.SlowClose) []field {
		return []field{milliseconds("delay", &t.Delay)}
	}),
	of("timeout", perStream, toxi.Timeout{}, func(t *toxi.Timeout) []field {
		return []field{milliseconds("timeout", &t.After)}
	}),
	of("reset_peer", perStream, toxi.ResetPeer{}, func(t *toxi.ResetPeer) []field {
		return []field{milliseconds("timeout", &t.After)}
	}),
	but(of("slicer", perStream, toxi.Slicer{}, func(t *toxi.Slicer) []field {
		return []field{bytesOf("average_size", &t.Size, 1), bytesOf("size_variation", &t.Variation, 0), microseconds("delay", &t.Delay)}
	}), func(t toxi.Slicer) string {
		if t.Variation < t.Size {
			return ""
		}
		return fmt.Sprintf("size_variation is %d, want less than average_size, which is %d", t.Variation, t.Size)
	}),
	of("limit_data", perStream, toxi.LimitData{}, func(t *toxi.LimitData) []field {
		return []field{bytesOf("bytes", &t.Bytes, 0)}
	}),
	of("noop", perStream, toxi.Noop{}, none[toxi.Noop]),
	of("packet_loss", perStream, toxi.PacketLoss{Rate: 0.1}, func(t *toxi.PacketLoss) []field {
		return []field{share("loss_rate", &t.Rate, false), share("correlation", &t.Correlation, false), ours(milliseconds("retransmit", &t.Retransmit))}
	}),

	of("corrupt", perStream, toxi.Corrupt{}, func(t *toxi.Corrupt) []field {
		return []field{share("rate", &t.Rate, true)}
	}),
	of("stall", perStream, toxi.Stall{}, func(t *toxi.Stall) []field {
		return []field{milliseconds("after", &t.After), bytesOf("bytes", &t.Bytes, 0)}
	}),
	but(of("cut", perStream, toxi.Cut{}, func(t *toxi.Cut) []field {
		return []field{milliseconds("after", &t.After), bytesOf("bytes", &t.Bytes, 0), flag("reset", &t.Reset)}
	}), func(t toxi.Cut) string {
		if t.After > 0 || t.Bytes > 0 {
			return ""
		}
		return "after and bytes are 0, want one of them; reset_peer and reject cut at once"
	}),
	of("hang", perConnection, toxi.Hang{}, none[toxi.Hang]),
	of("slow_connect", perConnection, toxi.SlowConnect{}, func(t *toxi.SlowConnect) []field {
		return []field{milliseconds("delay", &t.Delay)}
	}),
	of("reject", perConnection, toxi.Reject{}, func(t *toxi.Reject) []field {
		return []field{flag("reset", &t.Reset)}
	}),
	of("refuse", perProxy, toxi.Refuse{}, none[toxi.Refuse]),
	of("connect_blackhole", perProxy, toxi.ConnectBlackhole{}, none[toxi.ConnectBlackhole]),

	of("mysql", perConnection, toxi.MySQL{}, func(t *toxi.MySQL) []field {
		return blow(&t.Match, &t.Times, &t.Delay, &t.DelayReply, []field{
			integer("fail_code", "", &t.Fail.Code, 1, 0, math.MaxUint16), line("fail_state", &t.Fail.State), line("fail_message", &t.Fail.Message),
		}, &t.Cut, &t.Reset)
	}),
	of("redis", perConnection, toxi.Redis{}, func(t *toxi.Redis) []field {
		return blow(&t.Match, &t.Times, &t.Delay, &t.DelayReply, []field{line("fail", &t.Fail)}, &t.Cut, &t.Reset)
	}),
	of("memcached", perConnection, toxi.Memcached{}, func(t *toxi.Memcached) []field {
		return blow(&t.Match, &t.Times, &t.Delay, &t.DelayReply, []field{line("fail", &t.Fail)}, &t.Cut, &t.Reset)
	}),
}

// blow are the attributes that toxics of all protocols have, and fail, which is the protocol's.
func blow(match **regexp.Regexp, times *int, delay, late *time.Duration, fail []field, cut *toxi.Moment, reset *bool) []field {
	fields := []field{pattern("match", match), integer("times", "", times, 1, 0, math.MaxInt), milliseconds("delay", delay), milliseconds("delay_reply", late)}
	return append(append(fields, fail...), moment("cut", cut), flag("reset", reset))
}

// kindOf returns the kind of that name, or nil.
func kindOf(name string) *kind {
	for _, k := range kinds {
		if k.name == name {
			return k
		}
	}
	return nil
}

// set returns t with attributes, a JSON object or nothing, written over its own.
func (k *kind) set(t toxi.Toxic, attributes json.RawMessage) (toxi.Toxic, faults) {
	fields, toxic := k.bind(t)
	var wrong faults
	refused := make(map[string]bool)
	if len(attributes) > 0 {
		err := object(attributes, func(name string, value json.RawMessage) {
			for _, f := range fields {
				if strings.EqualFold(f.name, name) {
					refused[f.name] = !f.set(value)
					if refused[f.name] {
						wrong.add("attributes.%s is %s, want %s", f.name, excerpt(value), f.wants())
					}
					return
				}
			}
			wrong.add("a toxic of type %s has no attribute %q, it has %s", k.name, clip(name), k.attributes())
		})
		if err != nil {
			wrong.add("attributes is %v", err)
		}
	}
	for _, f := range fields {
		if !refused[f.name] && !f.valid() {
			wrong.add("attributes.%s is %v, want %s", f.name, f.get(), f.wants())
		}
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	if why := k.conflict(toxic()); why != "" {
		wrong.add("attributes: %s", why)
	}
	return toxic(), wrong
}

func (f field) wants() string {
	if f.unit == "" {
		return f.want()
	}
	return f.want() + " (" + f.unit + ")"
}

// attributes lists the attributes that toxics of the kind have, with their units.
func (k *kind) attributes() string {
	fields, _ := k.bind(k.fresh)
	if len(fields) == 0 {
		return "none"
	}
	var names []string
	for _, f := range fields {
		names = append(names, strings.TrimSpace(f.name+" "+f.unit))
	}
	return strings.Join(names, ", ")
}

// write returns the attributes of t as a JSON object, in the order of the table.
func (k *kind) write(t toxi.Toxic) json.RawMessage {
	fields, _ := k.bind(t)
	var b bytes.Buffer
	b.WriteByte('{')
	for _, f := range fields {
		value := f.get()
		if f.silent && (value == false || value == int64(0)) {
			continue
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		b.Write(encode(f.name))
		b.WriteByte(':')
		b.Write(encode(value))
	}
	b.WriteByte('}')
	return b.Bytes()
}
