package binlog

import (
	"strings"
	"testing"
)

const uuid1, uuid2 = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"

func TestPositionsAreTextAndBack(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"binlog.000001:4",
		"binlog.000001:4/" + uuid1 + "/",
		"binlog.000001:4/7/0-7-100,1-1-7",
		"//" + uuid1 + ":1-5:7:tag:1-3",
		"a:b.000001:99999999999//",
	} {
		p, err := ParsePosition(text)
		if want := strings.TrimSuffix(text, "//"); err != nil || p.String() != want {
			t.Errorf("%s: got %s, %v", text, p, err)
		}
	}
	for text, says := range map[string]string{
		"":                      "neither a file nor GTIDs",
		"//":                    "neither a file nor GTIDs",
		"binlog.000001":         "want file:offset",
		":4":                    "want file:offset",
		"binlog.000001:":        "want file:offset",
		"binlog.000001:04":      "want file:offset",
		"binlog.000001:-4":      "want file:offset",
		"binlog.000001:4/a":     "no GTIDs after the server",
		"binlog.000001:4/a b/":  "server_uuid",
		"bin'log.000001:4":      "no log's name",
		"binlog.000001:4/a/0-1": "GTID",
		"binlog.000001:4/a//":   "GTID",
	} {
		if p, err := ParsePosition(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: got %+v, %v; want an error that says %q", text, p, err, says)
		}
	}
}

func TestPositionsInOneServersFilesAreInOrder(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		p, q string
		want int
		ok   bool
	}{
		{"log.000001:4/7/", "log.000001:4/7/0-7-100", 0, true},
		{"log.000001:900/7/", "log.000002:4/7/", -1, true},
		{"log.1000000:4/7/", "log.999999:5/7/", +1, true},
		{"log.000001:4/7/", "log.000001:5/8/", 0, false},
		{"log.000001:4", "log.000001:5", 0, false},
		{"log.000001:4/7/0-7-100", "/7/0-7-101", 0, false},
	} {
		p, err := ParsePosition(test.p)
		if err != nil {
			t.Fatal(err)
		}
		q, err := ParsePosition(test.q)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := p.Compare(q); got != test.want || ok != test.ok {
			t.Errorf("%s and %s: got %d, %t; want %d, %t", p, q, got, ok, test.want, test.ok)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, text := range []string{"", "binlog.000001:4", "binlog.000001:4/7/0-7-100,1-1-7", "//" + uuid1 + ":1-5:7:tag:1-3", "a:b:c:4/x/"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePosition(text)
		if err != nil {
			return
		}
		again, err := ParsePosition(p.String())
		if err != nil || again != p {
			t.Errorf("%q is %+v, whose text is %q, which is %+v (%v)", text, p, p.String(), again, err)
		}
		if strings.ContainsAny(p.String(), " \t\n'\"`\\;$") {
			t.Errorf("%q must be quoted somewhere", p.String())
		}
		g, err := parseGTIDs(p.GTIDs)
		if err != nil {
			t.Fatalf("%q: %v", p.GTIDs, err)
		}
		if same, err := parseGTIDs(g.String()); err != nil || same.String() != g.String() {
			t.Errorf("%q is %q, which is %v (%v)", p.GTIDs, g, same, err)
		}
	})
}

func TestGTIDSetsGrow(t *testing.T) {
	t.Parallel()
	g, err := parseGTIDs(uuid1 + ":1-5:8:10-12")
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		uuid, tag string
		number    uint64
		want      string
	}{
		{uuid1, "", 13, uuid1 + ":1-5:8:10-13"},
		{uuid1, "", 9, uuid1 + ":1-5:8-13"},
		{uuid1, "", 7, uuid1 + ":1-5:7-13"},
		{uuid1, "", 6, uuid1 + ":1-13"},
		{uuid1, "", 6, uuid1 + ":1-13"},
		{uuid2, "", 1, uuid1 + ":1-13," + uuid2 + ":1"},
		{uuid1, "b", 1, uuid1 + ":1-13:b:1," + uuid2 + ":1"},
		{uuid1, "a", 4, uuid1 + ":1-13:a:4:b:1," + uuid2 + ":1"},
		{uuid1, "a", 3, uuid1 + ":1-13:a:3-4:b:1," + uuid2 + ":1"},
		{uuid1, "", 20, uuid1 + ":1-13:20:a:3-4:b:1," + uuid2 + ":1"},
	} {
		if g.addMySQL(step.uuid, step.tag, step.number); g.String() != step.want {
			t.Errorf("with %s:%s:%d: got %s, want %s", step.uuid, step.tag, step.number, g, step.want)
		}
	}
	g, err = parseGTIDs("0-1-100,2-1-7")
	if err != nil {
		t.Fatal(err)
	}
	g.addMariaDB(0, 2, 101)
	g.addMariaDB(1, 2, 5)
	if want := "0-2-101,1-2-5,2-1-7"; g.String() != want {
		t.Errorf("got %s, want %s", g, want)
	}
	for state, lacks := range map[string]string{
		"0-1-100,0-2-101,1-2-5,2-1-7": "",
		"0-2-500,1-2-5,2-1-8":         "",
		"0-1-500,1-2-5,2-1-7":         "0-2-101",
		"0-2-101,1-2-4,2-1-7":         "1-2-5",
		"":                            "0-2-101",
	} {
		if got, err := g.known(state); err != nil || got != lacks {
			t.Errorf("a server with %q lacks %q, %v; want %q", state, got, err, lacks)
		}
	}
}

func TestPlacesAreInTheOrderOfTheLog(t *testing.T) {
	t.Parallel()
	order := []place{{"b.000001", 4}, {"b.000001", 9}, {"b.000002", 4}, {"b.999999", 1 << 40}, {"b.1000000", 4}}
	for i, p := range order {
		for j, q := range order {
			if got, want := p.compare(q) < 0, i < j; got != want {
				t.Errorf("%v before %v: got %t, want %t", p, q, got, want)
			}
		}
	}
}
