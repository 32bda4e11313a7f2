package master

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// A Claim is the right of an owner (a shop, for one) to a name that is unique
// over all pods, such as a domain or an e-mail address.
type Claim struct {
	Kind, Name string
	Owner      int64
	Token      uint64        // of this claim: a name that lapsed and was claimed again has another
	Left       time.Duration // until it lapses, by the primary's clock; 0 if it is confirmed
}

// Confirmed reports whether the claim has no end.
func (c Claim) Confirmed() bool { return c.Token != 0 && c.Left == 0 }

// Claim reserves a name for an owner before it is used. Use it (create the shop,
// say, in its pod), then Confirm; if the process dies in between, the claim
// lapses after ttl and the name is free again. A name of someone else is
// ErrTaken, as an *Error. The owner's own is returned as it is, and lasts for ttl
// from now if it is not confirmed: so after podworks.ErrOutcomeUnknown, or in a
// job that runs again, Claim again.
//
// Of any number who claim a name at the same time, in whatever process, one gets
// it.
//
// The kind (domain, email) has 1 to 32 letters, digits and _-; the name 1 to 255
// bytes, of which none is equal to another: bring names to one form (lower
// case, Punycode) before. The ttl lies between a millisecond and 10 years.
//
// Claim, Confirm and Release write on the primary, in the transaction that ctx
// carries if it is one of Tx, else in one of their own.
func (m *Master) Claim(ctx context.Context, kind, name string, owner int64, ttl time.Duration) (Claim, error) {
	if err := errors.Join(checkName(kind, name), checkOwner(owner, ttl)); err != nil {
		return Claim{}, fmt.Errorf("master: claim: %w", err)
	}
	token := rand.Uint64() // among the claims of one name, which are few
	var c Claim
	err := m.within(ctx, func(ctx context.Context, tx *Tx) error {
		// The assignments happen from left to right and see those before them, so
		// expires_at comes last; and its condition is as true of the old owner as of
		// the new one, for a sql_mode in which they don't. A confirmed claim's is
		// NULL, of which no comparison is true.
		if _, err := tx.ExecContext(ctx, fmt.Sprintf(`INSERT INTO podworks_claims (kind, name, owner, token, expires_at)
			VALUES ('%[1]s', x'%[2]x', %[3]d, %[4]d, UTC_TIMESTAMP(6) + INTERVAL %[5]d MICROSECOND)
			ON DUPLICATE KEY UPDATE
				owner = IF(expires_at <= UTC_TIMESTAMP(6), %[3]d, owner),
				token = IF(expires_at <= UTC_TIMESTAMP(6), %[4]d, token),
				expires_at = IF(expires_at <= UTC_TIMESTAMP(6) OR expires_at IS NOT NULL AND owner = %[3]d, UTC_TIMESTAMP(6) + INTERVAL %[5]d MICROSECOND, expires_at)`,
			kind, name, owner, token, ttl.Microseconds())); err != nil {
			return err
		}
		// The row is locked by now. A locking read sees it as it is, and not as the
		// snapshot of a transaction that began before has it.
		var err error
		c, err = find(ctx, tx, kind, name, ` FOR UPDATE`)
		return err
	})
	switch {
	case err != nil:
		return Claim{}, claimError("claim", kind, name, err)
	case c.Owner != owner:
		return Claim{}, &Error{Kind: kind, Name: name, Owner: c.Owner, Left: c.Left, Err: ErrTaken}
	}
	return c, nil
}

// Confirm makes a claim last until it is released. ErrLapsed, as an *Error, means
// that it was not confirmed in time and is gone: what was made with the name has
// to be undone. Confirming again is fine.
func (m *Master) Confirm(ctx context.Context, c Claim) error {
	if err := checkName(c.Kind, c.Name); err != nil {
		return fmt.Errorf("master: confirm: %w", err)
	}
	err := m.within(ctx, func(ctx context.Context, tx *Tx) error {
		if _, err := tx.ExecContext(ctx, fmt.Sprintf(`UPDATE podworks_claims SET expires_at = NULL
			WHERE kind = '%s' AND name = x'%x'`, c.Kind, c.Name)+m.same(c)); err != nil {
			return err
		}
		// Nothing to change may mean that it is confirmed already.
		_, err := find(ctx, tx, c.Kind, c.Name, m.same(c)+` FOR UPDATE`)
		return err
	})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return &Error{Kind: c.Kind, Name: c.Name, Err: ErrLapsed}
	case err != nil:
		return claimError("confirm", c.Kind, c.Name, err)
	}
	return nil
}

// Release gives a name back, confirmed or not. A claim that is gone already is no
// error, and whoever has the name now keeps it.
func (m *Master) Release(ctx context.Context, c Claim) error {
	if err := checkName(c.Kind, c.Name); err != nil {
		return fmt.Errorf("master: release: %w", err)
	}
	err := m.within(ctx, func(ctx context.Context, tx *Tx) error {
		_, err := tx.ExecContext(ctx, fmt.Sprintf(`DELETE FROM podworks_claims WHERE kind = '%s' AND name = x'%x'`, c.Kind, c.Name)+m.same(c))
		return err
	})
	if err != nil {
		return claimError("release", c.Kind, c.Name, err)
	}
	return nil
}

// Lookup returns who has a name, or sql.ErrNoRows. It is a Read, so without a
// session it may be late; to get a name use Claim, which is not.
func (m *Master) Lookup(ctx context.Context, kind, name string) (Claim, error) {
	if err := checkName(kind, name); err != nil {
		return Claim{}, fmt.Errorf("master: look up: %w", err)
	}
	var c Claim
	err := m.Read(ctx, func(ctx context.Context, q Querier) error {
		var err error
		c, err = find(ctx, q, kind, name, ` AND (expires_at IS NULL OR expires_at > UTC_TIMESTAMP(6))`)
		return err
	})
	if err != nil {
		return Claim{}, claimError("look up", kind, name, err)
	}
	return c, nil
}

// sameClaim is the condition that a row is of this very claim, and not of a
// later one of the same name.
func sameClaim(c Claim) string { return fmt.Sprintf(` AND token = %d`, c.Token) }

// find returns the claim on a name. What is in the texts of these statements is
// checked, or hexadecimal: with arguments the driver would prepare each first,
// one more journey to what may be another region.
func find(ctx context.Context, q Querier, kind, name, and string) (Claim, error) {
	c := Claim{Kind: kind, Name: name}
	var left sql.NullInt64
	err := q.QueryRowContext(ctx, fmt.Sprintf(`SELECT owner, token, TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), expires_at)
		FROM podworks_claims WHERE kind = '%s' AND name = x'%x'`, kind, name)+and).Scan(&c.Owner, &c.Token, &left)
	if left.Valid {
		c.Left = time.Duration(max(left.Int64, 1)) * time.Microsecond
	}
	return c, err
}

func claimError(doing, kind, name string, err error) error {
	if errors.Is(err, ErrPrimary) || errors.Is(err, ErrBehind) {
		return fmt.Errorf("%w: %s %s %q", err, doing, kind, name)
	}
	return fmt.Errorf("master: %s %s %q: %w", doing, kind, name, err)
}

func checkName(kind, name string) error {
	var errs []error
	if !isWord(kind, 32) {
		errs = append(errs, fmt.Errorf("kind is %.40q, want 1 to 32 letters, digits and _-", kind))
	}
	if name == "" || len(name) > 255 {
		errs = append(errs, fmt.Errorf("name has %d bytes, want 1 to 255", len(name)))
	}
	return errors.Join(errs...)
}

func checkOwner(owner int64, ttl time.Duration) error {
	var errs []error
	if owner <= 0 {
		errs = append(errs, fmt.Errorf("owner is %d, want 1 or more", owner))
	}
	if ttl < time.Millisecond || ttl > 10*365*24*time.Hour {
		errs = append(errs, fmt.Errorf("ttl is %v, want a millisecond to 10 years", ttl))
	}
	return errors.Join(errs...)
}

// isWord reports whether s can stand in a statement as it is.
func isWord(s string, size int) bool {
	if s == "" || len(s) > size {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
