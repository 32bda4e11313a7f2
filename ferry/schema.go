package ferry

import (
	"context"
	"fmt"

	"github.com/podworks/podworks/internal/fence"
)

// Schema returns the statements that create ferry's tables in a pod's
// database, for teams with a migration tool of their own: the write fence; the
// marker, a row that a mover writes to find its place in the log; and on a
// target how far the copy is and how far the log has been applied.
func Schema() []string {
	return []string{
		fence.Schema,
		`CREATE TABLE IF NOT EXISTS podworks_marker (
	token BIGINT UNSIGNED NOT NULL PRIMARY KEY,
	n BIGINT UNSIGNED NOT NULL
) ENGINE=InnoDB`,
		`CREATE TABLE IF NOT EXISTS podworks_ferry_tail (
	shop_id BIGINT NOT NULL PRIMARY KEY,
	file VARCHAR(255) NOT NULL,
	pos BIGINT UNSIGNED NOT NULL
) ENGINE=InnoDB`,
		`CREATE TABLE IF NOT EXISTS podworks_ferry_copy (
	shop_id BIGINT NOT NULL,
	table_name VARCHAR(64) NOT NULL,
	started TINYINT NOT NULL,
	last_key BIGINT NOT NULL,
	last_limit BIGINT NOT NULL,
	done TINYINT NOT NULL,
	PRIMARY KEY (shop_id, table_name)
) ENGINE=InnoDB`,
	}
}

// Migrate creates ferry's tables in every pod where they are missing. Its user
// needs CREATE.
func (f *Ferry) Migrate(ctx context.Context) error {
	for id := range f.pods {
		s, err := f.open(id)
		if err != nil {
			return fmt.Errorf("ferry: %w", err)
		}
		defer s.db.Close()
		for _, stmt := range Schema() {
			if _, err := s.db.ExecContext(ctx, stmt); err != nil {
				return fmt.Errorf("ferry: create the tables of pod %d: %w", id, err)
			}
		}
	}
	return nil
}
