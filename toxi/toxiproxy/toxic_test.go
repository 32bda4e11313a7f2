package toxiproxy

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi"
)

func TestAttributesHaveTheirUnits(t *testing.T) {
	t.Parallel()
	tests := []struct {
		kind, attributes string
		want             toxi.Toxic
	}{
		{"latency", `{"latency":100,"jitter":7}`, toxi.Latency{Delay: 100 * time.Millisecond, Jitter: 7 * time.Millisecond}},
		{"latency", `{"latency":0,"jitter":0}`, toxi.Latency{}},
		{"latency", `{"latency":31536000000,"jitter":0}`, toxi.Latency{Delay: 365 * 24 * time.Hour}},
		{"bandwidth", `{"rate":3,"shared":true}`, toxi.Bandwidth{Rate: 3000, Shared: true}},
		{"bandwidth", `{"rate":9223372036854775}`, toxi.Bandwidth{Rate: 9223372036854775000}},
		{"slow_close", `{"delay":5}`, toxi.SlowClose{Delay: 5 * time.Millisecond}},
		{"timeout", `{"timeout":5}`, toxi.Timeout{After: 5 * time.Millisecond}},
		{"reset_peer", `{"timeout":5}`, toxi.ResetPeer{After: 5 * time.Millisecond}},
		{"slicer", `{"average_size":10,"size_variation":3,"delay":20}`, toxi.Slicer{Size: 10, Variation: 3, Delay: 20 * time.Microsecond}},
		{"limit_data", `{"bytes":5}`, toxi.LimitData{Bytes: 5}},
		{"noop", `{}`, toxi.Noop{}},
		{"packet_loss", `{"loss_rate":0.25,"correlation":0.5,"retransmit":3}`, toxi.PacketLoss{Rate: 0.25, Correlation: 0.5, Retransmit: 3 * time.Millisecond}},
		{"corrupt", `{"rate":0.001}`, toxi.Corrupt{Rate: 0.001}},
		{"stall", `{"after":5,"bytes":6}`, toxi.Stall{After: 5 * time.Millisecond, Bytes: 6}},
		{"cut", `{"after":5,"bytes":6,"reset":true}`, toxi.Cut{After: 5 * time.Millisecond, Bytes: 6, Reset: true}},
		{"hang", `{}`, toxi.Hang{}},
		{"slow_connect", `{"delay":5}`, toxi.SlowConnect{Delay: 5 * time.Millisecond}},
		{"reject", `{"reset":true}`, toxi.Reject{Reset: true}},
		{"refuse", `{}`, toxi.Refuse{}},
		{"connect_blackhole", `{}`, toxi.ConnectBlackhole{}},
		{"mysql", `{"match":"","times":3,"delay":5,"delay_reply":0,"fail_code":1213,"fail_state":"40001","fail_message":"Deadlock","cut":"none","reset":false}`,
			toxi.MySQL{Times: 3, Delay: 5 * time.Millisecond, Fail: toxi.MySQLError{Code: 1213, State: "40001", Message: "Deadlock"}}},
		{"redis", `{"match":"^GET ","times":0,"delay":0,"delay_reply":6,"fail":"","cut":"after","reset":true}`,
			toxi.Redis{Match: regexp.MustCompile("^GET "), DelayReply: 6 * time.Millisecond, Cut: toxi.CutAfter, Reset: true}},
		{"memcached", `{"match":"","times":0,"delay":7,"delay_reply":0,"fail":"SERVER_ERROR out of memory","cut":"none","reset":false}`,
			toxi.Memcached{Delay: 7 * time.Millisecond, Fail: "SERVER_ERROR out of memory"}},
	}
	seen := make(map[string]bool)
	for _, tt := range tests {
		seen[tt.kind] = true
		k := kindOf(tt.kind)
		if k == nil {
			t.Errorf("there is no type %s", tt.kind)
			continue
		}
		got, wrong := k.set(k.fresh, json.RawMessage(tt.attributes))
		if len(wrong) > 0 || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s %s = %#v, %q, want %#v", tt.kind, tt.attributes, got, wrong, tt.want)
			continue
		}
		if back := string(k.write(got)); back != tt.attributes {
			t.Errorf("%s %s is written as %s", tt.kind, tt.attributes, back)
		}
	}
	for _, k := range kinds {
		if !seen[k.name] {
			t.Errorf("type %s is not tested here", k.name)
		}
	}
}

func TestAttributesThatAreNotGivenStay(t *testing.T) {
	t.Parallel()
	k := kindOf("slicer")
	old := toxi.Slicer{Size: 10, Variation: 3, Delay: time.Second}
	for attributes, want := range map[string]toxi.Slicer{
		`{"size_variation":9}`:  {Size: 10, Variation: 9, Delay: time.Second},
		`{"DELAY":1}`:           {Size: 10, Variation: 3, Delay: time.Microsecond},
		`{"delay":null}`:        old,
		`{"delay":3,"delay":1}`: {Size: 10, Variation: 3, Delay: time.Microsecond},
		`{}`:                    old,
		`null`:                  old,
		``:                      old,
	} {
		if got, wrong := k.set(old, json.RawMessage(attributes)); got != want || wrong != nil {
			t.Errorf("set %q = %+v, %q, want %+v", attributes, got, wrong, want)
		}
	}
	if got, _ := kindOf("packet_loss").set(kindOf("packet_loss").fresh, nil); got != (toxi.PacketLoss{Rate: 0.1}) {
		t.Errorf("a packet_loss with nothing given is %+v, want a loss_rate of 0.1", got)
	}
}

// What Toxiproxy's own command makes of -a shared=true is a string.
func TestFlagsMayBeText(t *testing.T) {
	t.Parallel()
	k := kindOf("bandwidth")
	if got, wrong := k.set(toxi.Bandwidth{}, json.RawMessage(`{"shared":"true"}`)); got != (toxi.Bandwidth{Shared: true}) || wrong != nil {
		t.Errorf("got %+v, %q", got, wrong)
	}
	if got, wrong := k.set(toxi.Bandwidth{Shared: true}, json.RawMessage(`{"shared":"false"}`)); got != (toxi.Bandwidth{}) || wrong != nil {
		t.Errorf("got %+v, %q", got, wrong)
	}
}

// Numbers in place of text come from Toxiproxy's own command, too.
func TestTextMayLookLikeANumber(t *testing.T) {
	t.Parallel()
	k := kindOf("redis")
	got, wrong := k.set(k.fresh, json.RawMessage(`{"match":42,"fail":1.5,"cut":"none"}`))
	if want := (toxi.Redis{Match: regexp.MustCompile("42"), Fail: "1.5"}); !reflect.DeepEqual(got, want) || wrong != nil {
		t.Errorf("got %+v, %q, want %+v", got, wrong, want)
	}
	if got, wrong := k.set(got, json.RawMessage(`{"match":""}`)); got != (toxi.Redis{Fail: "1.5"}) || wrong != nil {
		t.Errorf("without a pattern: %+v, %q", got, wrong)
	}
}

// A toxic that toxi has and the table has not could not be made over HTTP.
func TestEveryToxicOfToxiIsInTheTable(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("../*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]bool)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			// func (T) kind() string { return "…" }
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Recv == nil || fn.Name.Name != "kind" || len(fn.Body.List) != 1 {
				continue
			}
			ret, ok := fn.Body.List[0].(*ast.ReturnStmt)
			if !ok || len(ret.Results) != 1 {
				continue
			}
			if lit, ok := ret.Results[0].(*ast.BasicLit); ok {
				kind, _ := strconv.Unquote(lit.Value)
				found[kind] = true
				if kindOf(kind) == nil {
					t.Errorf("%s has the toxic %s, the table kinds has not", name, kind)
				}
			}
		}
	}
	for _, k := range kinds {
		if !found[k.name] {
			t.Errorf("the table kinds has %s, package toxi has not", k.name)
		}
	}
}

// The documentation's table is what this writes.
func TestTheDocumentationListsAllAttributes(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	row := func(kind, attributes string) { fmt.Fprintf(&b, "//\t%-18s %s\n", kind, attributes) }
	row("type", "attributes")
	for _, k := range kinds {
		fields, _ := k.bind(k.fresh)
		var all []string
		for _, f := range fields {
			switch {
			case f.unit != "":
				all = append(all, f.name+" "+f.unit)
			case strings.HasPrefix(f.want(), "an integer "):
				all = append(all, f.name)
			default:
				all = append(all, fmt.Sprintf("%s (%s)", f.name, f.want()))
			}
		}
		if all == nil {
			all = []string{"none"}
		}
		row(k.name, strings.Join(all, ", "))
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), b.String()) {
		t.Errorf("doc.go should have\n%s", b.String())
	}
}

// toxi must take whatever the table takes, also at the ends of the ranges, and
// know a place for it.
func TestToxiTakesWhatTheTableTakes(t *testing.T) {
	t.Parallel()
	p, err := toxi.Listen("127.0.0.1:9", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, body := range []string{
		`{"type":"latency","attributes":{"latency":31536000000,"jitter":31536000000}}`,
		`{"type":"bandwidth","stream":"both","attributes":{"rate":9223372036854775}}`,
		`{"type":"slicer","attributes":{"average_size":1,"delay":31536000000000}}`,
		`{"type":"packet_loss","attributes":{"loss_rate":1,"correlation":1}}`,
		`{"type":"packet_loss","name":"none","attributes":{"loss_rate":0}}`,
		`{"type":"corrupt","attributes":{"rate":1}}`,
		`{"type":"limit_data","toxicity":0}`,
		`{"type":"hang","toxicity":0.5}`,
		`{"type":"slow_connect","stream":"downstream"}`,
		`{"type":"reject","toxicity":0}`,
		`{"type":"refuse","toxicity":1}`,
		`{"type":"connect_blackhole"}`,
		`{"type":"mysql","attributes":{"match":"(?i)^COMMIT","cut":"after"}}`,
		`{"type":"redis","attributes":{"fail":"LOADING","times":1},"toxicity":0.5}`,
		`{"type":"memcached","attributes":{"delay":31536000000}}`,
	} {
		b, err := parseToxic([]byte(body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		made, err := b.make(nil)
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		if _, err := p.Add(made.fault()); err != nil {
			t.Errorf("%s: toxi: %v", body, err)
		}
	}
}

func TestToxicityZeroStrikesNobody(t *testing.T) {
	t.Parallel()
	for toxicity, want := range map[float64]float64{0: toxi.Never, 0.25: 0.25, 1: 1} {
		got := toxic{kind: kindOf("latency"), stream: "downstream", toxicity: toxicity, toxic: toxi.Latency{}}.fault()
		if got.Toxicity != want {
			t.Errorf("a toxicity of %v is %v in toxi, want %v", toxicity, got.Toxicity, want)
		}
	}
}
