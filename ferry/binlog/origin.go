package binlog

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/podworks/podworks"
)

// An Origin says who wrote: the mover of a shop, by its token, or with the zero
// value the application.
type Origin struct {
	Shop  podworks.ShopID
	Token uint64
}

// originTable is found in any database.
const originTable = "podworks_origin"

// Schema returns the statement that creates the table of [Mark], for a
// migration tool. The table has a row for each shop, token and connection that
// ever marked; rows of a token that is done may be deleted.
func Schema() []string {
	return []string{`CREATE TABLE IF NOT EXISTS ` + originTable + ` (
	shop_id BIGINT NOT NULL,
	token BIGINT UNSIGNED NOT NULL,
	connection BIGINT UNSIGNED NOT NULL,
	n BIGINT UNSIGNED NOT NULL,
	PRIMARY KEY (shop_id, token, connection)
) ENGINE=InnoDB`}
}

// Mark makes everything that follows in tx recognisable in the log as written
// by the mover of shop with that token, which must not be 0. Call it first in
// the transaction. It needs no log of statements (binlog_rows_query_log_events,
// binlog_annotate_row_events) and costs one statement.
func Mark(ctx context.Context, tx *sql.Tx, shop podworks.ShopID, token uint64) error {
	if token == 0 {
		return fmt.Errorf("binlog: mark a transaction of the mover of shop %d: the token is 0, which means the application", shop)
	}
	// The row must change each time: a server doesn't log an update, or a
	// REPLACE, that leaves a row as it was. Token and shop are in the key
	// because with binlog_row_image=MINIMAL the log has only the key and what
	// changed. The connection is in it so that transactions of one mover don't
	// wait for each other.
	_, err := tx.ExecContext(ctx, `INSERT INTO `+originTable+` (shop_id, token, connection, n) VALUES (?, ?, CONNECTION_ID(), 1)
		ON DUPLICATE KEY UPDATE n = n + 1`, int64(shop), token)
	if err != nil {
		return fmt.Errorf("binlog: mark a transaction of the mover of shop %d: %w", shop, err)
	}
	return nil
}

// origin reads a mark. Its columns are those of Schema; the log may not say
// that the token is unsigned.
func origin(row []any) (o Origin, ok bool) {
	if len(row) != 4 {
		return o, false
	}
	shop, ok1 := row[0].(int64)
	o.Shop = podworks.ShopID(shop)
	switch token := row[1].(type) {
	case int64:
		o.Token = uint64(token)
	case uint64:
		o.Token = token
	default:
		return Origin{}, false
	}
	return o, ok1
}
