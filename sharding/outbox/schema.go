package outbox

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/podworks/podworks"
)

// Schema returns the statements that create the table of a pod's database, for
// teams with a migration tool of their own.
func Schema() []string { return []string{table} }

// pending is the shop while the message waits, and NULL once it is parked: so
// one index has each shop's line, in order, and no row that needs no delivery.
// The primary key is what the server counts, so that inserts go to the table's
// end whatever their shop.
const table = `CREATE TABLE IF NOT EXISTS podworks_outbox (
	seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
	shop_id BIGINT NOT NULL,
	pending BIGINT NULL,
	epoch BIGINT UNSIGNED NOT NULL,
	id CHAR(26) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
	topic VARBINARY(255) NOT NULL,
	payload MEDIUMBLOB NOT NULL,
	created DATETIME(6) NOT NULL,
	due DATETIME(6) NOT NULL,
	attempts INT UNSIGNED NOT NULL DEFAULT 0,
	error VARBINARY(1000) NOT NULL DEFAULT '',
	PRIMARY KEY (seq),
	KEY pending (pending, seq)
) ENGINE=InnoDB`

// Migrate creates the table in every pod where it is missing.
func (o *Outbox) Migrate(ctx context.Context) error {
	err := o.cluster.EachPod(ctx, "create the outbox", nil, func(ctx context.Context, _ podworks.PodID, db *sql.DB) error {
		_, err := db.ExecContext(ctx, table)
		return err
	})
	if err != nil {
		return fmt.Errorf("outbox: create podworks_outbox: %w", err)
	}
	return nil
}
