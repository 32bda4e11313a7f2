package testcluster

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// replicate makes s a replica of its source and waits until they are connected.
func (s *MySQLServer) replicate(ctx context.Context, db *sql.DB) error {
	source, err := s.source.open()
	if err != nil {
		return err
	}
	defer source.Close()
	first, err := oneRow(ctx, source, "SHOW BINARY LOGS")
	if err != nil {
		return fmt.Errorf("testcluster: %s: reading the binary logs of ReplicaOf (has it NoBinlog?): %w", s.name, err)
	}
	gtid := s.gtid && s.source.gtid
	statements := []string{"", "START REPLICA"}
	switch {
	case s.family == MySQL && gtid:
		statements[0] = fmt.Sprintf("CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT=%d, SOURCE_USER='root', SOURCE_CONNECT_RETRY=1, SOURCE_SSL=0, SOURCE_AUTO_POSITION=1", s.source.port)
	case s.family == MySQL:
		statements[0] = fmt.Sprintf("CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT=%d, SOURCE_USER='root', SOURCE_CONNECT_RETRY=1, SOURCE_SSL=0, SOURCE_LOG_FILE='%s', SOURCE_LOG_POS=4", s.source.port, first["Log_name"])
	case gtid:
		statements[0] = fmt.Sprintf("CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=%d, MASTER_USER='root', MASTER_CONNECT_RETRY=1, MASTER_USE_GTID=slave_pos", s.source.port)
	default:
		statements[0] = fmt.Sprintf("CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=%d, MASTER_USER='root', MASTER_CONNECT_RETRY=1, MASTER_USE_GTID=no, MASTER_LOG_FILE='%s', MASTER_LOG_POS=4", s.source.port, first["Log_name"])
	}
	for _, statement := range statements {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("testcluster: %s: %s: %w", s.name, statement, err)
		}
	}

	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		status, err := oneRow(ctx, db, "SHOW REPLICA STATUS")
		if err != nil {
			return fmt.Errorf("testcluster: %s: SHOW REPLICA STATUS: %w", s.name, err)
		}
		// MariaDB answers with the old names.
		io := status["Replica_IO_Running"] + status["Slave_IO_Running"]
		apply := status["Replica_SQL_Running"] + status["Slave_SQL_Running"]
		if io == "Yes" && apply == "Yes" {
			return nil
		}
		if fault := status["Last_IO_Error"] + status["Last_SQL_Error"]; fault != "" && (io == "No" || apply == "No") {
			return fmt.Errorf("testcluster: %s does not replicate: %s", s.name, fault)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("testcluster: %s has not connected to its source (io %s, sql %s): %w%s", s.name, io, apply, ctx.Err(), s.tail())
		case <-time.After(pollEvery):
		}
	}
}

// CatchUp waits until a replica has applied what its source had written when it
// was called.
func (s *MySQLServer) CatchUp(ctx context.Context) error {
	if s.source == nil {
		return fmt.Errorf("testcluster: %s: CatchUp of a server without ReplicaOf", s.name)
	}
	source, err := s.source.open()
	if err != nil {
		return err
	}
	defer source.Close()
	db, err := s.open()
	if err != nil {
		return err
	}
	defer db.Close()

	where, wait := "SHOW MASTER STATUS", "SELECT MASTER_POS_WAIT(?, ?, 1)"
	if s.family == MySQL {
		where, wait = "SHOW BINARY LOG STATUS", "SELECT SOURCE_POS_WAIT(?, ?, 1)"
		if compareVersions(s.version, "8.2.0") < 0 {
			where = "SHOW MASTER STATUS"
		}
	}
	end, err := oneRow(ctx, source, where)
	if err != nil {
		return fmt.Errorf("testcluster: %s: the position of its source: %w", s.name, err)
	}
	for {
		var waited sql.NullInt64
		if err := db.QueryRowContext(ctx, wait, end["File"], end["Position"]).Scan(&waited); err != nil {
			return fmt.Errorf("testcluster: %s: waiting for its source's %s:%s: %w", s.name, end["File"], end["Position"], err)
		}
		switch {
		case !waited.Valid: // the applier does not run
			status, _ := oneRow(ctx, db, "SHOW REPLICA STATUS")
			return fmt.Errorf("testcluster: %s has stopped replicating: %s%s", s.name, status["Last_IO_Error"], status["Last_SQL_Error"])
		case waited.Int64 >= 0:
			return nil
		}
	}
}

// oneRow returns the first row of the answer to query, by column.
func oneRow(ctx context.Context, db *sql.DB, query string) (map[string]string, error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	if !rows.Next() {
		return nil, errors.Join(rows.Err(), sql.ErrNoRows)
	}
	values := make([]sql.NullString, len(columns))
	targets := make([]any, len(columns))
	for i := range values {
		targets[i] = &values[i]
	}
	if err := rows.Scan(targets...); err != nil {
		return nil, err
	}
	row := make(map[string]string, len(columns))
	for i, c := range columns {
		row[c] = values[i].String
	}
	return row, nil
}
