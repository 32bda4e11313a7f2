package master

import (
	"context"
	"errors"
	"sync"

	"github.com/podworks/podworks/internal/flavor"
)

// A session is what one user, or job, has written, as far as its reads need to
// know. It travels with the context.
type session struct {
	mu      sync.Mutex
	written flavor.GTIDs
	primary bool // something was written that has no known GTID: read it where it was written
	changed bool // since the session began in this context
	asked   uint64
	noted   uint64
}

// Sessions of two Masters in one process don't meet.
type sessionKey struct{ m *Master }

// maxToken bounds a token, and with it the cookie. Each server that was ever a
// primary adds some 45 bytes on MySQL, each replication domain some 30 on
// MariaDB.
const maxToken = 2048

// readPrimary is the token of a session whose write can't be named.
const readPrimary = "primary"

// WithSession returns a context whose reads see what it wrote, and what the token
// stands for. The token is one of Token, of any process with the same database,
// or empty. Without a session Read sees what the replica has.
//
// A token that is too long, or was damaged on its way, is no error: the session
// then reads from the primary, which is right whatever it was. A token can make
// a read wait, never longer than Options.Wait, and go to the primary; so let no
// client choose one. Middleware encrypts those it hands out.
func (m *Master) WithSession(ctx context.Context, token string) context.Context {
	s := new(session)
	switch written, err := flavor.ParseGTIDs(token); {
	case len(token) > maxToken || err != nil:
		s.primary = true
	default:
		s.written = written
	}
	return context.WithValue(ctx, sessionKey{m}, s)
}

// Token returns what the session of ctx has to be remembered by, such as in the
// envelope of a job that it starts; empty if it has written nothing, or ctx has
// no session. It has at most 2,048 bytes, all of them printable ASCII.
func (m *Master) Token(ctx context.Context) string {
	s := m.session(ctx)
	if s == nil {
		return ""
	}
	token, _ := s.token()
	return token
}

// session returns the session of ctx, or nil.
func (m *Master) session(ctx context.Context) *session {
	s, _ := ctx.Value(sessionKey{m}).(*session)
	return s
}

// token returns the session's token and whether the session wrote in this
// context.
func (s *session) token() (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.primary || len(s.written.String()) > maxToken {
		return readPrimary, s.changed
	}
	return s.written.String(), s.changed
}

// position returns what a replica must have reached, and whether none will do.
// A nil session has written nothing.
func (s *session) position() (flavor.GTIDs, bool) {
	if s == nil {
		return flavor.GTIDs{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written, s.primary
}

// turn is taken after a commit and before the server is asked for its GTID: of
// two that commit at the same time, the one with the later turn has asked when
// both had committed, so its answer holds both whenever the answers arrive.
func (s *session) turn() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return s.asked
}

var errUnnamed = errors.New("the server has named no GTID")

// note remembers a write. An error means that it can't be named.
func (s *session) note(turn uint64, written flavor.GTIDs, err error) {
	if err == nil && written.String() == "" {
		err = errUnnamed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = true
	switch {
	case err != nil:
		s.primary = true
	case turn < s.noted:
		s.written = written.Merge(s.written)
	default:
		s.written, s.noted = s.written.Merge(written), turn
	}
}
