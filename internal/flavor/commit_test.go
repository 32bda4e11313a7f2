package flavor_test

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/flavor"
)

func TestCommitRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("boom"), false},
		{mysql.ErrInvalidConn, false},
		{driver.ErrBadConn, false},
		{&mysql.MySQLError{Number: 1290}, true}, // read-only
		{fmt.Errorf("commit: %w", &mysql.MySQLError{Number: 1213}), true}, // deadlock
		{&mysql.MySQLError{Number: 1053}, false},                          // shutdown
		{&mysql.MySQLError{Number: 1927}, false},                          // killed
	} {
		if got := flavor.CommitRefused(tt.err); got != tt.want {
			t.Errorf("CommitRefused(%v) = %t, want %t", tt.err, got, tt.want)
		}
	}
}
