package master

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
)

// A Sequence hands out ids that are unique over all pods and processes, from
// blocks that it takes from the primary. Its methods may be called concurrently.
//
// The ids of one process ascend; those of several are interleaved by blocks.
// There are gaps: a process that ends takes the rest of its two blocks with it.
//
// A primary that was promoted without the old one's last commits would hand out
// their blocks again; see Advance.
type Sequence struct {
	master *Master
	name   string
	size   int64

	mu      sync.Mutex
	current block
	spare   block
	fill    *fill     // under way, or nil
	pause   time.Time // no block is fetched ahead before this
}

// SequenceOptions configure a Sequence. The zero value is ready to use.
type SequenceOptions struct {
	// Block is how many ids are taken at a time, and how many can be lost with a
	// process, twice. The next block is fetched when half of one is left, so with
	// a primary that is 100 ms away and a block of 1,000, up to 5,000 ids a second
	// come without waiting. Default 1000, at most 1,000,000.
	Block int64
}

// A block holds the ids from next up to but not including end.
type block struct{ next, end int64 }

func (b block) left() int64 { return b.end - b.next }

// A fill is a block being fetched. The result is there when done is closed.
type fill struct {
	done  chan struct{}
	err   error
	ended bool // with an error because the fetcher's context ended
}

// Fetching ahead is done by a caller who has an id already: it must not take
// long, nor be tried by everyone while the primary is away.
const (
	aheadPatience = time.Second
	aheadPause    = time.Second
)

// Sequence returns the sequence of that name, of 1 to 64 letters, digits and _-.
// It does no I/O; the sequence is made by its first use, and begins with 1 (see
// Advance). One Sequence per name and process is enough, and wastes the fewest
// ids.
func (m *Master) Sequence(name string, opts *SequenceOptions) (*Sequence, error) {
	var o SequenceOptions
	if opts != nil {
		o = *opts
	}
	o.Block = cmp.Or(o.Block, 1000)
	err := checkSequence(name)
	if o.Block < 1 || o.Block > 1_000_000 {
		err = errors.Join(err, fmt.Errorf("Block is %d, want 1 to 1,000,000", o.Block))
	}
	if err != nil {
		return nil, fmt.Errorf("master: sequence: %w", err)
	}
	return &Sequence{master: m, name: name, size: o.Block}, nil
}

func checkSequence(name string) error {
	if !isWord(name, 64) {
		return fmt.Errorf("name is %.70q, want 1 to 64 letters, digits and _-", name)
	}
	return nil
}

// Next returns an id of 1 or more that nobody else gets. The caller that takes a
// block into its second half fetches the next one before it returns, within a
// second; the others don't wait. It may be called within a shop's transaction.
// Within Tx it may need a second connection of the primary's pool, so take ids
// before.
//
// While the primary is away the ids that are left go on being handed out, and
// then Next fails with ErrPrimary.
func (s *Sequence) Next(ctx context.Context) (int64, error) {
	s.mu.Lock()
	id, ok := s.takeLocked()
	if ok && (s.current.left() > s.size/2 || s.spare.left() > 0 || s.fill != nil) {
		s.mu.Unlock()
		return id, nil
	}
	if ok {
		s.aheadAndUnlock(ctx)
		return id, nil
	}
	s.mu.Unlock()
	return s.wait(ctx)
}

// takeLocked returns an id, if there is one.
func (s *Sequence) takeLocked() (int64, bool) {
	if s.current.left() == 0 {
		s.current, s.spare = s.spare, block{}
		if s.current.left() == 0 {
			return 0, false
		}
	}
	id := s.current.next
	s.current.next++
	return id, true
}

// aheadAndUnlock fetches the next block, if that has not failed a moment ago.
func (s *Sequence) aheadAndUnlock(ctx context.Context) {
	if time.Now().Before(s.pause) {
		s.mu.Unlock()
		return
	}
	f := &fill{done: make(chan struct{})}
	s.fill = f
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, aheadPatience)
	defer cancel()
	s.fetch(ctx, f) // an error shows again when the ids are used up
}

// wait returns an id from the next block, which the first to come fetches.
func (s *Sequence) wait(ctx context.Context) (int64, error) {
	for {
		s.mu.Lock()
		if id, ok := s.takeLocked(); ok {
			s.mu.Unlock()
			return id, nil
		}
		f, mine := s.fill, s.fill == nil
		if mine {
			f = &fill{done: make(chan struct{})}
			s.fill = f
		}
		s.mu.Unlock()

		if mine {
			s.fetch(ctx, f)
		} else {
			select {
			case <-f.done:
			case <-ctx.Done():
				return 0, fmt.Errorf("master: sequence %s: wait for a block: %w", s.name, ctx.Err())
			}
		}
		// The end of another's context is not ours: try again, in our own. But any
		// other failure is everybody's, or those who wait would each wait for a
		// time-out, one after the other.
		if f.err != nil && (mine || !f.ended) {
			return 0, f.err
		}
	}
}

var errPanicked = errors.New("master: the driver panicked")

// fetch takes a block from the primary. A lost answer loses the block: the
// statement is not undone by asking again.
func (s *Sequence) fetch(ctx context.Context, f *fill) {
	var b block
	f.err = errPanicked
	defer func() {
		s.mu.Lock()
		s.fill = nil
		if f.err == nil {
			s.spare = b
		} else {
			s.pause = time.Now().Add(aheadPause)
		}
		s.mu.Unlock()
		close(f.done)
	}()
	b, f.err = s.lease(ctx)
	f.ended = f.err != nil && ctx.Err() != nil
}

func (s *Sequence) lease(ctx context.Context) (block, error) {
	end, err := s.master.take(ctx, s.master.primary, s.name, s.size)
	if err != nil {
		return block{}, unreachable(ctx, "take ids of sequence "+s.name, err)
	}
	if end <= s.size { // a proxy that answers for the server, say
		return block{}, fmt.Errorf("master: take ids of sequence %s: the server says that a block of %d ends before %d", s.name, s.size, end)
	}
	return block{end - s.size, end}, nil
}

// takeBlock adds the block to the row and learns where it ends in one statement,
// so that no other can come in between, nor a crash.
func takeBlock(ctx context.Context, db *sql.DB, name string, size int64) (end int64, err error) {
	res, err := db.ExecContext(ctx, fmt.Sprintf(`INSERT INTO podworks_sequences (name, next)
		VALUES ('%s', LAST_INSERT_ID(%d)) ON DUPLICATE KEY UPDATE next = LAST_INSERT_ID(next + %d)`, name, 1+size, size))
	if err != nil {
		return 0, err
	}
	return res.LastInsertId()
}

// Advance lets the blocks of a sequence that are taken from now on begin above
// past, if they would not anyway. Use it to begin above ids that exist; and after
// a failover that may have lost commits, before the new primary takes writes.
//
// Processes keep the two blocks that they have, which may lie above the greatest
// id in use: end them, or go far beyond it. There are more than 9·10¹⁸ ids.
func (m *Master) Advance(ctx context.Context, sequence string, past int64) error {
	err := checkSequence(sequence)
	if past < 0 || past > math.MaxInt64/2 {
		err = errors.Join(err, fmt.Errorf("past is %d, want 0 to %d", past, int64(math.MaxInt64/2)))
	}
	if err != nil {
		return fmt.Errorf("master: advance: %w", err)
	}
	if _, err := m.primary.ExecContext(ctx, fmt.Sprintf(`INSERT INTO podworks_sequences (name, next)
		VALUES ('%s', %d) ON DUPLICATE KEY UPDATE next = GREATEST(next, %[2]d)`, sequence, past+1)); err != nil {
		return unreachable(ctx, "advance sequence "+sequence, err)
	}
	return nil
}
