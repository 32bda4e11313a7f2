// Package flavor tells the two server families apart.
package flavor

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// A Flavor is a server family, by the name that go-mysql uses.
type Flavor string

// The families.
const (
	MariaDB Flavor = "mariadb"
	MySQL   Flavor = "mysql"
)

// A Queryer is a *sql.DB, *sql.Conn or *sql.Tx.
type Queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Detect asks the server what it is.
func Detect(ctx context.Context, q Queryer) (Flavor, error) {
	var version string
	if err := q.QueryRowContext(ctx, `SELECT VERSION()`).Scan(&version); err != nil {
		return "", fmt.Errorf("ask the server's version: %w", err)
	}
	if strings.Contains(strings.ToLower(version), "mariadb") {
		return MariaDB, nil
	}
	return MySQL, nil
}

// BinlogPosition returns where the server's binary log ends now.
func BinlogPosition(ctx context.Context, db *sql.DB, f Flavor) (file string, pos uint32, err error) {
	query := `SHOW MASTER STATUS`
	if f == MySQL {
		query = `SHOW BINARY LOG STATUS` // since 8.2; 8.4 dropped the old name
	}
	rows, err := db.QueryContext(ctx, query)
	if err != nil && f == MySQL {
		rows, err = db.QueryContext(ctx, `SHOW MASTER STATUS`)
	}
	if err != nil {
		return "", 0, fmt.Errorf("ask for the binary log's position: %w", err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return "", 0, err
	}
	if !rows.Next() {
		return "", 0, cmp.Or(rows.Err(), errors.New("ask for the binary log's position: no answer; is the binary log off?"))
	}
	// MariaDB sends four columns and MySQL five; the first two are the same.
	dest := make([]any, len(columns))
	for i := range dest {
		dest[i] = new(sql.RawBytes)
	}
	dest[0], dest[1] = &file, &pos
	if err := rows.Scan(dest...); err != nil {
		return "", 0, fmt.Errorf("read the binary log's position: %w", err)
	}
	return file, pos, nil
}
