package toxiproxy

import (
	"encoding/json"
	"strings"

	"github.com/podworks/podworks/toxi"
)

// A toxic is one of a proxy's. It never changes; an update makes another.
type toxic struct {
	name     string
	kind     *kind
	stream   string // as the client wrote it, which may be in capitals
	toxicity float64
	toxic    toxi.Toxic

	attributes json.RawMessage // those of toxic
}

// direction reads a stream. There are three: the API has had two, and both is ours.
func direction(stream string) (toxi.Stream, bool) {
	for _, s := range []toxi.Stream{toxi.Downstream, toxi.Upstream, toxi.Both} {
		if strings.EqualFold(s.String(), stream) {
			return s, true
		}
	}
	return 0, false
}

// fault returns t as toxi wants it.
func (t toxic) fault() toxi.Fault {
	f := toxi.Fault{Name: t.name, Toxic: t.toxic, Toxicity: t.toxicity}
	f.Stream, _ = direction(t.stream)
	if t.toxicity == 0 {
		f.Toxicity = toxi.Never // 0 is toxi's default, 1
	}
	if t.kind.on == perProxy {
		f.Toxicity = 0
	}
	return f
}

func (t toxic) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Attributes json.RawMessage `json:"attributes"`
		Name       string          `json:"name"`
		Type       string          `json:"type"`
		Stream     string          `json:"stream"`
		Toxicity   float64         `json:"toxicity"`
	}{t.attributes, t.name, t.kind.name, t.stream, t.toxicity})
}

// A toxicBody is what a client says of a toxic. What it leaves out is nil.
type toxicBody struct {
	name, kind, stream *string
	toxicity           *float64
	attributes         json.RawMessage
}

func parseToxic(data []byte) (toxicBody, error) {
	var b toxicBody
	var wrong faults
	err := object(data, func(name string, value json.RawMessage) {
		switch strings.ToLower(name) {
		case "name":
			b.name = text(name, value, &wrong)
		case "type":
			b.kind = text(name, value, &wrong)
		case "stream":
			b.stream = text(name, value, &wrong)
		case "toxicity":
			var f float64
			if json.Unmarshal(value, &f) != nil || f < 0 || f > 1 {
				wrong.add("toxicity is %s, want a number from 0 to 1", excerpt(value))
			}
			b.toxicity = &f
		case "attributes":
			b.attributes = value
		default:
			wrong.add("a toxic has no field %q, it has name, type, stream, toxicity, attributes", clip(name))
		}
	})
	if err != nil {
		return b, badBody("%v", err)
	}
	return b, wrong.err()
}

// text reads a string.
func text(name string, value json.RawMessage, wrong *faults) *string {
	var s string
	if json.Unmarshal(value, &s) != nil {
		wrong.add("%s is %s, want a string", strings.ToLower(name), excerpt(value))
	}
	return &s
}

// clip shortens a name for an error message.
func clip(name string) string {
	if len(name) <= 64 {
		return name
	}
	return strings.ToValidUTF8(name[:64], "") + "…"
}

// make returns the toxic that b describes, to be put beside others.
func (b toxicBody) make(others []toxic) (toxic, error) {
	t := toxic{stream: "downstream", toxicity: 1}
	if b.stream != nil {
		t.stream = *b.stream
	}
	d, ok := direction(t.stream)
	if !ok {
		return t, errInvalidStream
	}
	name := ""
	if b.kind != nil {
		name = *b.kind
	}
	if t.kind = kindOf(name); t.kind == nil {
		return t, errInvalidType
	}
	t.name = t.kind.name + "_" + t.stream
	if b.name != nil && *b.name != "" {
		t.name = *b.name
	}
	if find(others, t.name) >= 0 {
		return t, errToxicExists
	}
	if b.toxicity != nil {
		t.toxicity = *b.toxicity
	}
	var wrong faults
	t.toxic, wrong = t.kind.set(t.kind.fresh, b.attributes)
	if t.kind.on != perStream && d != toxi.Downstream {
		wrong.add("stream is %q, but a toxic of type %s works on %s: leave it out", t.stream, t.kind.name, t.kind.on)
	}
	t.finish(&wrong)
	return t, wrong.err()
}

// update returns old as b changes it. Its name, type and stream are what they were,
// whatever b says: so it is in Toxiproxy, and clients send them.
func (b toxicBody) update(old toxic) (toxic, error) {
	t := old
	if b.toxicity != nil {
		t.toxicity = *b.toxicity
	}
	var wrong faults
	t.toxic, wrong = t.kind.set(old.toxic, b.attributes)
	t.finish(&wrong)
	return t, wrong.err()
}

// finish adds what is wrong with t beyond its attributes, and if there is nothing,
// what toxi thinks of it. It is asked here, and not when t is used, because a disabled
// proxy's toxics are not used until later.
func (t *toxic) finish(wrong *faults) {
	if t.kind.on == perProxy && t.toxicity != 1 {
		wrong.add("toxicity is %v, want 1: a toxic of type %s works on %s", t.toxicity, t.kind.name, t.kind.on)
	}
	if len(*wrong) > 0 {
		return
	}
	t.attributes = t.kind.write(t.toxic)
	p, err := toxi.New(nil, nil)
	if err == nil {
		_, err = p.Add(t.fault())
		p.Close()
	}
	if err != nil {
		wrong.add("%s", strings.ReplaceAll(strings.TrimPrefix(err.Error(), "toxi: "), "\n", "; "))
	}
}

// find returns the index of the toxic of that name, or -1.
func find(toxics []toxic, name string) int {
	for i, t := range toxics {
		if t.name == name {
			return i
		}
	}
	return -1
}
