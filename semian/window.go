package semian

// Eighths is how many parts a window moves in.
const eighths = 8

// Counts are what is known of some calls that ended.
type counts struct{ calls, failures, slow uint64 }

func (c *counts) add(d counts) {
	c.calls += d.calls
	c.failures += d.failures
	c.slow += d.slow
}

// A window counts the calls of the last eight parts of time, of which the newest has only
// begun. Times are in nanoseconds and grow; it is used under a lock.
type window struct {
	width   int64 // of a part
	newest  int64 // the number of the newest part
	buckets [eighths]counts
}

// advance forgets the parts that are older than the window at now.
func (w *window) advance(now int64) {
	at := now / w.width
	if at <= w.newest {
		return // another goroutine's clock reading was later
	}
	for i := max(w.newest+1, at-eighths+1); i <= at; i++ {
		w.buckets[i%eighths] = counts{}
	}
	w.newest = at
}

// add counts calls that end now.
func (w *window) add(now int64, c counts) {
	w.advance(now)
	w.buckets[w.newest%eighths].add(c)
}

// spread counts n calls that succeeded between since and now. Nobody knows when; they
// are spread evenly, and what is older than the window is left out.
func (w *window) spread(since, now int64, n uint64) {
	w.advance(now)
	first, last := since/w.width, now/w.width
	if last <= first {
		w.buckets[w.newest%eighths].calls += n
		return
	}
	done := uint64(0)
	for i := max(first, last-eighths+1); i <= last; i++ {
		// Those until the part's end, less those before.
		end := min((i+1)*w.width, now)
		before := max(i*w.width, since)
		share := uint64(float64(n) * float64(end-before) / float64(now-since))
		if i == last && first >= last-eighths+1 {
			share = n - done // and the rest by rounding
		}
		done += share
		w.buckets[i%eighths].calls += share
	}
}

// sum returns the counts of the whole window at now.
func (w *window) sum(now int64) (c counts) {
	w.advance(now)
	for _, b := range w.buckets {
		c.add(b)
	}
	return c
}

// recent returns the counts of the newest part and the one before.
func (w *window) recent(now int64) (c counts) {
	w.advance(now)
	c.add(w.buckets[w.newest%eighths])
	c.add(w.buckets[(w.newest+eighths-1)%eighths])
	return c
}

func (w *window) reset(now int64) {
	w.buckets = [eighths]counts{}
	w.newest = now / w.width
}

// resize keeps the newest counts as well as their sum tells.
func (w *window) resize(now, width int64) {
	c := w.sum(now)
	w.width = width
	w.reset(now)
	w.buckets[w.newest%eighths] = c
}
