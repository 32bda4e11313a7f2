package ferry_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
)

// How a move may end.
const (
	moved   = "moved"   // and both sides print the same
	refused = "refused" // before anything was touched
	stopped = "stopped" // in the copy, before the lock, and undone
	yielded = "yielded" // under the lock, which was given back, and undone
	undone  = "undone"  // one of these two
)

// plain is most probes' table, with rows of even ids from 2 to 120.
const plain = `CREATE TABLE p (shop_id BIGINT NOT NULL, id INT NOT NULL, v VARCHAR(50), u VARCHAR(20), PRIMARY KEY (id), KEY (shop_id, id), UNIQUE KEY (shop_id, u))`

// A probe is a case in which Ghostferry was measured to lose rows, or to leave
// the shop locked. In its SQL, statements are separated by semicolons and SHOP
// stands for the shop; 8 is another one in the same pod.
type probe struct {
	name           string
	both           string // creates the table p
	source, target string // before the move; source is plain's rows if it is ""
	at             string // when during happens: before the third chunk of p is read, or at a step
	during         string
	ends           string
	says           []string // of the error
	then           func(*testing.T, *world)
}

var probes = []probe{
	{name: "M1 ids that are 0 and below", both: plain, source: `INSERT INTO p VALUES (SHOP, 0, 'a', NULL), (SHOP, -5, 'b', NULL), (SHOP, 5, 'c', NULL)`, ends: moved},
	{
		name: "M2 a row that is on the target already and differs", both: plain, target: `INSERT INTO p VALUES (SHOP, 2, 'another', NULL)`,
		ends: refused, says: []string{"pod 2, table p: 1 rows of shop SHOP are there already"},
	},
	{
		name: "M2 the same with a key of bytes",
		both: `CREATE TABLE p (shop_id BIGINT NOT NULL, id BINARY(16) NOT NULL PRIMARY KEY, v INT, KEY (shop_id))`, source: `INSERT INTO p VALUES (SHOP, x'01', 1)`,
		target: `INSERT INTO p VALUES (SHOP, x'01', 2)`, ends: refused, says: []string{"pod 2, table p: 1 rows of shop SHOP are there already"},
	},
	{
		name: "M3 a row on the target that the source doesn't have", both: plain, target: `INSERT INTO p VALUES (SHOP, 999, 'left', NULL)`,
		ends: refused, says: []string{"pod 2, table p: 1 rows of shop SHOP are there already", "Clean removes them"},
	},
	{
		name: "M4 keys that go behind the cursor and ahead of it", both: plain, at: "S3",
		during: `UPDATE p SET id = 3 WHERE id = 100; UPDATE p SET id = 101 WHERE id = 4; UPDATE p SET id = 51 WHERE id = 42`, ends: moved,
	},
	{
		name: "M5 unique values that two rows exchange", both: plain, at: "S3",
		during: `BEGIN; UPDATE p SET u = 'x' WHERE id = 4; UPDATE p SET u = 'u4' WHERE id = 100; UPDATE p SET u = 'u100' WHERE id = 4; COMMIT;
			BEGIN; UPDATE p SET u = 'y' WHERE id = 42; UPDATE p SET u = 'u42' WHERE id = 44; UPDATE p SET u = 'u44' WHERE id = 42; COMMIT`, ends: moved,
	},
	{name: "M6 the table is emptied", both: plain, at: "cutover", during: `TRUNCATE p`, ends: stopped, says: []string{"changed the schema", "TRUNCATE p"}},
	{
		name: "M7 a write that is logged as a statement", both: plain, at: "cutover", during: `SET binlog_format = 'STATEMENT'; UPDATE p SET v = 'new' WHERE id = 2`,
		ends: stopped, says: []string{"wrote without row events", "UPDATE p SET v = 'new'"},
	},
	{
		name: "M7 the same in the last transaction that the lock waits for", both: plain, at: "cutover", during: `IN FLIGHT`,
		ends: undone, says: []string{"wrote without row events", "UPDATE p SET v = 'in flight'"},
	},
	{
		name: "M8 a row that is logged in part", both: plain, at: "cutover", during: `SET binlog_row_image = 'MINIMAL'; UPDATE p SET v = 'new' WHERE id = 2`,
		ends: stopped, says: []string{"table p: a session writes with a binlog_row_image other than FULL"},
	},
	{
		name: "M9 a row of no shop", both: `CREATE TABLE p (shop_id BIGINT, id INT NOT NULL, v VARCHAR(50), u VARCHAR(20), PRIMARY KEY (id), KEY (shop_id, id))`, at: "S3",
		during: `INSERT INTO p VALUES (NULL, 1001, 'nobody', NULL); UPDATE p SET v = 'no one' WHERE id = 1001; UPDATE p SET shop_id = NULL WHERE id IN (4, 100);
			UPDATE p SET shop_id = SHOP WHERE id = 1001`, ends: moved,
	},
	{
		name: "M10 shops that are strings", both: `CREATE TABLE p (shop_id VARCHAR(20) NOT NULL, id INT NOT NULL, PRIMARY KEY (shop_id, id))`,
		source: `INSERT INTO p VALUES ('SHOP', 1), ('SHOP', 2)`, at: "S1", during: `UPDATE p SET id = 3 WHERE shop_id = 'SHOP' AND id = 2`, ends: moved,
	},
	{
		name: "M11 rows that leave the shop and come to it", both: plain, at: "S3",
		during: `UPDATE p SET shop_id = 8, u = NULL WHERE id IN (4, 42, 100); INSERT INTO p VALUES (8, 5, 'comes', 'x'), (8, 43, 'comes', 'y'), (8, 101, 'comes', 'z');
			UPDATE p SET shop_id = SHOP WHERE v = 'comes'; UPDATE p SET shop_id = SHOP WHERE id = 100`, ends: moved,
	},
	{
		name: "M12 an id that another shop has on the target", both: plain, target: `INSERT INTO p VALUES (8, 42, 'taken', NULL)`,
		ends: refused, says: []string{"table p: other shops' rows there have 1 of the shop's ids", "(42) of shop 8"},
	},
	{
		name: "M13 latin1 in an event", both: `CREATE TABLE p (shop_id BIGINT NOT NULL, id INT NOT NULL PRIMARY KEY, v VARCHAR(50) CHARACTER SET latin1, u VARCHAR(20), KEY (shop_id, id))`,
		at: "S3", during: `UPDATE p SET v = 'é€' WHERE id IN (4, 42, 100)`, ends: moved,
	},
	{
		name: "M14 an invisible column", both: plain + `; ALTER TABLE p ADD COLUMN hidden INT INVISIBLE`, at: "S3",
		during: `UPDATE p SET hidden = id WHERE shop_id = SHOP AND id IN (4, 42, 100)`, ends: moved,
	},
	{
		name: "M15 keys in an order of the collation's own", both: `CREATE TABLE p (shop_id BIGINT NOT NULL, id VARCHAR(20) COLLATE utf8mb4_bin NOT NULL, PRIMARY KEY (shop_id, id))`,
		source: "INSERT INTO p VALUES (SHOP, 'a\x01'), (SHOP, 'a')", ends: moved,
	},
	{
		name: "M16 the key ''", both: `CREATE TABLE p (shop_id BIGINT NOT NULL, id VARCHAR(20) NOT NULL, PRIMARY KEY (shop_id, id))`,
		source: `INSERT INTO p VALUES (SHOP, ''), (SHOP, 'b')`, ends: moved,
	},
	{
		name: "M17 an XA transaction of the shop's", both: plain, at: "S3",
		during: `XA START 'p'; UPDATE p SET v = 'xa' WHERE id = 42; XA END 'p'; XA PREPARE 'p'; XA COMMIT 'p'`, ends: stopped, says: []string{"an XA transaction wrote rows of the shop"},
	},
	{
		name: "M17 an XA transaction of another shop's", both: plain, at: "S3",
		during: `XA START 'p'; INSERT INTO p VALUES (8, 5001, 'xa', NULL); XA END 'p'; XA PREPARE 'p'; XA COMMIT 'p'`, ends: moved,
	},
	{name: "M18 a column comes", both: plain, at: "S3", during: `ALTER TABLE p ADD COLUMN c INT`, ends: stopped, says: []string{"changed the schema", "ADD COLUMN c INT"}},
	{name: "M18 a column gets wider", both: plain, at: "cutover", during: `ALTER TABLE p MODIFY v VARCHAR(60)`, ends: stopped, says: []string{"changed the schema", "MODIFY v"}},
	{name: "M18 columns change places", both: plain, at: "S3", during: `ALTER TABLE p MODIFY u VARCHAR(20) AFTER shop_id`, ends: stopped, says: []string{"changed the schema", "AFTER shop_id"}},
	{name: "M19 a view", both: plain + `; CREATE VIEW q AS SELECT * FROM p`, ends: moved},
	{
		name: "M19 no key", both: `CREATE TABLE p (shop_id BIGINT NOT NULL, id INT NOT NULL, KEY (shop_id))`, source: `INSERT INTO p VALUES (SHOP, 1), (SHOP, 1)`,
		ends: moved,
	},
	{
		name: "M19 a key of two columns", both: `CREATE TABLE p (shop_id BIGINT NOT NULL, a INT NOT NULL, b INT NOT NULL, PRIMARY KEY (a, b), KEY (shop_id))`,
		source: `INSERT INTO p VALUES (SHOP, 1, 1), (SHOP, 1, 2)`, ends: moved,
	},
	{
		name: "M20 ids that were given once", both: `CREATE TABLE p (shop_id BIGINT NOT NULL, id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, KEY (shop_id, id))`,
		source: `INSERT INTO p VALUES (SHOP, 10), (SHOP, 1000); DELETE FROM p WHERE id = 1000`, ends: moved,
		then: func(t *testing.T, w *world) {
			w.exec(w.target, `INSERT INTO p (shop_id) VALUES (?)`, int64(w.shop))
			if id := w.count(w.target, `SELECT MAX(id) FROM p`); id != 1001 {
				t.Errorf("the next id on the target is %d, want 1001", id)
			}
		},
	},
	{
		name: "M21 generated columns", both: plain + `; ALTER TABLE p ADD COLUMN g INT AS (id + 1) STORED, ADD COLUMN h INT AS (id + 2) VIRTUAL`, at: "S1",
		source: `INSERT INTO p (shop_id, id, v) VALUES (SHOP, 1, 'a'), (SHOP, 2, 'b')`, during: `UPDATE p SET v = 'c' WHERE id = 2; UPDATE p SET id = 3 WHERE id = 1`, ends: moved,
	},
	{name: "M22 values of every type", ends: moved, at: "cutover", during: `UPDATE p SET k = k + 1000, id = id + 1000 WHERE shop_id = SHOP AND id % 2 = 0`},
	{
		name: "M23 large transactions and statements that replace", both: plain, at: "S3",
		during: `INSERT INTO p SELECT SHOP, 10000 + a.id * 120 + b.id, 'many', NULL FROM p a JOIN p b WHERE a.shop_id = SHOP AND b.shop_id = SHOP AND a.id + b.id > 0;
			UPDATE p SET v = 'all' WHERE shop_id = SHOP; REPLACE INTO p VALUES (SHOP, 4, 'replaced', 'u100'), (SHOP, 42, 'replaced', 'u44');
			INSERT INTO p VALUES (SHOP, 6, 'x', NULL), (SHOP, 7, 'x', NULL) ON DUPLICATE KEY UPDATE v = 'updated'; DELETE FROM p WHERE shop_id = SHOP AND v = 'all' AND id > 20000`,
		ends: moved,
	},
	{name: "M24 the mover's sessions are ended under the lock", both: plain, at: "drain", during: `KILL MOVER`, ends: moved},
	{name: "M24 the mover is told to stop under the lock", both: plain, at: "verified", during: `CANCEL`, ends: yielded, says: []string{"context canceled"}},
}

func TestProbes(t *testing.T) {
	// XA and ended sessions are the whole server's, so the test runs beside no other.
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorldOn(t, testcluster.Start(t, &testcluster.MySQLOptions{Family: f}), testcluster.Shared(t, f, "target"), "", nil)
		for i, p := range probes {
			t.Run(p.name, func(t *testing.T) {
				w := w.in(t)
				w.shop = podworks.ShopID(200 + i)
				if strings.HasPrefix(p.name, "M22") {
					p.both, p.source = everyKind(f)
				}
				w.probe(&p)
			})
		}
	})
}

// everyKind makes a table with a column of each kind, and a few rows.
func everyKind(f testcluster.Family) (create, insert string) {
	t := chaosTable{name: "p", key: keyKinds[0], columns: valueKinds}
	r := rand.New(rand.NewPCG(1, 2))
	var rows []string
	for k := range int64(30) {
		rows = append(rows, strings.Replace(t.row(r, 0, k, "", ""), "(0, ", "(SHOP, ", 1))
	}
	return t.create(f), "INSERT INTO p (" + t.names() + ") VALUES " + strings.Join(rows, ", ")
}

func (w *world) probe(p *probe) {
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	w.settle(w.shop)
	session := func(db *sql.DB, text string) {
		conn, err := db.Conn(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		defer conn.Close()
		defer conn.ExecContext(w.t.Context(), "SET binlog_format = DEFAULT, binlog_row_image = DEFAULT")
		text = `SET sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO'; ` + strings.ReplaceAll(text, "SHOP", fmt.Sprint(int64(w.shop)))
		for stmt := range strings.SplitSeq(text, ";") {
			if strings.TrimSpace(stmt) == "" {
				continue
			}
			if _, err := conn.ExecContext(w.t.Context(), stmt); err != nil {
				w.t.Errorf("%s: %v", stmt, err)
			}
		}
	}
	w.t.Cleanup(func() {
		for _, db := range []*sql.DB{w.source, w.target} {
			db.ExecContext(context.WithoutCancel(ctx), `DROP VIEW IF EXISTS q`)
			db.ExecContext(context.WithoutCancel(ctx), `DROP TABLE IF EXISTS p`)
		}
	})
	if p.source == "" {
		var rows []string
		for id := 2; id <= 120; id += 2 {
			rows = append(rows, fmt.Sprintf("(SHOP, %d, 'row %d', 'u%d')", id, id, id))
		}
		p.source = `INSERT INTO p VALUES ` + strings.Join(rows, ", ")
	}
	session(w.source, p.both)
	session(w.target, p.both)
	session(w.source, p.source)
	session(w.target, p.target)
	rest := w.restDump(w.target)

	happened := false
	var inFlight sync.WaitGroup
	defer inFlight.Wait()
	during := func() {
		happened = true
		switch p.during {
		case "KILL MOVER":
			answer, err := ask(w.t.Context(), w.source, `SELECT id FROM `+sessions[w.family]+` WHERE id <> CONNECTION_ID() AND command <> 'Daemon' AND db = DATABASE()`)
			if err != nil {
				w.t.Error(err)
			}
			for _, row := range answer {
				w.source.ExecContext(w.t.Context(), "KILL "+row[0])
			}
		case "IN FLIGHT":
			conn, err := w.source.Conn(w.t.Context())
			if err != nil {
				w.t.Fatal(err)
			}
			for _, stmt := range []string{`SET binlog_format = 'STATEMENT'`, `BEGIN`, fence.SharedLock(w.shop), `UPDATE p SET v = 'in flight' WHERE id = 2`} {
				if _, err := conn.ExecContext(w.t.Context(), stmt); err != nil {
					w.t.Errorf("%s: %v", stmt, err)
				}
			}
			inFlight.Go(func() {
				defer conn.Close()
				err := awaitWaiter(w.t.Context(), w.source, w.family)
				_, commit := conn.ExecContext(w.t.Context(), `COMMIT`)
				_, back := conn.ExecContext(w.t.Context(), `SET binlog_format = DEFAULT`)
				if err := errors.Join(err, commit, back); err != nil {
					w.t.Error(err)
				}
			})
		case "CANCEL":
			cancel()
		default:
			session(w.source, p.during)
		}
	}
	reads := 0
	tapped := map[podworks.PodID]*mysql.Config{2: w.pods[2], 1: (&tap{func(_ *tappedConn, query string) func() {
		if chunkRead.MatchString(query) {
			if reads++; p.at == fmt.Sprint("S", reads) {
				during()
			}
		}
		return nil
	}}).through(w.pods[1])}
	f, err := ferry.New(w.dir, tapped, &ferry.Options{Ignore: []string{"countries"}, ChunkRows: orderedRows, PauseBudget: 2 * time.Second})
	if err != nil {
		w.t.Fatal(err)
	}
	tr := &trail{at: map[string]func(){p.at: during}}
	_, err = f.Move(tr.follow(ctx), w.shop, 2)
	if p.at != "" && !happened {
		w.t.Errorf("the move never came to %s; it ended with %v", p.at, err)
	}
	var says []string
	for _, text := range p.says {
		says = append(says, strings.ReplaceAll(text, "SHOP", fmt.Sprint(int64(w.shop))))
	}
	switch p.ends {
	case moved:
		if err != nil {
			w.t.Fatal(err)
		}
		equal(w.t, "target", w.shopDump(w.target), w.shopDump(w.source))
	case refused:
		contains(w.t, err, ferry.ErrRefused, says...)
		if len(tr.steps) > 0 {
			w.t.Errorf("it began: %v", tr.steps)
		}
	default:
		contains(w.t, err, nil, append(says, "undone, the shop stays in pod 1")...)
		if locked := tr.passed("drain"); locked != (p.ends == yielded) && p.ends != undone {
			w.t.Errorf("the lock was taken: %v", locked)
		}
		equal(w.t, "what is left on the target", w.shopDump(w.target), nothing(w.shopDump(w.target)))
	}
	if p.ends != moved || p.target == "" {
		equal(w.t, "other rows of the target", w.restDump(w.target), rest)
	}
	// Nothing is left locked: a write of the owner's is done at once.
	db, epoch := w.source, podworks.Epoch(1)
	if p.ends == moved {
		db, epoch = w.target, 2
	}
	soon, end := context.WithTimeoutCause(w.t.Context(), 3*time.Second, errors.New("the shop is still locked"))
	defer end()
	if err := trade(soon, db, w.shop, epoch, func(*sql.Tx) error { return nil }); err != nil {
		w.t.Errorf("a write afterwards: %v", errors.Join(err, context.Cause(soon)))
	}
	if p.then != nil {
		p.then(w.t, w)
	}
}
