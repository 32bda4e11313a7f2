package flavor

import (
	"errors"

	"github.com/go-sql-driver/mysql"
)

// CommitRefused reports whether err, of a COMMIT, is the server's answer and
// means that the transaction is rolled back. The exceptions are answers that a
// session also gets when it is ended in the middle of committing.
func CommitRefused(err error) bool {
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		return false
	}
	switch e.Number {
	case 1053, // server shutdown in progress
		1180, // error during COMMIT
		1317, // query execution was interrupted
		1927, // connection was killed
		3168, // server isn't available
		4031: // the client was disconnected because of inactivity
		return false
	}
	return true
}
