package sharding

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/testcluster"
)

// golden is the document in the comment of its type.
const golden = `podworks directory, format 1, version 1201
pod 1 version 3 region "us-east1"
pod 2 version 977 region "us-west1"
shop 5 pod 1 epoch 1 open
shop 42 pod 2 epoch 7 closed
end of 2 pods and 2 shops, crc32c 5587df28
`

func goldenDirectory() *Directory {
	d := NewDirectory(nil, nil)
	d.version.Store(1201)
	d.snapshot.learn([]directory.Pod{{ID: 2, Region: "us-west1", Version: 977}, {ID: 1, Region: "us-east1", Version: 3}},
		[]directory.Shop{{ID: 42, Pod: 2, Epoch: 7, State: directory.Closed}, {ID: 5, Pod: 1, Epoch: 1}})
	return d
}

func save(t testing.TB, d *Directory) string {
	t.Helper()
	var buf bytes.Buffer
	do(t, d.Save(&buf))
	return buf.String()
}

func TestADocumentIsWhatItWas(t *testing.T) {
	t.Parallel()
	if got := save(t, goldenDirectory()); got != golden {
		t.Errorf("Save wrote\n%s\nwant\n%s", got, golden)
	}
	d := NewDirectory(nil, nil)
	do(t, d.Load(strings.NewReader(golden)))
	if got := save(t, d); got != golden {
		t.Errorf("after Load, Save wrote\n%s\nwant\n%s", got, golden)
	}
	if r, ok := d.route(5); !ok || r != (podworks.Route{Shop: 5, Pod: 1, Region: "us-east1", Epoch: 1}) {
		t.Errorf("route(5) = %v, %t", r, ok)
	}
	if _, err := d.Lookup(t.Context(), 42); !isClosed(err) {
		t.Errorf("Lookup of a closed shop: %v", err)
	}
	if got := d.Stats(); got.Version != 1201 || got.Shops != 2 || got.Looks != 0 {
		t.Errorf("Stats = %+v, want version 1201 and 2 shops", got)
	}
	// In small pieces, and from a reader that gives the end with the last of them.
	do(t, NewDirectory(nil, nil).Load(iotest.OneByteReader(strings.NewReader(golden))))
	do(t, NewDirectory(nil, nil).Load(iotest.DataErrReader(strings.NewReader(golden))))
}

func TestADocumentKeepsEveryRegionsName(t *testing.T) {
	t.Parallel()
	for _, region := range []podworks.Region{"", "a b", "a\"b\n", "\x00", "é"} {
		d := NewDirectory(nil, nil)
		d.version.Store(1)
		d.learn([]podworks.Route{{Shop: 1, Pod: 1, Region: region, Epoch: 1}})
		got := NewDirectory(nil, nil)
		do(t, got.Load(strings.NewReader(save(t, d))))
		if r, ok := got.route(1); !ok || r.Region != region {
			t.Errorf("region %q became %q, %t", region, r.Region, ok)
		}
	}
}

// A broken document is refused with the line that is wrong, and the last good
// snapshot stays in force.
func TestABrokenDocumentIsRefused(t *testing.T) {
	t.Parallel()
	lines := strings.SplitAfter(strings.TrimSuffix(golden, "\n"), "\n")
	replace := func(n int, line string) string {
		var out strings.Builder
		for i, l := range lines {
			if i == n-1 {
				l = line
			}
			out.WriteString(l)
		}
		return strings.TrimSuffix(out.String(), "\n") + "\n"
	}
	for _, c := range []struct {
		name, document string
		says           []string
	}{
		{"nothing", "", []string{"before line 1", "cut off"}},
		{"something else", "{}\n", []string{"line 1", `"{}`, "podworks directory"}},
		{"another format", replace(1, "podworks directory, format 2, version 1201\n"), []string{"line 1", "format 1"}},
		{"no version", replace(1, "podworks directory, format 1, version 0\n"), []string{"line 1"}},
		{"a version with more to it", replace(1, "podworks directory, format 1, version 12 \n"), []string{"line 1"}},
		{"carriage returns", strings.ReplaceAll(golden, "\n", "\r\n"), []string{"line 1", `\r`}},
		{"a line that is cut off", golden[:90], []string{"line 3", "cut off"}},
		{"the end is missing", strings.Join(lines[:5], ""), []string{"line 6", "cut off"}},
		{"the last line is not ended", strings.TrimSuffix(golden, "\n"), []string{"line 6", "cut off"}},
		{"a shop is missing", replace(4, ""), []string{"line 5", "1 shops"}},
		{"a pod is missing", replace(3, ""), []string{"line 4", "pods above", "2"}},
		{"a digit has changed", replace(5, "shop 43 pod 2 epoch 7 closed\n"), []string{"line 6", "crc32c"}},
		{"a shop that is no number", replace(4, "shop five pod 1 epoch 1 open\n"), []string{"line 4", "shop five", "shop <number>"}},
		{"shop 0", replace(4, "shop 0 pod 1 epoch 1 open\n"), []string{"line 4"}},
		{"a negative shop", replace(4, "shop -5 pod 1 epoch 1 open\n"), []string{"line 4"}},
		{"a shop with zeros", replace(4, "shop 05 pod 1 epoch 1 open\n"), []string{"line 4"}},
		{"a shop beyond 63 bits", replace(4, "shop 9223372036854775808 pod 1 epoch 1 open\n"), []string{"line 4"}},
		{"a shop beyond 64 bits", replace(4, "shop 18446744073709551621 pod 1 epoch 1 open\n"), []string{"line 4"}},
		{"epoch 0", replace(4, "shop 5 pod 1 epoch 0 open\n"), []string{"line 4", "1 or more"}},
		{"an epoch beyond 40 bits", replace(4, "shop 5 pod 1 epoch 1099511627776 open\n"), []string{"line 4"}},
		{"no state", replace(4, "shop 5 pod 1 epoch 1 \n"), []string{"line 4", "open|closed|deleted"}},
		{"another state", replace(4, "shop 5 pod 1 epoch 1 ajar\n"), []string{"line 4", "ajar"}},
		{"a shop twice", replace(5, "shop 5 pod 2 epoch 7 closed\n"), []string{"line 5", "after 5"}},
		{"a pod twice", replace(3, "pod 1 version 3 region \"us-east1\"\n"), []string{"line 3", "after 1"}},
		{"a pod after a shop", replace(5, "pod 3 version 3 region \"us-east1\"\n"), []string{"line 5"}},
		{"a pod beyond 31 bits", replace(2, "pod 2147483648 version 3 region \"a\"\n"), []string{"line 2"}},
		{"a region without quotes", replace(2, "pod 1 version 3 region us-east1\n"), []string{"line 2", "in quotes"}},
		{"an empty line", replace(4, "\n"), []string{"line 4"}},
		{"something after the end", golden + "\n", []string{"line 7", "nothing after"}},
		{"a line without end", replace(4, "shop 5"+strings.Repeat("5", 1<<20)), []string{"line 4", "4096 bytes"}},
	} {
		d := goldenDirectory()
		err := d.Load(strings.NewReader(c.document))
		if err == nil {
			t.Errorf("%s: got no error", c.name)
			continue
		}
		for _, text := range append(c.says, "sharding: ") {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: got %q, want it to say %q", c.name, err, text)
			}
		}
		if len(err.Error()) > 400 {
			t.Errorf("%s: the error has %d bytes", c.name, len(err.Error()))
		}
		if got := save(t, d); got != golden {
			t.Errorf("%s: the snapshot is\n%s\nwant what it was", c.name, got)
		}
	}
	broken := errors.New("the disk is on fire")
	for _, after := range []string{"", golden[:60], golden} {
		err := goldenDirectory().Load(io.MultiReader(strings.NewReader(after), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) {
			t.Errorf("a reader that fails after %d bytes: got %v, want its error", len(after), err)
		}
	}
}

func TestSaveSaysWhatFails(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	if err := NewDirectory(nil, nil).Save(&buf); err == nil || buf.Len() > 0 {
		t.Errorf("Save before the master has answered: %v, and wrote %q; want an error and nothing", err, buf.String())
	}
	full := errors.New("no space")
	if err := goldenDirectory().Save(failingWriter{full}); !errors.Is(err, full) {
		t.Errorf("Save to a full disk: %v, want its error", err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// A document never takes a shop back, nor the version.
func TestAnOldDocumentTakesNothingBack(t *testing.T) {
	t.Parallel()
	doc, err := readDocument(strings.NewReader(golden))
	do(t, err)
	doc.version, doc.shops[1].Epoch, doc.shops[1].State = 1100, 6, directory.Open
	doc.pods[0].Region, doc.pods[0].Version = "old", 2
	var buf bytes.Buffer
	do(t, doc.write(&buf))
	d := goldenDirectory()
	do(t, d.Load(&buf))
	if got := save(t, d); got != golden {
		t.Errorf("after an old document the snapshot is\n%s\nwant it as it was", got)
	}
}

// A process that starts while the master is away serves what a document knows,
// and once the master is back, hears of all that changed since.
func TestAProcessStartsFromADocumentWhileTheMasterIsAway(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		server := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, NoBinlog: true})
		master := openMaster(t, server)
		ctx := t.Context()
		first := NewDirectory(master, nil)
		_, err := first.addShop(ctx, 2, 2, nil)
		do(t, err)
		do(t, first.Refresh(ctx))
		document := save(t, first)
		// After it was written a shop is closed, one is made, and a pod is.
		_, err = first.closeShop(ctx, 1)
		do(t, err)
		do(t, first.AddPod(ctx, 4, "there"))
		_, err = first.addShop(ctx, 3, 4, nil)
		do(t, err)

		do(t, server.Kill())
		second := NewDirectory(master, nil)
		do(t, second.Load(strings.NewReader(document)))
		for shop := range podworks.ShopID(2) {
			if _, err := second.Lookup(ctx, shop+1); err != nil {
				t.Errorf("Lookup of shop %d while the master is away: %v", shop+1, err)
			}
		}
		if _, err := second.Lookup(ctx, 3); err == nil || errors.Is(err, ErrUnknownShop) {
			t.Errorf("Lookup of a shop that isn't in the document: %v, want an error that doesn't say it is unknown", err)
		}
		if err := second.Refresh(ctx); err == nil {
			t.Error("Refresh while the master is away: got no error")
		}
		do(t, server.Restart(ctx))
		// The pool may have connections from before.
		eventually(t, "a refresh", func() bool { return second.Refresh(ctx) == nil })
		if _, err := second.Lookup(ctx, 1); !isClosed(err) {
			t.Errorf("Lookup of a shop that was closed since: %v, want that", err)
		}
		if r, ok := second.route(3); !ok || r != (podworks.Route{Shop: 3, Pod: 4, Region: "there", Epoch: 1}) {
			t.Errorf("route of a shop made since = %v, %t; want pod 4", r, ok)
		}
	})
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(golden))
	f.Add([]byte("podworks directory, format 1, version 1\nend of 0 pods and 0 shops, crc32c 00000000\n"))
	f.Add([]byte(strings.ReplaceAll(golden, "shop 42", "shop 00")))
	f.Add([]byte("pod 1 version 3 region \"\\x00\"\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		doc, err := readDocument(bytes.NewReader(in))
		if err != nil {
			if len(err.Error()) > 500 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		// There is one way to write what it says.
		var out bytes.Buffer
		do(t, doc.write(&out))
		if !bytes.Equal(in, out.Bytes()) {
			t.Errorf("%q was read and written as %q", in, out.Bytes())
		}
	})
}

// BenchmarkDocument1M saves and loads a million shops.
func BenchmarkDocument1M(b *testing.B) {
	d, _ := millionShops(b, numberings["in sequence"])
	d.version.Store(1)
	document := save(b, d)
	b.Run("Save", func(b *testing.B) {
		b.SetBytes(int64(len(document)))
		for b.Loop() {
			do(b, d.Save(io.Discard))
		}
	})
	b.Run("Load", func(b *testing.B) {
		b.SetBytes(int64(len(document)))
		for b.Loop() {
			do(b, NewDirectory(nil, nil).Load(strings.NewReader(document)))
		}
	})
}

func ExampleDirectory_Load() {
	// What another process, or this one, wrote with Save.
	document := `podworks directory, format 1, version 1201
pod 1 version 3 region "us-east1"
shop 5 pod 1 epoch 1 open
shop six pod 1 epoch 1 open
end of 1 pods and 2 shops, crc32c 00000000
`
	d := NewDirectory(nil, nil)
	fmt.Println(d.Load(strings.NewReader(document)))
	// Output:
	// sharding: load the directory: nothing was taken from the document: line 4, "shop six pod 1 epoch 1 open\n": want "shop <number> pod <number> epoch <1 or more> open|closed|deleted"
}
