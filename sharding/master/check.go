package master

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/podworks/podworks/internal/flavor"
)

// Check asks the servers whether they are set up as the package needs them. Call
// it at the start of a process. All faults are reported at once:
//
//	ErrRefused   a setting must be changed first; the error says which
//	ErrPrimary   the primary is away: shops and reads don't need it to start
//	any other    the replica is away, or the server refused to answer
//
// Refused are Galera and multi-primary groups, whose certification knows no
// locks, so two could claim a name; a primary that is read-only; and with a
// replica, a primary without binary log or GTIDs, a replica of another family or
// without GTIDs, one that is the primary itself, and sessions that can write
// there.
func (m *Master) Check(ctx context.Context) error {
	primary, err := settings(ctx, m.primary)
	if err != nil {
		err = unreachable(ctx, "check", err)
	} else {
		f := flavor.Flavor(primary["family"])
		m.family.Store(&f) // a journey less for the first write
		err = refuse("the primary", append(shared(primary), m.primaryFaults(primary)...))
	}
	if m.replica == nil {
		return err
	}
	replica, errReplica := settings(ctx, m.replica)
	switch {
	case errReplica != nil:
		errReplica = fmt.Errorf("master: check the replica: %w", errReplica)
	default:
		errReplica = refuse("the replica", append(shared(replica), replicaFaults(primary, replica)...))
	}
	return errors.Join(err, errReplica)
}

func refuse(who string, faults []string) error {
	var errs []error
	for _, fault := range faults {
		errs = append(errs, fmt.Errorf("%w: %s: %s", ErrRefused, who, fault))
	}
	return errors.Join(errs...)
}

// shared are the faults that neither server may have.
func shared(vars map[string]string) (faults []string) {
	if vars["wsrep_on"] == "ON" {
		faults = append(faults, "a Galera cluster (wsrep_on is ON): writes on two nodes don't see each other's locks; use a server with one writable primary")
	}
	if vars["group_replication_group_name"] != "" && vars["group_replication_single_primary_mode"] == "OFF" {
		faults = append(faults, "a multi-primary group: writes on two members don't see each other's locks; switch it to single-primary mode")
	}
	return faults
}

func (m *Master) primaryFaults(vars map[string]string) (faults []string) {
	if v := vars["read_only"]; v != "OFF" { // newer MariaDBs have degrees of it
		faults = append(faults, fmt.Sprintf("it is read-only (read_only is %s); name the primary", v))
	}
	if vars["session"] == "1" {
		faults = append(faults, "its sessions are read-only; open the pool without master.ReadOnly")
	}
	if m.replica == nil {
		return faults
	}
	if vars["log_bin"] != "ON" {
		faults = append(faults, "the binary log is off, so a replica can't follow; start the server with log_bin")
	}
	return append(faults, gtidFaults(vars)...)
}

func gtidFaults(vars map[string]string) []string {
	if vars["family"] == string(flavor.MySQL) && vars["gtid_mode"] != "ON" {
		return []string{fmt.Sprintf("gtid_mode is %s, want ON: a write is waited for by its GTID", vars["gtid_mode"])}
	}
	return nil
}

// replicaFaults finds those of the replica. The primary's settings may be
// unknown.
func replicaFaults(primary, replica map[string]string) []string {
	faults := gtidFaults(replica)
	if primary != nil && primary["family"] != replica["family"] {
		faults = append(faults, fmt.Sprintf("it runs %s and the primary %s, want the same", replica["family"], primary["family"]))
	}
	if primary != nil && primary["server_id"] == replica["server_id"] {
		faults = append(faults, fmt.Sprintf("it has the server_id of the primary (%s); give nil for the replica, and the primary serves the reads, or give it an id of its own", replica["server_id"]))
	}
	if replica["session"] != "1" {
		faults = append(faults, "its sessions can write; open the pool with sql.OpenDB(master.ReadOnly(connector))")
	}
	return faults
}

// settings returns a server's variables, with its family, and with whether the
// session is read-only.
func settings(ctx context.Context, db *sql.DB) (map[string]string, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	f, err := flavor.Detect(ctx, conn)
	if err != nil {
		return nil, err
	}
	vars := map[string]string{"family": string(f)}
	var session string
	query := `SELECT @@session.transaction_read_only`
	if f == flavor.MariaDB {
		query = `SELECT @@session.tx_read_only` // the other name came with 11.1
	}
	if err := conn.QueryRowContext(ctx, query).Scan(&session); err != nil {
		return nil, err
	}
	vars["session"] = session
	rows, err := conn.QueryContext(ctx, `SHOW GLOBAL VARIABLES WHERE Variable_name IN ('log_bin', 'read_only', 'wsrep_on', 'gtid_mode', 'group_replication_group_name', 'group_replication_single_primary_mode', 'server_id')`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return nil, err
		}
		vars[strings.ToLower(name)] = strings.ToUpper(value)
	}
	return vars, rows.Err()
}
