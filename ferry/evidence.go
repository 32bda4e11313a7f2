package ferry

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/hook"
)

// Evidence says what a move did and what shows that it lost nothing. It is made
// to be kept: as JSON, or with [Evidence.Append] in a file whose lines can't be
// changed unnoticed.
type Evidence struct {
	// Previous is the SHA-256 of the line before in the file, "" in the first.
	Previous string

	From    podworks.Route
	To      podworks.Route
	Token   uint64
	Library string // the version of this module that made the move
	Steps   []StepTime

	RowsCopied   int64
	RowChanges   int64 // applied from the log
	RowsVerified int64 // compared after the copy
	// RowsRepaired is how many of them were found different and copied again before
	// the cutover, and Repaired the first 100 of each table.
	RowsRepaired int64
	Repaired     []Difference
	// RowsLocked is how many were compared under the lock: those touched since they
	// were last compared.
	RowsLocked int64
	Pause      time.Duration

	// Switch compares all of the shop's rows as they were when it was switched: with
	// the lock on the source held, and everything before the marker applied. Nil
	// if Incomplete says why it was not made. The move is verified without it: see
	// DESIGN.md.
	Switch     *Comparison
	Incomplete string
}

// A StepTime says when a step began, the last time that it did.
type StepTime struct {
	Step string
	At   time.Time
}

// proof compares the whole shop as it was at the switch, while the shop trades at
// the target. Both views were taken under the lock, when nobody could write to
// either side, so they are of one place of the source's log, the marker; on
// MySQL too, which has no snapshot whose place in the log it would tell.
//
// What it finds is too late for the switch, and was not to be found before: rows
// that changed on one side without the log or the fence, between the comparison of
// all rows and the lock. The source's rows are still there.
//
// The servers keep old versions of rows for as long as it takes, as they do for a
// dump; so it is given ten times what the comparison before the lock took, and
// a minute.
type proof struct {
	c     *comparer
	views *views
	limit time.Duration
}

// view makes the views ready before writers wait.
func (m *move) view(ctx context.Context, v *verifier) error {
	if m.proof != nil || hook.Off(ctx, hook.Compare) {
		return nil
	}
	views, err := newViews(ctx, m.src, m.dst, m.plan)
	if err != nil {
		return fmt.Errorf("make sessions ready to compare the shop as it is at the switch: %w", err)
	}
	m.proof = &proof{c: v.comparer, views: views, limit: 10*v.took + time.Minute}
	return nil
}

// takeViews takes them under the lock. A session that is broken is made anew
// for the next try.
func (m *move) takeViews(ctx context.Context) error {
	if m.proof == nil {
		return nil
	}
	if err := m.proof.views.take(ctx); err != nil {
		m.dropViews()
		return fmt.Errorf("look at both sides as they are at the switch: %w", err)
	}
	return nil
}

func (m *move) dropViews() {
	if m.proof != nil {
		m.proof.views.close()
		m.proof = nil
	}
}

// prove completes the evidence of a move that is made. The error is that of rows
// that differ.
func (m *move) prove(ctx context.Context) error {
	m.step(ctx, "prove")
	e := m.evidence()
	m.result.Evidence = e
	if m.proof == nil { // of a test
		e.Incomplete = "there was no comparison at the switch"
		return nil
	}
	defer m.dropViews()
	ctx, cancel := context.WithTimeoutCause(ctx, m.proof.limit, fmt.Errorf("not done within %v", m.proof.limit))
	defer cancel()
	var err error
	e.Switch, err = m.proof.c.compare(ctx, m.proof.views, m.shop)
	switch {
	case err != nil && ctx.Err() != nil:
		e.Incomplete = context.Cause(ctx).Error()
	case err != nil:
		e.Incomplete = err.Error()
	case e.Switch.Equal():
		return nil
	default:
		return &DifferenceError{Shop: m.shop, Rows: e.Switch.Differing, Differences: e.Switch.Differences,
			when: fmt.Sprintf(", as of the switch; the move is made, the shop trades in pod %d, and pod %d still has the rows that it had: "+
				"find out who writes there without the log, or to the target without the fence; mend the rows, which the error lists, and don't Clean before", m.dst.pod, m.src.pod)}
	}
	m.log.Warn("the move is verified and made, but the shop could not be compared once more as it was at the switch", "why", e.Incomplete)
	return nil
}

// evidence returns what is known without the comparison.
func (m *move) evidence() *Evidence {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.result
	return &Evidence{
		From: m.claim.From, To: r.Route, Token: m.token, Library: library(), Steps: m.times, Pause: r.Pause,
		RowsCopied: r.RowsCopied, RowChanges: r.RowChanges, RowsVerified: r.RowsVerified, RowsRepaired: r.RowsRepaired,
		Repaired: m.repaired, RowsLocked: m.locks,
	}
}

// library returns this module's version in the running program.
func library() string {
	const path = "github.com/podworks/podworks"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, mod := range append(info.Deps, &info.Main) {
		if mod.Path == path {
			return mod.Version
		}
	}
	return ""
}

// Append adds the evidence as a line of JSON to a file, after setting Previous to
// the hash of the line before it. So the file is a chain: whoever knows the hash
// of a line notices any change of that line or those before it. The file is
// created if it isn't there, and is on disk when Append returns. It is locked
// meanwhile (flock), so several may append to it at once, on one machine.
func (e *Evidence) Append(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("ferry: append to the evidence: %w", err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("ferry: append to the evidence: lock %s: %w", name, err)
	}
	_, last, err := readEvidence(f)
	if err != nil {
		return fmt.Errorf("ferry: append to the evidence in %s: %w", name, err)
	}
	e.Previous = last
	line, err := json.Marshal(e)
	if err == nil {
		_, err = f.Write(append(line, '\n'))
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("ferry: append to the evidence in %s: %w", name, err)
	}
	return nil
}

// ReadEvidence reads what [Evidence.Append] wrote, and the hash of the last line,
// which to keep elsewhere. It fails with ErrChain if a line doesn't have the hash of
// the one before.
func ReadEvidence(r io.Reader) (list []*Evidence, last string, err error) {
	list, last, err = readEvidence(r)
	if err != nil {
		return nil, "", fmt.Errorf("ferry: read the evidence: %w", err)
	}
	return list, last, nil
}

func readEvidence(r io.Reader) (list []*Evidence, last string, err error) {
	in := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if err == io.EOF && len(line) == 0 {
			return list, last, nil
		}
		if err != nil && err != io.EOF {
			return nil, "", err
		}
		if !bytes.HasSuffix(line, []byte{'\n'}) {
			return nil, "", fmt.Errorf("%w: line %d has no end, its writer died; cut it off", ErrChain, n)
		}
		line = line[:len(line)-1]
		e := new(Evidence)
		if err := json.Unmarshal(line, e); err != nil {
			return nil, "", fmt.Errorf("%w: line %d: %w", ErrChain, n, err)
		}
		if e.Previous != last {
			return nil, "", fmt.Errorf("%w: line %d follows one with the hash %q, and has %q", ErrChain, n, last, e.Previous)
		}
		sum := sha256.Sum256(line)
		list, last = append(list, e), hex.EncodeToString(sum[:])
	}
}

// String returns the evidence as a report for a terminal or a log. It has no keys,
// which are values of the shop's.
func (e *Evidence) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Shop %d moved from pod %d to pod %d, where it is at epoch %d. Token %d, ferry %s.\n", e.From.Shop, e.From.Pod, e.To.Pod, e.To.Epoch, e.Token, e.Library)
	for _, s := range e.Steps {
		fmt.Fprintf(&b, "  %s  %s\n", s.At.UTC().Format("2006-01-02T15:04:05.000Z"), s.Step)
	}
	fmt.Fprintf(&b, "Writers waited %v. %d rows copied, %d changes applied, %d rows compared, %d repaired, %d compared under the lock.\n",
		e.Pause, e.RowsCopied, e.RowChanges, e.RowsVerified, e.RowsRepaired, e.RowsLocked)
	for _, line := range summary(e.Repaired) {
		b.WriteString("  - repaired: " + line + "\n")
	}
	if e.Switch == nil {
		fmt.Fprintf(&b, "Not compared as of the switch: %s.\n", e.Incomplete)
		return b.String()
	}
	for _, s := range []Side{e.Switch.Source, e.Switch.Target} {
		fmt.Fprintf(&b, "Pod %d: %s %s, log at %s:%d %s\n", s.Pod, s.Settings["version"], s.Settings["version_comment"], s.Log.File, s.Log.Pos, s.Log.GTIDs)
	}
	b.WriteString("\nAs of the switch:\n" + e.Switch.String())
	return b.String()
}
