package testcluster

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"
)

// A Family is one of the two lines that MySQL has split into.
type Family string

const (
	MariaDB Family = "mariadb"
	MySQL   Family = "mysql"
)

// Families returns all families, in the order in which Each runs them.
func Families() []Family { return []Family{MariaDB, MySQL} }

// MySQLOptions say how a MySQL or MariaDB server runs. The zero value is a
// MariaDB with a binary log of full rows, on a unix socket.
type MySQLOptions struct {
	Family Family // default MariaDB

	NoBinlog       bool
	BinlogFormat   string // default ROW; MySQL 9.7 still has others, deprecated
	BinlogRowImage string // default FULL
	ServerID       uint32 // default NextServerID()

	// GTID makes MySQL name transactions by GTID. MariaDB always does when it
	// has a binary log; there it makes the server refuse GTIDs out of order.
	GTID bool

	// ReadOnly refuses writes: on MySQL root's as well (super_read_only), on
	// MariaDB, which has nothing like it, those of AppUser.
	ReadOnly bool

	// ReplicaOf is the server to replicate from, from the beginning of its
	// binary log: by GTID if both have it, else by file and position. It must
	// have been started with TCP, because replication knows no unix sockets.
	ReplicaOf *MySQLServer

	// Durable makes a commit reach the disk. Without it a commit reaches the
	// operating system, which survives the death of the server, and not that of
	// the machine.
	Durable bool

	// TCP makes the server listen on 127.0.0.1 as well, on Port.
	TCP bool

	// Args are more arguments for the server. They come last and win.
	Args []string
}

// A MySQLServer is a running MySQL or MariaDB server. The user root and the
// user AppUser have no password, on the socket and on 127.0.0.1.
type MySQLServer struct {
	*Process
	family  Family
	version string
	socket  string
	port    int
	id      uint32
	gtid    bool
	source  *MySQLServer
}

// StartMySQL starts a server and returns when it answers queries and, if it is
// a replica, is connected to its source. ErrMissing is in the error if there is
// no such server on this machine.
func StartMySQL(ctx context.Context, opts *MySQLOptions) (*MySQLServer, error) {
	var o MySQLOptions
	if opts != nil {
		o = *opts
	}
	if o.Family == "" {
		o.Family = MariaDB
	}
	if o.BinlogFormat == "" {
		o.BinlogFormat = "ROW"
	}
	if o.BinlogRowImage == "" {
		o.BinlogRowImage = "FULL"
	}
	if o.ServerID == 0 {
		o.ServerID = NextServerID()
	}
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("testcluster: MySQLOptions: %w", err)
	}
	b, err := findBinary(ctx, o.Family)
	if err != nil {
		return nil, err
	}
	from, err := template(ctx, o.Family, b)
	if err != nil {
		return nil, err
	}
	return onPort(o.TCP, func(port int) (*MySQLServer, error) { return startMySQL(ctx, &o, b, from, port) })
}

// startMySQL starts the server b on a copy of the data directory template.
func startMySQL(ctx context.Context, o *MySQLOptions, b *binary, template string, port int) (*MySQLServer, error) {
	dir, err := newFolder(string(o.Family) + "-")
	if err != nil {
		return nil, err
	}
	s := &MySQLServer{
		family:  o.Family,
		version: b.version,
		port:    port,
		id:      o.ServerID,
		gtid:    o.GTID || o.Family == MariaDB && !o.NoBinlog,
		source:  o.ReplicaOf,
	}
	s.Process = &Process{name: string(o.Family) + " " + b.version, dir: dir, ready: s.answers}
	if s.socket, err = dir.socket(); err == nil {
		err = copyTree(template, filepath.Join(dir.path, "data"))
	}
	if err == nil {
		err = os.Mkdir(filepath.Join(dir.path, "tmp"), 0o700)
	}
	if err != nil {
		return nil, errors.Join(err, s.discard())
	}
	s.argv = s.arguments(o, b)
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	if err := s.configure(ctx, o); err != nil {
		return nil, errors.Join(err, s.stop(syscall.SIGKILL))
	}
	return s, nil
}

func (o *MySQLOptions) validate() error {
	var errs []error
	if o.ReplicaOf != nil {
		if o.ReplicaOf.port == 0 {
			errs = append(errs, errors.New("ReplicaOf listens on its unix socket only, which a replica cannot use: start it with TCP: true"))
		}
		if o.ReplicaOf.family != o.Family {
			errs = append(errs, fmt.Errorf("ReplicaOf is %s and Family is %s, want the same", o.ReplicaOf.family, o.Family))
		}
		if o.ReplicaOf.id == o.ServerID {
			errs = append(errs, fmt.Errorf("ServerID is %d, which is that of ReplicaOf, want another", o.ServerID))
		}
	}
	if o.NoBinlog && o.GTID {
		errs = append(errs, errors.New("GTID is set and NoBinlog too: what names transactions is the binary log"))
	}
	return errors.Join(errs...)
}

// smallArgs make a server of family f small and quick to start. They are used
// for making its data directory too, so that the sizes of logs fit.
//
// Native asynchronous I/O is off because the machine has a fixed number of
// contexts for it (fs.aio-max-nr), which some twenty servers use up.
func smallArgs(f Family) []string {
	if f == MySQL {
		return []string{
			"--innodb-buffer-pool-size=64M",
			"--innodb-use-native-aio=OFF",
			"--auto-generate-certs=OFF",
			"--caching-sha2-password-auto-generate-rsa-keys=OFF",
		}
	}
	return []string{
		"--innodb-buffer-pool-size=64M",
		"--innodb-log-file-size=16M",
		"--innodb-use-native-aio=OFF",
	}
}

// arguments returns the command line of s.
func (s *MySQLServer) arguments(o *MySQLOptions, b *binary) []string {
	dir := s.Dir()
	// The logs are written at each commit even if they are not synced: a test
	// that kills a server is about the process, and expects its commits back.
	flush, sync := "2", "0"
	if o.Durable {
		flush, sync = "1", "1"
	}
	args := append(b.command(),
		"--no-defaults",
		"--datadir="+filepath.Join(dir, "data"),
		"--tmpdir="+filepath.Join(dir, "tmp"),
		"--socket="+s.socket,
		"--pid-file="+filepath.Join(dir, "mysqld.pid"),
		"--skip-name-resolve",
		"--character-set-server=utf8mb4",
		"--default-time-zone=+00:00",
		"--server-id="+strconv.FormatUint(uint64(o.ServerID), 10),
		"--max-connections=500",
		"--innodb-flush-log-at-trx-commit="+flush,
		"--sync-binlog="+sync,
		"--relay-log=relay",
	)
	args = slices.Concat(args, b.base(), asUser(), smallArgs(s.family))
	if s.port == 0 {
		args = append(args, "--skip-networking")
	} else {
		args = append(args, "--bind-address=127.0.0.1", "--port="+strconv.Itoa(s.port))
	}

	// A replica of MySQL asks for its log in the names of the new world, and
	// MariaDB only knows the old.
	logUpdates := "--log-replica-updates"
	if s.family == MariaDB {
		logUpdates = "--log-slave-updates"
	}
	if o.NoBinlog {
		args = append(args, "--skip-log-bin")
	} else {
		args = append(args,
			"--log-bin=binlog",
			// MySQL is about to drop it; configure checks.
			"--loose-binlog-format="+o.BinlogFormat,
			"--binlog-row-image="+o.BinlogRowImage,
			logUpdates,
		)
	}

	switch s.family {
	case MySQL:
		args = append(args,
			"--mysqlx=OFF",
			"--secure-file-priv=",
			"--innodb-redo-log-capacity=32M",
			// Its tables of locks are wanted, its memory is not.
			"--performance-schema=ON",
			"--performance-schema-max-table-instances=500",
			"--performance-schema-max-table-handles=1000",
			"--performance-schema-digests-size=200",
			"--performance-schema-events-statements-history-long-size=100",
			"--table-open-cache=1000",
			"--table-definition-cache=600",
		)
		if o.GTID {
			args = append(args, "--gtid-mode=ON", "--enforce-gtid-consistency=ON")
		}
		if o.ReadOnly {
			args = append(args, "--super-read-only=ON")
		}
	case MariaDB:
		args = append(args,
			"--performance-schema=OFF",
			"--aria-pagecache-buffer-size=8M",
			"--key-buffer-size=1M",
		)
		if !o.Durable {
			args = append(args, "--debug-no-sync")
		}
		if o.GTID {
			args = append(args, "--gtid-strict-mode=ON")
		}
		if o.ReadOnly {
			args = append(args, "--read-only=ON")
		}
	}
	return append(args, o.Args...)
}

// configure does what needs a running server.
func (s *MySQLServer) configure(ctx context.Context, o *MySQLOptions) error {
	db, err := s.open()
	if err != nil {
		return err
	}
	defer db.Close()
	if !o.NoBinlog && !strings.EqualFold(o.BinlogFormat, "ROW") {
		var name, value string
		err := db.QueryRowContext(ctx, "SHOW GLOBAL VARIABLES LIKE 'binlog_format'").Scan(&name, &value)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("testcluster: MySQLOptions: BinlogFormat is %s, which %s does not have: it logs rows only", o.BinlogFormat, s.name)
		}
		if err != nil {
			return fmt.Errorf("testcluster: %s: %w", s.name, err)
		}
	}
	if s.source != nil {
		return s.replicate(ctx, db)
	}
	return nil
}

// answers asks the server for an answer.
func (s *MySQLServer) answers(ctx context.Context) error {
	db, err := s.open()
	if err != nil {
		return err
	}
	defer db.Close()
	var one int
	return db.QueryRowContext(ctx, "SELECT 1").Scan(&one)
}

// open returns a connection pool of our own. The driver would print what it
// thinks of a server that is not ready.
func (s *MySQLServer) open() (*sql.DB, error) {
	c := s.Config("")
	c.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, fmt.Errorf("testcluster: %w", err)
	}
	return sql.OpenDB(connector), nil
}

// Config returns how the Go driver reaches the database on the unix socket, as
// root: times are time.Time in UTC. The caller may change it.
func (s *MySQLServer) Config(database string) *mysql.Config {
	c := mysql.NewConfig()
	c.User = "root"
	c.Net = "unix"
	c.Addr = s.socket
	c.DBName = database
	c.ParseTime = true
	c.Loc = time.UTC
	c.Timeout = 10 * time.Second
	return c
}

// DSN returns Config as a string for sql.Open("mysql", …).
func (s *MySQLServer) DSN(database string) string { return s.Config(database).FormatDSN() }

// Socket returns the path of the unix socket.
func (s *MySQLServer) Socket() string { return s.socket }

// Port returns the port on 127.0.0.1, or 0 without TCP.
func (s *MySQLServer) Port() int { return s.port }

// Addr returns "127.0.0.1:port", or "" without TCP.
func (s *MySQLServer) Addr() string { return loopback(s.port) }

// Family returns the family of the server.
func (s *MySQLServer) Family() Family { return s.family }

// Version returns the server's version in numbers, such as "10.11.14".
func (s *MySQLServer) Version() string { return s.version }

// ServerID returns the server's id in replication.
func (s *MySQLServer) ServerID() uint32 { return s.id }

var serverIDs atomic.Uint32

// NextServerID returns an id for a server or for a reader of binary logs that
// no other in this process has, nor in processes at the same time: a source
// ends the connection of a replica when another comes with the same id.
func NextServerID() uint32 {
	// A process id has 22 bits at most.
	return uint32(os.Getpid())<<10 | serverIDs.Add(1)&(1<<10-1)
}
