package sharding

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"strconv"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
)

// A document is a snapshot on its way through a file:
//
//	podworks directory, format 1, version 1201
//	pod 1 version 3 region "us-east1"
//	pod 2 version 977 region "us-west1"
//	shop 5 pod 1 epoch 1 open
//	shop 42 pod 2 epoch 7 closed
//	end of 2 pods and 2 shops, crc32c 5587df28
//
// Pods and shops stand in the order of their numbers. There is one way to write
// a snapshot, byte for byte. The checksum is over all lines above its own.
type document struct {
	version uint64 // the document misses nothing up to it; it may know more
	pods    []directory.Pod
	shops   []directory.Shop
}

// Save writes the snapshot as a text document, one line a shop, from which a
// process can start while the master is away: see Load. A directory that never
// had an answer from the master has nothing to save, which is an error. A
// million shops are about 30 MB.
//
// Write to a new file and rename it, so that there is always a whole one.
func (d *Directory) Save(w io.Writer) error {
	// The version first: what is learnt from now on may be in the document too.
	doc := document{version: d.version.Load()}
	if doc.version == 0 {
		return errors.New("sharding: save the directory: it has not heard from the master yet, and would overwrite what one that has wrote before; let it Refresh first")
	}
	doc.pods, doc.shops = d.snapshot.all()
	if err := doc.write(w); err != nil {
		return fmt.Errorf("sharding: save the directory: %w", err)
	}
	return nil
}

// Load takes a document of this directory that Save wrote, in this process or
// another, now or long ago: the snapshot keeps what it knows better, and the next
// look at the master asks for all that changed since the document. Nothing
// of a document that is broken is taken; the error names the line.
func (d *Directory) Load(r io.Reader) error {
	doc, err := readDocument(r)
	if err != nil {
		return fmt.Errorf("sharding: load the directory: nothing was taken from the document: %w", err)
	}
	d.snapshot.learn(doc.pods, doc.shops)
	// Hosts are not in the document: the next look no longer asks for those that
	// changed before its version.
	d.hosts.forget()
	raise(&d.version, doc.version)
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (doc *document) write(w io.Writer) error {
	var sum uint32
	var line []byte
	buf := bufio.NewWriterSize(w, 64<<10)
	put := func() {
		sum = crc32.Update(sum, castagnoli, line)
		buf.Write(line) // Flush has its error
	}
	line = fmt.Appendf(nil, "podworks directory, format 1, version %d\n", doc.version)
	put()
	for _, p := range doc.pods {
		line = fmt.Appendf(line[:0], "pod %d version %d region %q\n", p.ID, p.Version, string(p.Region))
		put()
	}
	for _, s := range doc.shops {
		line = strconv.AppendInt(append(line[:0], "shop "...), int64(s.ID), 10)
		line = strconv.AppendInt(append(line, " pod "...), int64(s.Pod), 10)
		line = strconv.AppendUint(append(line, " epoch "...), uint64(s.Epoch), 10)
		line = append(append(append(line, ' '), s.State.String()...), '\n')
		put()
	}
	fmt.Fprintln(buf, doc.end(sum))
	return buf.Flush()
}

// readDocument reads a document from its first line to the end of r.
func readDocument(r io.Reader) (*document, error) {
	var doc document
	var sum uint32
	number := 0
	buf := bufio.NewReaderSize(r, 4<<10) // more than any line
	known := map[podworks.PodID]bool{}
	for {
		number++
		line, err := buf.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			err = fmt.Errorf("it has more than %d bytes", len(line))
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil, fmt.Errorf("it ends before line %d, and has no line that says so: it was cut off", number)
		case errors.Is(err, io.EOF):
			err = errors.New("the document ends in the middle of it: it was cut off")
		case err != nil:
			return nil, fmt.Errorf("read line %d: %w", number, err)
		}
		ended := false
		if err == nil {
			ended, err = doc.take(line[:len(line)-1], number, known, sum)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d, %.60q: %w", number, line, err)
		}
		if ended {
			break
		}
		sum = crc32.Update(sum, castagnoli, line)
	}
	switch _, err := buf.ReadByte(); {
	case err == nil:
		return nil, fmt.Errorf("line %d: want nothing after the line that ends the document", number+1)
	case !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("read to the end: %w", err)
	}
	return &doc, nil
}

// take takes one line, without its end, into the document. It reports whether
// it is the last one.
func (doc *document) take(line []byte, number int, known map[podworks.PodID]bool, sum uint32) (ended bool, err error) {
	l := scanner{rest: line}
	switch {
	case number == 1:
		l.want("podworks directory, format 1, version ")
		doc.version = l.number(1, math.MaxUint64)
		if !l.done() {
			return false, errors.New(`want "podworks directory, format 1, version <1 or more>"`)
		}
	case bytes.HasPrefix(line, []byte("pod ")) && len(doc.shops) == 0:
		var p directory.Pod
		l.want("pod ")
		p.ID = podworks.PodID(l.number(1, math.MaxInt32))
		l.want(" version ")
		p.Version = l.number(0, math.MaxUint64)
		l.want(" region ")
		region, err := strconv.Unquote(string(l.rest))
		if err != nil || strconv.Quote(region) != string(l.rest) || l.bad {
			return false, errors.New(`want "pod <number> version <number> region <in quotes>"`)
		}
		p.Region = podworks.Region(region)
		if n := len(doc.pods); n > 0 && doc.pods[n-1].ID >= p.ID {
			return false, fmt.Errorf("want a pod after %d", doc.pods[n-1].ID)
		}
		known[p.ID] = true
		doc.pods = append(doc.pods, p)
	case bytes.HasPrefix(line, []byte("shop ")):
		var s directory.Shop
		l.want("shop ")
		s.ID = podworks.ShopID(l.number(1, math.MaxInt64))
		l.want(" pod ")
		s.Pod = podworks.PodID(l.number(1, math.MaxInt32))
		l.want(" epoch ")
		s.Epoch = podworks.Epoch(l.number(1, maxEpoch))
		l.want(" ")
		var ok bool
		if s.State, ok = directory.ParseState(string(l.rest)); !ok || l.bad {
			return false, errors.New(`want "shop <number> pod <number> epoch <1 or more> open|closed|deleted"`)
		}
		if n := len(doc.shops); n > 0 && doc.shops[n-1].ID >= s.ID {
			return false, fmt.Errorf("want a shop after %d", doc.shops[n-1].ID)
		}
		if !known[s.Pod] {
			return false, fmt.Errorf("want one of the pods above, which %d is not", s.Pod)
		}
		doc.shops = append(doc.shops, s)
	default:
		if want := doc.end(sum); string(line) != want {
			return false, fmt.Errorf("want a pod (before all shops), a shop, or %q", want)
		}
		return true, nil
	}
	return false, nil
}

// end returns the last line.
func (doc *document) end(sum uint32) string {
	return fmt.Sprintf("end of %d pods and %d shops, crc32c %08x", len(doc.pods), len(doc.shops), sum)
}

// A scanner reads a line from left to right and remembers whether it was as
// wanted.
type scanner struct {
	rest []byte
	bad  bool
}

// want skips text.
func (s *scanner) want(text string) {
	if len(s.rest) < len(text) || string(s.rest[:len(text)]) != text {
		s.bad = true
		return
	}
	s.rest = s.rest[len(text):]
}

// number reads a decimal number between low and high, without sign or leading
// zeros.
func (s *scanner) number(low, high uint64) uint64 {
	var n uint64
	digits := 0
	for ; digits < len(s.rest) && '0' <= s.rest[digits] && s.rest[digits] <= '9'; digits++ {
		digit := uint64(s.rest[digits] - '0')
		if n > (math.MaxUint64-digit)/10 {
			s.bad = true
		}
		n = 10*n + digit
	}
	if digits == 0 || digits > 1 && s.rest[0] == '0' || n < low || n > high {
		s.bad = true
	}
	s.rest = s.rest[digits:]
	return n
}

// done reports whether the line was as wanted, to its end.
func (s *scanner) done() bool { return !s.bad && len(s.rest) == 0 }
