package toxi_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/toxi"
)

// between puts a proxy before a server.
func between(t *testing.T, upstream string) *toxi.Proxy {
	t.Helper()
	p, err := toxi.Listen(upstream, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// early is how much before its time a proxy may let something go, so that it isn't late.
const early = 5 * time.Millisecond

// with runs during while a toxic is at work.
func with(t *testing.T, p *toxi.Proxy, toxic toxi.Toxic, during func()) {
	t.Helper()
	if err := p.With(toxic, during); err != nil {
		t.Fatal(err)
	}
}

// A shop is a database with a table, reached through a proxy and directly.
type shop struct {
	p      *toxi.Proxy
	db     *sql.DB // through the proxy
	direct *sql.DB
	ctx    context.Context
}

func newShop(t *testing.T, f testcluster.Family, configure func(*mysql.Config)) *shop {
	t.Helper()
	return openShop(t, testcluster.Server(t, f), configure)
}

func openShop(t *testing.T, s *testcluster.MySQLServer, configure func(*mysql.Config)) *shop {
	t.Helper()
	name := testcluster.Database(t, s)
	p := between(t, s.Socket())
	open := func(addr string, configure func(*mysql.Config)) *sql.DB {
		cfg := s.Config(name)
		cfg.Logger = &mysql.NopLogger{}
		if addr != "" {
			cfg.Addr = addr
		}
		if configure != nil {
			configure(cfg)
		}
		connector, err := mysql.NewConnector(cfg)
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(connector)
		t.Cleanup(func() { db.Close() })
		return db
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	sh := &shop{p: p, db: open(p.Addr(), configure), direct: open("", nil), ctx: ctx}
	if _, err := sh.direct.ExecContext(ctx, "CREATE TABLE orders (id INT PRIMARY KEY, note TEXT)"); err != nil {
		t.Fatal(err)
	}
	return sh
}

// order inserts a row in a transaction.
func (s *shop) order(id int) error {
	tx, err := s.db.BeginTx(s.ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(s.ctx, "INSERT INTO orders (id) VALUES (?)", id); err != nil {
		return err
	}
	return tx.Commit()
}

// has reports whether there is an order.
func (s *shop) has(t *testing.T, id int) bool {
	t.Helper()
	var n int
	if err := s.direct.QueryRowContext(s.ctx, "SELECT COUNT(*) FROM orders WHERE id = ?", id).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n == 1
}

// works checks that an order goes through and that nothing is left of a fault.
func (s *shop) works(t *testing.T, id int) {
	t.Helper()
	if err := s.order(id); err != nil || !s.has(t, id) {
		t.Fatalf("an order without a fault: %v", err)
	}
}

var commits = regexp.MustCompile(`(?i)^commit`)

func TestWhatACommitIsWorthWhoseAnswerNeverCame(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, test := range []struct {
			name    string
			toxic   toxi.MySQL
			ordered bool
		}{
			{"cut before", toxi.MySQL{Match: commits, Cut: toxi.CutBefore}, false},
			{"cut after", toxi.MySQL{Match: commits, Cut: toxi.CutAfter}, true},
			{"reset after", toxi.MySQL{Match: commits, Cut: toxi.CutAfter, Reset: true}, true},
		} {
			for _, pooled := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, pooled %v", test.name, pooled), func(t *testing.T) {
					t.Parallel()
					s := newShop(t, f, nil)
					if pooled {
						s.works(t, 1) // its connection is in the pool now
					}
					var err error
					with(t, s.p, test.toxic, func() { err = s.order(2) })
					if err == nil {
						t.Error("the client thinks that it has ordered")
					}
					if got := s.has(t, 2); got != test.ordered {
						t.Errorf("the order is there: %v, want %v", got, test.ordered)
					}
					s.works(t, 3)
				})
			}
		}
	})
}

func TestAnErrorOfTheTestsChoice(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		for _, interpolate := range []bool{false, true} {
			s := newShop(t, f, func(c *mysql.Config) { c.InterpolateParams = interpolate })
			conn, err := s.db.Conn(s.ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			insert := func(id int) error {
				_, err := conn.ExecContext(s.ctx, "INSERT INTO orders (id) VALUES (?)", id)
				return err
			}
			if err := insert(1); err != nil {
				t.Fatal(err)
			}
			var errs [3]error
			with(t, s.p, toxi.MySQL{Match: regexp.MustCompile("^INSERT INTO orders"), Times: 2, Fail: toxi.MySQLError{Code: 1213}}, func() {
				for i := range errs {
					errs[i] = insert(2 + i)
				}
			})
			for i, err := range errs[:2] {
				var got *mysql.MySQLError
				if !errors.As(err, &got) || got.Number != 1213 || string(got.SQLState[:]) != "40001" {
					t.Errorf("interpolate %v: got %v, want a deadlock", interpolate, err)
				}
				if s.has(t, 2+i) {
					t.Errorf("interpolate %v: the server got what failed", interpolate)
				}
			}
			if errs[2] != nil || !s.has(t, 4) {
				t.Errorf("interpolate %v: the third: %v", interpolate, errs[2])
			}
			if err := insert(5); err != nil {
				t.Errorf("interpolate %v: the same connection, without the fault: %v", interpolate, err)
			}
			with(t, s.p, toxi.MySQL{Match: regexp.MustCompile("^PING$"), Fail: toxi.MySQLError{Code: 1040}}, func() {
				var got *mysql.MySQLError
				if err := conn.PingContext(s.ctx); !errors.As(err, &got) || got.Number != 1040 {
					t.Errorf("a ping: %v", err)
				}
			})
		}
	})
}

func TestASlowStatementAndASlowAnswer(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		s := newShop(t, f, nil)
		s.works(t, 1)
		// So much more than a server that shares its machine with other tests takes.
		const slow = 2 * time.Second
		took := func(id int) time.Duration {
			begun := time.Now()
			if err := s.order(id); err != nil {
				t.Fatal(err)
			}
			return time.Since(begun)
		}
		inserts := regexp.MustCompile("^INSERT")
		with(t, s.p, toxi.MySQL{Match: inserts, Delay: slow, Times: 1}, func() {
			if got := took(2); got < slow-early || got > 3*slow {
				t.Errorf("a slow statement took %v, want %v", got, slow)
			}
			if got := took(3); got > slow {
				t.Errorf("the second took %v", got)
			}
		})
		// The client gives up, the server doesn't.
		with(t, s.p, toxi.MySQL{Match: commits, DelayReply: time.Minute}, func() {
			conn, err := s.db.Conn(s.ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for _, query := range []string{"BEGIN", "INSERT INTO orders (id) VALUES (4)"} {
				if _, err := conn.ExecContext(s.ctx, query); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(s.ctx, slow)
			defer cancel()
			_, err = conn.ExecContext(ctx, "COMMIT")
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the commit: %v, want %v", err, context.DeadlineExceeded)
			}
			if !s.has(t, 4) {
				t.Error("the order isn't there")
			}
		})
		s.works(t, 5)
	})
}

// Each of several faults hears what the server says to it, and not what another answers
// to the client in its place.
func TestSeveralFaultsOfOneProtocolDontConfuseEachOther(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	p := between(t, server.Socket())
	c := dialLine(t, p)
	bulk := func(s string) string { return fmt.Sprintf("*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len(s), s) }
	with(t, p, toxi.Redis{Match: regexp.MustCompile("^GET a"), Fail: "ERR a"}, func() {
		with(t, p, toxi.Redis{Match: regexp.MustCompile("^GET b"), Fail: "ERR b"}, func() {
			for range 3 {
				with(t, p, toxi.Redis{Match: regexp.MustCompile("^GET c"), Fail: "ERR c"}, func() {
					c.say(bulk("x") + bulk("a") + bulk("b") + bulk("c") + bulk("x") + bulk("c") + bulk("a") + bulk("b"))
					c.hears("$-1\r\n-ERR a\r\n-ERR b\r\n-ERR c\r\n$-1\r\n-ERR c\r\n-ERR a\r\n-ERR b\r\n")
				})
				c.say(bulk("c") + bulk("a") + bulk("b"))
				c.hears("$-1\r\n-ERR a\r\n-ERR b\r\n")
			}
		})
	})
}

// Whatever a driver and a server say to each other passes, and is understood: a
// statement that is to fail right behind it fails.
func TestTrafficOfADriverPassesAndIsUnderstood(t *testing.T) {
	t.Parallel()
	mysql.RegisterReaderHandler("orders", func() io.Reader {
		// More than 255 packets, so that their numbers begin again.
		return strings.NewReader(strings.Repeat("8\t"+strings.Repeat("SELECT 'mark'", 400)+"\n", 1000))
	})
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		s := newShop(t, f, func(c *mysql.Config) {
			c.MultiStatements = true
			c.MaxAllowedPacket = 64 << 20
			c.AllowAllFiles = true
		})
		if _, err := s.direct.ExecContext(s.ctx, "SET GLOBAL max_allowed_packet = 67108864"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.direct.ExecContext(s.ctx, "SET GLOBAL local_infile = 1"); err != nil {
			t.Fatal(err)
		}
		exec := func(query string, args ...any) func(*sql.Conn) error {
			return func(c *sql.Conn) error {
				_, err := c.ExecContext(s.ctx, query, args...)
				return err
			}
		}
		rows := func(want int, query string, args ...any) func(*sql.Conn) error {
			return func(c *sql.Conn) error {
				r, err := c.QueryContext(s.ctx, query, args...)
				if err != nil {
					return err
				}
				defer r.Close()
				n := 0
				for more := true; more; more = r.NextResultSet() {
					for r.Next() {
						n++
					}
				}
				if n != want {
					return fmt.Errorf("%d rows, want %d", n, want)
				}
				return r.Err()
			}
		}
		numbers := "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT i, REPEAT('x', 100) FROM n"
		const long = 17 << 20 // more than a packet
		steps := []struct {
			name string
			do   func(*sql.Conn) error
		}{
			{"a statement", exec("INSERT INTO orders (id) VALUES (1)")},
			{"an error", func(c *sql.Conn) error {
				if err := exec("INSERT INTO orders (id) VALUES (1)")(c); err == nil {
					return errors.New("no error")
				}
				return nil
			}},
			{"rows", rows(1000, numbers)},
			{"rows of a prepared statement", rows(1000, numbers+" WHERE i > ?", 0)},
			{"no rows", rows(0, "SELECT * FROM orders WHERE id = ?", 17)},
			{"several results", rows(1002, "DO 1; SELECT 1; "+numbers+"; DO 1; SELECT 2")},
			{"a statement that is used again", func(c *sql.Conn) error {
				stmt, err := c.PrepareContext(s.ctx, "SELECT id FROM orders WHERE id = ?")
				if err != nil {
					return err
				}
				defer stmt.Close()
				for range 3 {
					var id int
					if err := stmt.QueryRowContext(s.ctx, 1).Scan(&id); err != nil {
						return err
					}
				}
				return nil
			}},
			{"a ping", func(c *sql.Conn) error { return c.PingContext(s.ctx) }},
			{"a file", exec("LOAD DATA LOCAL INFILE 'Reader::orders' IGNORE INTO TABLE orders")},
			{"long data", exec("INSERT INTO orders VALUES (?, SUBSTRING(?, 1, 10))", 2, []byte(strings.Repeat("y", long)))},
			{"a long statement", exec("INSERT INTO orders VALUES (3, SUBSTRING('" + strings.Repeat("y", long) + "', 1, 10))")},
			{"a long row", rows(1, fmt.Sprintf("SELECT REPEAT('z', %d)", long))},
		}
		if testing.Short() {
			steps = steps[:len(steps)-3]
		}
		marks := regexp.MustCompile("^SELECT 'mark'")
		for _, pooled := range []bool{false, true} {
			if _, err := s.direct.ExecContext(s.ctx, "DELETE FROM orders"); err != nil {
				t.Fatal(err)
			}
			var conn *sql.Conn
			open := func() {
				var err error
				if conn, err = s.db.Conn(s.ctx); err != nil {
					t.Fatal(err)
				}
			}
			if pooled {
				open()
				steps = steps[:len(steps)-3] // the big ones take long
			}
			with(t, s.p, toxi.MySQL{Match: marks, Fail: toxi.MySQLError{Code: 4242}}, func() {
				if !pooled {
					open()
				}
				for _, step := range steps {
					if err := step.do(conn); err != nil {
						t.Errorf("pooled %v: %s: %v", pooled, step.name, err)
					}
					var got *mysql.MySQLError
					if err := exec("SELECT 'mark'")(conn); !errors.As(err, &got) || got.Number != 4242 {
						t.Fatalf("pooled %v: behind %s, the error is %v", pooled, step.name, err)
					}
				}
			})
			conn.Raw(func(any) error { return errors.New("close it") })
			conn.Close()
		}
	})
}

func TestConnectionsThatCantBeReadPass(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		cert, key := certificate(t)
		server := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, NoBinlog: true, Args: []string{"--ssl-cert=" + cert, "--ssl-key=" + key}})
		for name, configure := range map[string]func(*mysql.Config){
			"compressed": func(c *mysql.Config) { c.Apply(mysql.EnableCompression(true)) },
			"under TLS":  func(c *mysql.Config) { c.TLSConfig = "skip-verify" },
		} {
			t.Run(name, func(t *testing.T) {
				s := openShop(t, server, configure)
				s.works(t, 1)
				// On a connection from before, and on one that begins with the fault.
				everything := toxi.MySQL{Cut: toxi.CutBefore}
				with(t, s.p, everything, func() { s.works(t, 2) })
				s.db.SetMaxIdleConns(-1)
				with(t, s.p, everything, func() { s.works(t, 3) })
			})
		}
	})
}

// certificate writes a certificate of nobody and its key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(private))
}

// A line is a connection over which a test speaks a protocol of lines.
type line struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dialLine(t *testing.T, p *toxi.Proxy) *line {
	t.Helper()
	network := "tcp"
	if strings.HasPrefix(p.Addr(), "/") {
		network = "unix"
	}
	c, err := net.Dial(network, p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &line{t, c, bufio.NewReader(c)}
}

func (l *line) say(s string) {
	l.t.Helper()
	if _, err := io.WriteString(l, s); err != nil {
		l.t.Fatal(err)
	}
}

// hears checks what comes next.
func (l *line) hears(want string) {
	l.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(l.r, got)
	if string(got[:n]) != want {
		l.t.Fatalf("got %q, %v, want %q", got[:n], err, want)
	}
}

// ends checks that nothing comes any more.
func (l *line) ends() {
	l.t.Helper()
	got, err := io.ReadAll(l.r)
	var timeout net.Error
	if len(got) > 0 || errors.As(err, &timeout) && timeout.Timeout() {
		l.t.Fatalf("got %q, %v, want the end", got, err)
	}
}

func TestRedisCommandsFailAreSlowAndAreCutOff(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, &testcluster.RedisOptions{Args: []string{"--enable-debug-command", "yes"}})
	for _, pooled := range []bool{false, true} {
		t.Run(fmt.Sprintf("pooled %v", pooled), func(t *testing.T) {
			p := between(t, server.Socket())
			direct := dialLine(t, between(t, server.Socket()))
			var c *line
			// strike runs during with a toxic, on a connection from before or from then.
			strike := func(toxic toxi.Redis, during func()) {
				t.Helper()
				if c = nil; pooled {
					c = dialLine(t, p)
					c.say("*2\r\n$3\r\nDEL\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n")
					c.r.ReadString('\n')
					c.hears("+PONG\r\n")
				}
				with(t, p, toxic, func() {
					if !pooled {
						c = dialLine(t, p)
						c.say("*2\r\n$3\r\nDEL\r\n$1\r\na\r\n")
						c.r.ReadString('\n')
					}
					during()
				})
			}
			set, get := "*3\r\n$3\r\nset\r\n$1\r\na\r\n$1\r\n1\r\n", "*2\r\n$3\r\nGET\r\n$1\r\na\r\n"
			sets := regexp.MustCompile("^SET a")

			strike(toxi.Redis{Match: sets, Fail: "LOADING Redis is loading the dataset in memory"}, func() {
				c.say(get + set + get + set + "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n")
				c.hears("$-1\r\n-LOADING Redis is loading the dataset in memory\r\n$-1\r\n-LOADING Redis is loading the dataset in memory\r\n%")
				for {
					if s, err := c.r.ReadString('\n'); err != nil || s == "modules\r\n" {
						break
					}
				}
				c.hears("*0\r\n")
				for _, name := range []string{"string", "integer", "double", "null", "array", "set", "map", "attrib", "bignum", "true", "false", "verbatim", "push"} {
					c.say(fmt.Sprintf("*3\r\n$5\r\nDEBUG\r\n$8\r\nPROTOCOL\r\n$%d\r\n%s\r\n", len(name), name))
					c.say(set)
					for {
						s, err := c.r.ReadString('\n')
						if err != nil {
							t.Fatalf("%s: %v", name, err)
						}
						if strings.HasPrefix(s, "-LOADING") {
							break
						}
					}
				}
				c.say(get)
				c.hears("_\r\n")
			})

			strike(toxi.Redis{Match: sets, Cut: toxi.CutBefore}, func() {
				c.say(get + set)
				c.hears("$-1\r\n")
				c.ends()
			})
			direct.say(get)
			direct.hears("$-1\r\n")

			strike(toxi.Redis{Match: sets, Cut: toxi.CutAfter}, func() {
				c.say(get + set)
				c.hears("$-1\r\n")
				c.ends()
			})
			direct.say(get)
			direct.hears("$1\r\n1\r\n")

			const slow = 200 * time.Millisecond
			for _, toxic := range []toxi.Redis{{Match: sets, Delay: slow}, {Match: sets, DelayReply: slow}} {
				strike(toxic, func() {
					begun := time.Now()
					c.say(get)
					c.hears("$-1\r\n")
					if got := time.Since(begun); got > slow {
						t.Errorf("what is not struck took %v", got)
					}
					begun = time.Now()
					c.say(set + get)
					c.hears("+OK\r\n$1\r\n1\r\n")
					if got := time.Since(begun); got < slow-early || got > slow+time.Second {
						t.Errorf("%+v took %v", toxic, got)
					}
				})
			}

			strike(toxi.Redis{Match: regexp.MustCompile("^(SET a|EXEC)"), Fail: "ERR no"}, func() {
				c.say("*1\r\n$5\r\nMULTI\r\n" + set + get + "*1\r\n$4\r\nEXEC\r\n" + "*1\r\n$7\r\nDISCARD\r\n" + get)
				c.hears("+OK\r\n-ERR no\r\n+QUEUED\r\n-ERR no\r\n+OK\r\n$-1\r\n")
				c.say("*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nc\r\n")
				c.hears("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
				direct.say("*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n$1\r\nm\r\n")
				direct.hears(":1\r\n")
				c.hears("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n")
			})
		})
	}
}

func TestMemcachedCommandsFailAreSlowAndAreCutOff(t *testing.T) {
	t.Parallel()
	server := testcluster.Memcached(t, nil)
	for _, pooled := range []bool{false, true} {
		t.Run(fmt.Sprintf("pooled %v", pooled), func(t *testing.T) {
			p := between(t, server.Socket())
			direct := dialLine(t, between(t, server.Socket()))
			var c *line
			strike := func(toxic toxi.Memcached, during func()) {
				t.Helper()
				if c = nil; pooled {
					c = dialLine(t, p)
					c.say("mn\r\n")
					c.hears("MN\r\n")
				}
				direct.say("flush_all\r\n")
				direct.hears("OK\r\n")
				with(t, p, toxic, func() {
					if !pooled {
						c = dialLine(t, p)
					}
					during()
				})
			}
			const set, get, value = "set a 0 0 5\r\nget a\r\n", "get a\r\n", "VALUE a 0 5\r\nget a\r\nEND\r\n"
			sets := regexp.MustCompile("^set a ")

			strike(toxi.Memcached{Match: sets, Fail: "SERVER_ERROR out of memory storing object"}, func() {
				c.say(get + set + "set b 0 0 1\r\nx\r\n" + set + "get a b nothing\r\nset a 0 0 1 noreply\r\nx\r\n" + get)
				c.hears("END\r\nSERVER_ERROR out of memory storing object\r\nSTORED\r\nSERVER_ERROR out of memory storing object\r\nVALUE b 0 1\r\nx\r\nEND\r\nEND\r\n")
				for _, exchange := range []struct{ say, ends string }{
					{"gets b\r\n", "END\r\n"}, {"gat 100 b\r\n", "END\r\n"}, {"add b 0 0 1\r\ny\r\n", "NOT_STORED\r\n"},
					{"replace b 0 0 1\r\n5\r\n", "STORED\r\n"}, {"append b 0 0 1\r\n6\r\n", "STORED\r\n"}, {"prepend b 0 0 1\r\n4\r\n", "STORED\r\n"},
					{"cas b 0 0 1 1\r\n5\r\n", "EXISTS\r\n"}, {"incr b 1\r\n", "457\r\n"}, {"decr b 1\r\n", "456\r\n"}, {"touch b 100\r\n", "TOUCHED\r\n"},
					{"version\r\n", "\r\n"}, {"verbosity 0\r\n", "OK\r\n"}, {"stats\r\n", "END\r\n"}, {"stats items\r\n", "END\r\n"}, {"stats reset\r\n", "RESET\r\n"},
					{"ms b 2 T0\r\nhi\r\n", "HD \r\n"}, {"mg b v t\r\n", "hi\r\n"}, {"mg nothing v\r\n", "EN\r\n"}, {"me b\r\n", "\r\n"}, {"md b\r\n", "HD\r\n"},
					{"ma n N0 J7 v\r\n", "7\r\n"}, {"mn\r\n", "MN\r\n"}, {"mg b q v\r\nmg n q v\r\nmn\r\n", "MN\r\n"},
					{"delete nothing\r\n", "NOT_FOUND\r\n"}, {"flush_all\r\n", "OK\r\n"}, {"set b 0 0 2000000\r\n" + strings.Repeat("x", 2_000_000) + "\r\n", "cache\r\n"},
				} {
					c.say(exchange.say + set)
					var all, last string
					for {
						s, err := c.r.ReadString('\n')
						if err != nil {
							t.Fatalf("%.30q: got %q, %v", exchange.say, all, err)
						}
						if strings.HasPrefix(s, "SERVER_ERROR out of memory st") {
							break
						}
						all += s
						last = s
					}
					if !strings.HasSuffix(strings.ReplaceAll(all, "HD\r\n", "HD \r\n"), strings.ReplaceAll(exchange.ends, "HD\r\n", "HD \r\n")) {
						t.Errorf("%.30q: got %q, want %q at the end; the last line is %q", exchange.say, all, exchange.ends, last)
					}
				}
				c.say(get)
				c.hears("END\r\n")
			})

			strike(toxi.Memcached{Match: sets, Cut: toxi.CutBefore}, func() {
				c.say(get + set)
				c.hears("END\r\n")
				c.ends()
			})
			direct.say(get)
			direct.hears("END\r\n")

			strike(toxi.Memcached{Match: sets, Cut: toxi.CutAfter}, func() {
				c.say(get + set)
				c.hears("END\r\n")
				c.ends()
			})
			direct.say(get)
			direct.hears(value)

			const slow = 200 * time.Millisecond
			for _, toxic := range []toxi.Memcached{{Match: sets, Delay: slow}, {Match: sets, DelayReply: slow}} {
				strike(toxic, func() {
					begun := time.Now()
					c.say(set + get)
					c.hears("STORED\r\n" + value)
					if got := time.Since(begun); got < slow-early || got > slow+time.Second {
						t.Errorf("%+v took %v", toxic, got)
					}
				})
			}
		})
	}
}

// The fault comes and goes; who isn't struck must not notice.
func TestFaultsThatComeAndGoUnderTrafficHurtOnlyWhatTheyStrike(t *testing.T) {
	t.Parallel()
	none := regexp.MustCompile("^nothing")
	const short = 100 * time.Microsecond
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		p := between(t, testcluster.Redis(t, nil).Socket())
		comeAndGo(t, p, []toxi.Toxic{
			toxi.Redis{Match: none, Fail: "ERR no"},
			toxi.Redis{Match: none, Cut: toxi.CutAfter},
			toxi.Redis{Match: regexp.MustCompile("^GET"), Delay: short, Times: 3},
			toxi.Redis{DelayReply: short},
			toxi.Fault{Toxic: toxi.Redis{Delay: short}, Toxicity: 0.5},
		}, func(i int) func(int) error {
			c := dialLine(t, p)
			return func(n int) error {
				value := fmt.Sprintf("%d-%d-%s", i, n, strings.Repeat("v", n*37%3000))
				key := fmt.Sprintf("k%d", i)
				return c.exchange(
					fmt.Sprintf("*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len(key), key, len(value), value, len(key), key),
					fmt.Sprintf("+OK\r\n$%d\r\n%s\r\n", len(value), value))
			}
		})
	})
	t.Run("memcached", func(t *testing.T) {
		t.Parallel()
		p := between(t, testcluster.Memcached(t, nil).Socket())
		comeAndGo(t, p, []toxi.Toxic{
			toxi.Memcached{Match: none, Fail: "ERROR"},
			toxi.Memcached{Match: none, Cut: toxi.CutAfter},
			toxi.Memcached{Match: regexp.MustCompile("^get"), Delay: short, Times: 3},
			toxi.Memcached{DelayReply: short},
		}, func(i int) func(int) error {
			c := dialLine(t, p)
			return func(n int) error {
				value := fmt.Sprintf("%d-%d-%s", i, n, strings.Repeat("v", n*37%3000))
				return c.exchange(
					fmt.Sprintf("set k%d 0 0 %d\r\n%s\r\nset k%d 0 0 %d noreply\r\n%s\r\nget k%d\r\n", i, len(value), value, i, len(value), value, i),
					fmt.Sprintf("STORED\r\nVALUE k%d 0 %d\r\n%s\r\nEND\r\n", i, len(value), value))
			}
		})
	})
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		s := newShop(t, f, nil)
		comeAndGo(t, s.p, []toxi.Toxic{
			toxi.MySQL{Match: none, Fail: toxi.MySQLError{Code: 1213}},
			toxi.MySQL{Match: none, Cut: toxi.CutAfter},
			toxi.MySQL{Match: regexp.MustCompile("^SELECT"), Delay: short, Times: 3},
			toxi.MySQL{DelayReply: short},
		}, func(i int) func(int) error {
			return func(n int) error {
				want := strings.Repeat("v", n*37%3000)
				var got string
				if err := s.db.QueryRowContext(s.ctx, "SELECT ?", want).Scan(&got); err != nil {
					return err
				}
				if got != want {
					return fmt.Errorf("got %q, want %q", got, want)
				}
				return nil
			}
		})
	})
}

// exchange says something and expects an answer.
func (l *line) exchange(say, want string) error {
	if _, err := io.WriteString(l, say); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if n, err := io.ReadFull(l.r, got); err != nil || string(got) != want {
		return fmt.Errorf("got %q, want %q: %w", got[:n], want, err)
	}
	return nil
}

// comeAndGo lets clients work while toxics come and go.
func comeAndGo(t *testing.T, p *toxi.Proxy, toxics []toxi.Toxic, client func(i int) (round func(n int) error)) {
	t.Helper()
	const clients, rounds = 4, 300
	done := make(chan error, clients)
	for i := range clients {
		round := client(i)
		go func() {
			for n := range rounds {
				if err := round(n); err != nil {
					done <- fmt.Errorf("client %d, round %d: %w", i, n, err)
					return
				}
			}
			done <- nil
		}()
	}
	for i, left := 0, clients; left > 0; i++ {
		remove, err := p.Add(toxics[i%len(toxics)])
		if err != nil {
			t.Fatal(err)
		}
		tick := time.NewTimer(time.Millisecond)
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			left--
		case <-tick.C:
		}
		tick.Stop()
		if err := remove(); err != nil {
			t.Fatal(err)
		}
	}
}
