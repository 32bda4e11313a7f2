package ferry

import (
	"context"
	"fmt"
	"slices"

	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/fence"
)

// Schema returns the statements that create ferry's tables in a pod's
// database, for teams with a migration tool of their own: the write fence; the
// marker, a row that a mover writes to find its place in the log; and on a
// target how far the copy is, how far the log has been applied, and what tells
// a mover's transactions from others in the target's log; on a source what
// shops left there.
func Schema() []string {
	return slices.Concat([]string{
		fence.Schema,
		`CREATE TABLE IF NOT EXISTS podworks_marker (
	token BIGINT UNSIGNED NOT NULL PRIMARY KEY,
	n BIGINT UNSIGNED NOT NULL
) ENGINE=InnoDB`,
		`CREATE TABLE IF NOT EXISTS podworks_ferry_tail (
	shop_id BIGINT NOT NULL PRIMARY KEY,
	position MEDIUMTEXT NOT NULL
) ENGINE=InnoDB`,
		`CREATE TABLE IF NOT EXISTS podworks_ferry_copy (
	shop_id BIGINT NOT NULL,
	table_name VARCHAR(64) NOT NULL,
	started TINYINT NOT NULL,
	last_key VARBINARY(4096) NOT NULL,
	last_limit VARBINARY(4096) NOT NULL,
	done TINYINT NOT NULL,
	PRIMARY KEY (shop_id, table_name)
) ENGINE=InnoDB`,
		`CREATE TABLE IF NOT EXISTS podworks_ferry_left (
	shop_id BIGINT NOT NULL PRIMARY KEY,
	pod INT NOT NULL,
	epoch BIGINT UNSIGNED NOT NULL,
	here MEDIUMTEXT NOT NULL,
	there MEDIUMTEXT NOT NULL
) ENGINE=InnoDB`,
	}, binlog.Schema())
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
