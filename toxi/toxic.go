package toxi

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"
)

// A Toxic is a fault on the wire: one of this package's toxics, or a [Fault],
// which says where and whom a toxic strikes. A toxic by itself strikes every
// connection, in the direction from the server to the client if it has one.
type Toxic interface {
	// kind is the toxic's type in Toxiproxy's API and in default names.
	kind() string
	// problems says what is wrong with its attributes.
	problems() []string
	// reach says what the toxic works on.
	reach() reach
}

// reach is what a toxic works on.
type reach int

const (
	oneWay  reach = iota // the bytes of one direction, or of each by itself
	bothWay              // the conversation: always both directions
	connect              // a connection before its first byte
	door                 // the proxy's listener
)

// Stream is a direction of a connection.
type Stream uint8

const (
	Downstream Stream = iota // from the server to the client; the default
	Upstream                 // from the client to the server
	Both                     // each of the two, by itself
)

func (s Stream) String() string {
	switch s {
	case Downstream:
		return "downstream"
	case Upstream:
		return "upstream"
	case Both:
		return "both"
	}
	return fmt.Sprintf("Stream(%d)", uint8(s))
}

// covers reports whether a toxic on s works on the direction d.
func (s Stream) covers(d Stream) bool { return s == d || s == Both }

// Never is the Toxicity of a fault that strikes no connection.
const Never = -1.0

// A Fault is a toxic and whom it strikes. It is a Toxic itself, so that wherever
// one is asked for, the other will do.
type Fault struct {
	// Name is unique in a proxy. The default is made of the toxic's type and its
	// stream, "latency_downstream", and a number if that is taken.
	Name string
	// Toxic is what happens; not another Fault.
	Toxic Toxic
	// Stream is the direction it happens to. It means nothing to toxics that work
	// on connections or on the whole proxy, and must not be set with them.
	Stream Stream
	// Toxicity is the share of connections it strikes: over 0 to 1, where 0 means
	// 1; [Never] strikes none. Whom it strikes is fixed for the life of a connection
	// by the proxy's seed, the fault's name and the connection's number.
	Toxicity float64
	// Only, if not nil, strikes only connections for which it returns true. It is called
	// once for each, without locks held, and must not wait. See [First], [Every] and
	// [From].
	Only func(Conn) bool
}

func (f Fault) kind() string { return f.Toxic.kind() }

func (f Fault) reach() reach { return f.Toxic.reach() }

func (f Fault) problems() []string {
	if f.Toxic == nil {
		return []string{"Toxic is nil, want the toxic that strikes"}
	}
	if p := stranger(f.Toxic); p != "" {
		return []string{"Toxic " + p}
	}
	if _, ok := f.Toxic.(Fault); ok {
		return []string{"Toxic is a Fault, want the toxic itself"}
	}
	out := f.Toxic.problems()
	if f.Stream > Both {
		out = append(out, fmt.Sprintf("Stream is %d, want Downstream, Upstream or Both", f.Stream))
	}
	if !(f.Toxicity == Never || f.Toxicity >= 0 && f.Toxicity <= 1) {
		out = append(out, fmt.Sprintf("Toxicity is %v, want 0 to 1, where 0 means 1, or Never", f.Toxicity))
	}
	switch f.Toxic.reach() {
	case oneWay:
	case door:
		if f.Toxicity != 0 || f.Only != nil {
			out = append(out, "Toxicity and Only are set, but the toxic works on the whole proxy")
		}
		fallthrough
	default:
		if f.Stream != Downstream {
			out = append(out, fmt.Sprintf("Stream is %v, but the toxic does not work on one direction", f.Stream))
		}
	}
	return out
}

// place returns t as a Fault, checked.
func place(t Toxic) (Fault, error) {
	if t == nil {
		return Fault{}, errors.New("toxi: the toxic is nil")
	}
	if p := stranger(t); p != "" {
		return Fault{}, errors.New("toxi: the toxic " + p)
	}
	f, ok := t.(Fault)
	if !ok {
		f = Fault{Toxic: t}
	}
	problems := f.problems()
	if len(problems) == 0 {
		return f, nil
	}
	name := f.Name
	if name == "" && f.Toxic != nil && stranger(f.Toxic) == "" && reflect.TypeOf(f.Toxic) != faultType {
		name = f.Toxic.kind()
	}
	var errs []error
	for _, p := range problems {
		errs = append(errs, errors.New(p))
	}
	return Fault{}, fmt.Errorf("toxi: toxic %s: %w", cmp.Or(name, "(none)"), errors.Join(errs...))
}

var faultType = reflect.TypeFor[Fault]()

// stranger says what is wrong with a Toxic that is none of this package's types. Pointers to
// these, and structs that embed them, have their methods and so pass the compiler,
// but a switch over the types doesn't know them.
func stranger(t Toxic) string {
	is := reflect.TypeOf(t)
	if is.Kind() == reflect.Struct && is.PkgPath() == faultType.PkgPath() {
		return ""
	}
	if is.Kind() == reflect.Pointer && is.Elem().PkgPath() == faultType.PkgPath() {
		return fmt.Sprintf("is a pointer, want a %v itself", is.Elem())
	}
	return fmt.Sprintf("is a %v, want one of package toxi", is)
}

// fraction is the share of connections that f strikes.
func (f Fault) fraction() float64 {
	switch f.Toxicity {
	case 0:
		return 1
	case Never:
		return 0
	}
	return f.Toxicity
}

// Latency delays what passes, keeping its order and its pace: every byte leaves
// Delay after it came, plus or minus a random share of Jitter. Several add up.
// It holds at most 32 MiB a connection and direction; a sender that is faster than
// that waits.
type Latency struct {
	Delay  time.Duration
	Jitter time.Duration
}

// Bandwidth lets at most Rate bytes a second pass, a connection and direction for
// itself; with Shared, all the proxy's connections together. Rate 0 lets nothing
// pass until the toxic goes.
type Bandwidth struct {
	Rate   int64 // bytes per second
	Shared bool
}

// SlowClose passes on the end of a stream Delay after it came.
type SlowClose struct {
	Delay time.Duration
}

// Timeout drops all data, and closes the connection After it began to. If After is
// 0, it closes it when the toxic is removed.
type Timeout struct {
	After time.Duration
}

// ResetPeer sends a TCP RST to both ends, After it began to work on a connection: at
// once when 0, also on a connection that is idle. Until then nothing passes in its
// direction; what shall pass is for [Cut]. A unix socket has no RST and is closed.
type ResetPeer struct {
	After time.Duration
}

// Slicer cuts what passes into pieces of Size bytes, plus or minus a random share of
// Variation, each written by itself, with Delay after each.
type Slicer struct {
	Size      int // bytes, at least 1
	Variation int // bytes, less than Size
	Delay     time.Duration
}

// LimitData lets Bytes bytes of the direction pass and closes the connection; 0
// closes it at the first byte. What passed before is not forgotten when the toxic is
// changed.
type LimitData struct {
	Bytes int64
}

// Noop does nothing.
type Noop struct{}

// PacketLoss loses a share of what is read, and delivers it late, as TCP does after
// a retransmission: nothing is missing and the order stays. What follows a loss
// waits behind it.
type PacketLoss struct {
	Rate        float64       // share of reads that are lost, 0 to 1
	Correlation float64       // how much a loss depends on the one before, 0 to 1
	Retransmit  time.Duration // until it is sent again, doubling when that is lost too; 0 means 200ms
}

// Corrupt flips one bit in a share of the bytes.
type Corrupt struct {
	Rate float64 // share of bytes, over 0 to 1
}

// Stall lets nothing pass, like a cable pulled out: from the beginning, or After a
// time, or behind the first Bytes bytes. When it goes, what it held goes on its way and nothing is
// lost.
type Stall struct {
	After time.Duration
	Bytes int64
}

// Cut ends the connection After a time, or when Bytes bytes of the direction
// have passed, whichever is first; one of them must be set. With Reset both ends get a
// RST.
type Cut struct {
	After time.Duration
	Bytes int64
	Reset bool
}

// Hang accepts a connection and does nothing with it: the server is not dialed and
// nothing is read, until the toxic goes.
type Hang struct{}

// SlowConnect waits Delay between accepting a connection and dialing the server.
type SlowConnect struct {
	Delay time.Duration
}

// Reject accepts a connection and ends it, with Reset by a RST. The server is not
// dialed.
type Reject struct {
	Reset bool
}

// Refuse makes the proxy a server that is down: its connections are closed and new
// ones are refused. See [Proxy.Down].
type Refuse struct{}

// ConnectBlackhole answers no attempt to connect: a client's connect waits until the
// toxic goes, or the client gives up. Connections that stand are left alone. On Linux the
// client's own system waits, as for a host that is gone; elsewhere, and on unix
// sockets, the connect succeeds and nothing follows. See [Proxy.Blackhole].
type ConnectBlackhole struct{}

func (Latency) kind() string          { return "latency" }
func (Bandwidth) kind() string        { return "bandwidth" }
func (SlowClose) kind() string        { return "slow_close" }
func (Timeout) kind() string          { return "timeout" }
func (ResetPeer) kind() string        { return "reset_peer" }
func (Slicer) kind() string           { return "slicer" }
func (LimitData) kind() string        { return "limit_data" }
func (Noop) kind() string             { return "noop" }
func (PacketLoss) kind() string       { return "packet_loss" }
func (Corrupt) kind() string          { return "corrupt" }
func (Stall) kind() string            { return "stall" }
func (Cut) kind() string              { return "cut" }
func (Hang) kind() string             { return "hang" }
func (SlowConnect) kind() string      { return "slow_connect" }
func (Reject) kind() string           { return "reject" }
func (Refuse) kind() string           { return "refuse" }
func (ConnectBlackhole) kind() string { return "connect_blackhole" }

func (Latency) reach() reach          { return oneWay }
func (Bandwidth) reach() reach        { return oneWay }
func (SlowClose) reach() reach        { return oneWay }
func (Timeout) reach() reach          { return oneWay }
func (ResetPeer) reach() reach        { return oneWay }
func (Slicer) reach() reach           { return oneWay }
func (LimitData) reach() reach        { return oneWay }
func (Noop) reach() reach             { return oneWay }
func (PacketLoss) reach() reach       { return oneWay }
func (Corrupt) reach() reach          { return oneWay }
func (Stall) reach() reach            { return oneWay }
func (Cut) reach() reach              { return oneWay }
func (Hang) reach() reach             { return connect }
func (SlowConnect) reach() reach      { return connect }
func (Reject) reach() reach           { return connect }
func (Refuse) reach() reach           { return door }
func (ConnectBlackhole) reach() reach { return door }

// longest is the longest time that an attribute may ask for: far beyond any test,
// and far from where sums of times overflow.
const longest = 365 * 24 * time.Hour

// A list collects what is wrong with attributes.
type list []string

func (l *list) time(name string, d time.Duration) {
	if d < 0 || d > longest {
		*l = append(*l, fmt.Sprintf("%s is %v, want 0 to a year", name, d))
	}
}

func (l *list) least(name string, v, least int64) {
	if v < least {
		*l = append(*l, fmt.Sprintf("%s is %d, want %d or more", name, v, least))
	}
}

func (l *list) share(name string, v float64) {
	if !(v >= 0 && v <= 1) || math.IsNaN(v) {
		*l = append(*l, fmt.Sprintf("%s is %v, want 0 to 1", name, v))
	}
}

func (t Latency) problems() (l []string) {
	(*list)(&l).time("Delay", t.Delay)
	(*list)(&l).time("Jitter", t.Jitter)
	return l
}

func (t Bandwidth) problems() (l []string) {
	(*list)(&l).least("Rate", t.Rate, 0)
	return l
}

func (t SlowClose) problems() (l []string) {
	(*list)(&l).time("Delay", t.Delay)
	return l
}

func (t Timeout) problems() (l []string) {
	(*list)(&l).time("After", t.After)
	return l
}

func (t ResetPeer) problems() (l []string) {
	(*list)(&l).time("After", t.After)
	return l
}

func (t Slicer) problems() (l []string) {
	(*list)(&l).least("Size", int64(t.Size), 1)
	(*list)(&l).least("Variation", int64(t.Variation), 0)
	if t.Size >= 1 && t.Variation >= t.Size {
		l = append(l, fmt.Sprintf("Variation is %d, want less than Size, which is %d", t.Variation, t.Size))
	}
	(*list)(&l).time("Delay", t.Delay)
	return l
}

func (t LimitData) problems() (l []string) {
	(*list)(&l).least("Bytes", t.Bytes, 0)
	return l
}

func (Noop) problems() []string { return nil }

func (t PacketLoss) problems() (l []string) {
	(*list)(&l).share("Rate", t.Rate)
	(*list)(&l).share("Correlation", t.Correlation)
	(*list)(&l).time("Retransmit", t.Retransmit)
	return l
}

func (t Corrupt) problems() (l []string) {
	if !(t.Rate > 0 && t.Rate <= 1) {
		l = append(l, fmt.Sprintf("Rate is %v, want over 0 to 1", t.Rate))
	}
	return l
}

func (t Stall) problems() (l []string) {
	(*list)(&l).time("After", t.After)
	(*list)(&l).least("Bytes", t.Bytes, 0)
	return l
}

func (t Cut) problems() (l []string) {
	(*list)(&l).time("After", t.After)
	(*list)(&l).least("Bytes", t.Bytes, 0)
	if t.After == 0 && t.Bytes == 0 {
		l = append(l, "After and Bytes are 0, want one of them; ResetPeer and Reject cut at once")
	}
	return l
}

func (Hang) problems() []string { return nil }

func (t SlowConnect) problems() (l []string) {
	(*list)(&l).time("Delay", t.Delay)
	return l
}

func (Reject) problems() []string           { return nil }
func (Refuse) problems() []string           { return nil }
func (ConnectBlackhole) problems() []string { return nil }
