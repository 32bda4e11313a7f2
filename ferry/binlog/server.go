package binlog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/flavor"
)

// A server is what is asked for by SQL, beside the stream.
type server struct {
	db       *sql.DB
	conn     *sql.Conn // one, so that every answer comes from one server, whatever the address leads to later
	family   flavor.Flavor
	id       string        // as Position.Server
	named    bool          // transactions have GTIDs
	ahead    time.Duration // of its clock over ours
	charsets map[uint64]string
}

// patience is how long one question may take.
const patience = 10 * time.Second

// ask connects to the server for questions.
func ask(ctx context.Context, cfg *mysql.Config) (_ *server, err error) {
	cfg = cfg.Clone()
	cfg.DBName, cfg.MultiStatements, cfg.InterpolateParams = "", false, false
	cfg.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	s := &server{db: sql.OpenDB(connector)}
	defer func() {
		if err != nil {
			s.db.Close() // and conn with it
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if s.conn, err = s.db.Conn(ctx); err != nil {
		return nil, err
	}
	// There may be nothing to ask for months.
	if _, err := s.conn.ExecContext(ctx, `SET SESSION wait_timeout = 31536000`); err != nil {
		return nil, err
	}
	if s.family, err = flavor.Detect(ctx, s.conn); err != nil {
		return nil, err
	}
	query, mode := `SELECT `+s.idExpr()+`, 'ON', UNIX_TIMESTAMP(NOW(6))`, ""
	if s.family == flavor.MySQL {
		query = `SELECT ` + s.idExpr() + `, @@global.gtid_mode, UNIX_TIMESTAMP(NOW(6))`
	}
	var now float64
	if err := s.conn.QueryRowContext(ctx, query).Scan(&s.id, &mode, &now); err != nil {
		return nil, fmt.Errorf("ask the server who it is: %w", err)
	}
	s.named = mode == "ON"
	s.ahead = time.Until(time.UnixMicro(int64(now * 1e6)))
	return s, nil
}

// idExpr is what tells a server from others.
func (s *server) idExpr() string {
	if s.family == flavor.MariaDB {
		return `@@global.server_id`
	}
	return `@@global.server_uuid`
}

func (s *server) close() {
	s.conn.Close()
	s.db.Close()
}

// now returns where the log ends, with its GTIDs.
func (s *server) now(ctx context.Context) (Position, error) {
	p, err := s.end(ctx)
	if err != nil || s.family != flavor.MariaDB {
		return p, err
	}
	if p.GTIDs, err = s.gtidsAt(ctx, p); !errors.Is(err, ErrPurged) {
		return p, err
	}
	// The server doesn't read past an event that is larger than max_allowed_packet,
	// as that of an update is if the row is half as large. The log's last GTIDs it
	// knows without reading, if not where in the file they are.
	row, err := s.row(ctx, `SELECT @@global.gtid_binlog_pos AS last`)
	if err != nil {
		return Position{}, fmt.Errorf("ask for the last GTIDs: %w", err)
	}
	return Position{GTIDs: row["last"]}, nil
}

// end returns where the log ends. On MariaDB its GTIDs are another question.
func (s *server) end(ctx context.Context) (Position, error) {
	query := `SHOW MASTER STATUS`
	if s.family == flavor.MySQL {
		query = `SHOW BINARY LOG STATUS` // since 8.2; 8.4 dropped the old name
	}
	row, err := s.row(ctx, query)
	if err != nil && s.family == flavor.MySQL {
		row, err = s.row(ctx, `SHOW MASTER STATUS`)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return Position{}, errors.New("the server has no binary log: start it with log_bin")
	}
	if err != nil {
		return Position{}, fmt.Errorf("ask where the log ends: %w", err)
	}
	p := Position{File: row["File"], Server: s.id}
	if _, err := fmt.Sscan(row["Position"], &p.Offset); err != nil {
		return Position{}, fmt.Errorf("ask where the log ends: the server says %q: %w", row["Position"], err)
	}
	if s.family == flavor.MySQL && s.named {
		p.GTIDs = strings.ReplaceAll(row["Executed_Gtid_Set"], "\n", "")
	}
	return p, nil
}

// gtidsAt returns the GTIDs of a place in a MariaDB server's log.
func (s *server) gtidsAt(ctx context.Context, p Position) (string, error) {
	var text sql.NullString
	if err := s.conn.QueryRowContext(ctx, `SELECT BINLOG_GTID_POS(?, ?)`, p.File, p.Offset).Scan(&text); err != nil {
		return "", fmt.Errorf("ask for the GTIDs at %s:%d: %w", p.File, p.Offset, err)
	}
	if !text.Valid {
		return "", fmt.Errorf("%w: the server has no GTIDs at %s:%d: its log doesn't reach back to there, or not up to there, or has an event before it that is larger than max_allowed_packet", ErrPurged, p.File, p.Offset)
	}
	return text.String, nil
}

// row returns the only row of an answer, by column.
func (s *server) row(ctx context.Context, query string) (map[string]string, error) {
	rows, err := s.rows(ctx, query)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, sql.ErrNoRows
	}
	return rows[0], nil
}

// rows returns an answer by columns, of which families and versions have
// different ones.
func (s *server) rows(ctx context.Context, query string, args ...any) ([]map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	rows, err := s.conn.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	values, dest := make([]sql.NullString, len(columns)), make([]any, len(columns))
	for i := range values {
		dest[i] = &values[i]
	}
	var out []map[string]string
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return nil, err
		}
		row := make(map[string]string, len(columns))
		for i, c := range columns {
			row[c] = values[i].String
		}
		out = append(out, row)
	}
	return out, rows.Err()
}

// has reports, as an error, whether the server can go on after these GTIDs.
func (s *server) has(ctx context.Context, g *gtids) error {
	text := g.String()
	if s.family == flavor.MariaDB {
		row, err := s.row(ctx, `SELECT @@global.gtid_binlog_state AS state`)
		if err != nil {
			return fmt.Errorf("ask for the GTIDs in the log: %w", err)
		}
		lacking, err := g.known(row["state"])
		if err == nil && lacking != "" {
			err = fmt.Errorf("%w: %s is not in the log of server %s", ErrDiverged, lacking, s.id)
		}
		return err
	}
	rows, err := s.rows(ctx, `SELECT GTID_SUBTRACT(?, @@global.gtid_executed) AS lacking, GTID_SUBTRACT(@@global.gtid_purged, ?) AS purged`, text, text)
	if err != nil {
		return fmt.Errorf("ask for the executed GTIDs: %w", err)
	}
	if lacking := rows[0]["lacking"]; lacking != "" {
		return fmt.Errorf("%w: server %s has not executed %.200s", ErrDiverged, s.id, lacking)
	}
	if purged := rows[0]["purged"]; purged != "" {
		return fmt.Errorf("%w: server %s has no log any more of %.200s", ErrPurged, s.id, purged)
	}
	return nil
}

// describe asks for a table.
func (s *server) describe(ctx context.Context, database, table string) (*description, error) {
	columns, err := s.rows(ctx, `SELECT COLUMN_NAME AS name, DATA_TYPE AS type, COLUMN_TYPE AS full, COALESCE(CHARACTER_SET_NAME, '') AS charset
		FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION`, database, table)
	if err != nil {
		return nil, fmt.Errorf("ask for the columns of %s.%s: %w", database, table, err)
	}
	key, err := s.rows(ctx, `SELECT COLUMN_NAME AS name FROM information_schema.STATISTICS
		WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND INDEX_NAME = 'PRIMARY' ORDER BY SEQ_IN_INDEX`, database, table)
	if err != nil {
		return nil, fmt.Errorf("ask for the key of %s.%s: %w", database, table, err)
	}
	hashes, err := s.rows(ctx, `SELECT DISTINCT INDEX_NAME AS name FROM information_schema.STATISTICS
		WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND NON_UNIQUE = 0 AND INDEX_TYPE = 'HASH'`, database, table)
	if err != nil {
		return nil, fmt.Errorf("ask for the unique keys of %s.%s: %w", database, table, err)
	}
	out := &description{hashes: len(hashes)}
	for _, c := range columns {
		col := Column{Name: c["name"], Type: strings.ToLower(c["type"]), Charset: c["charset"], Unsigned: strings.Contains(c["full"], " unsigned")}
		if col.Type == "enum" || col.Type == "set" {
			col.Unsigned, col.Labels = false, labels(c["full"])
		}
		out.columns = append(out.columns, col)
	}
	for _, k := range key {
		out.key = append(out.key, k["name"])
	}
	// Asked after the rest, so that every change that the rest shows is before
	// it in the log: both families write it there before they let others see it.
	end, err := s.end(ctx)
	out.end = place{end.File, end.Offset}
	return out, err
}

// labels reads enum('a','it”s') or set(…), as information_schema has it. It
// doubles quotes, and writes no backslashes that mean something.
func labels(full string) []string {
	var list []string
	_, rest, _ := strings.Cut(full, "(")
	for strings.HasPrefix(rest, "'") {
		var b strings.Builder
		i := 1
		for ; i < len(rest); i++ {
			if rest[i] == '\'' {
				if i+1 >= len(rest) || rest[i+1] != '\'' {
					break
				}
				i++
			}
			b.WriteByte(rest[i])
		}
		list = append(list, b.String())
		rest = strings.TrimPrefix(rest[min(i+1, len(rest)):], ",")
	}
	return list
}

// charset returns the character set of a collation.
func (s *server) charset(ctx context.Context, collation uint64) (string, error) {
	if s.charsets == nil {
		queries := []string{`SELECT ID AS id, CHARACTER_SET_NAME AS charset FROM information_schema.COLLATIONS WHERE ID IS NOT NULL`}
		if s.family == flavor.MariaDB {
			// Its newer collations belong to several character sets, and have their
			// numbers only there.
			queries = append(queries, `SELECT ID AS id, CHARACTER_SET_NAME AS charset FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY`)
		}
		var rows []map[string]string
		for i, query := range queries {
			more, err := s.rows(ctx, query)
			var said *mysql.MySQLError
			if i > 0 && errors.As(err, &said) { // before 10.10 it has no such column
				continue
			}
			if err != nil {
				// Without them a text could be taken for bytes.
				return "", fmt.Errorf("ask for the character sets: %w", err)
			}
			rows = append(rows, more...)
		}
		s.charsets = map[uint64]string{}
		for _, r := range rows {
			var id uint64
			if _, err := fmt.Sscan(r["id"], &id); err == nil {
				s.charsets[id] = r["charset"]
			}
		}
	}
	if name := s.charsets[collation]; name != "" {
		return name, nil
	}
	return fmt.Sprintf("collation %d", collation), nil
}

// behind returns how many bytes of log there are after a place.
func (s *server) behind(ctx context.Context, at place) (bytes int64, err error) {
	rows, err := s.rows(ctx, `SHOW BINARY LOGS`)
	if err != nil {
		return 0, fmt.Errorf("ask for the files of the log: %w", err)
	}
	found := false
	for _, r := range rows {
		var size int64
		if _, err := fmt.Sscan(r["File_size"], &size); err != nil {
			return 0, fmt.Errorf("ask for the files of the log: the server says %q: %w", r["File_size"], err)
		}
		if r["Log_name"] == at.file {
			found = true
			size -= int64(at.offset)
		} else if !found {
			continue
		}
		bytes += size
	}
	if !found {
		return 0, fmt.Errorf("the server has no log %s", at.file)
	}
	return max(bytes, 0), nil
}
