package binlog_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/ferry/binlog"
)

// A search index follows a table of products. It keeps its place in the same
// transaction as what it made of the changes, so each is applied exactly once.
func Example() {
	ctx := context.Background()
	cfg, err := mysql.ParseDSN("reader@tcp(pod1.internal:3306)/")
	if err != nil {
		log.Fatal(err)
	}
	stream, err := binlog.New(cfg, &binlog.Options{
		Tables: func(database, table string) bool { return database == "shop" && table == "products" },
	})
	if err != nil {
		log.Fatal(err)
	}
	index, err := sql.Open("mysql", "index@tcp(index.internal:3306)/index")
	if err != nil {
		log.Fatal(err)
	}
	var place string
	if err := index.QueryRowContext(ctx, `SELECT place FROM followed`).Scan(&place); err != nil {
		log.Fatal(err) // at first: stream.Now, then copy the table, then follow
	}
	from, err := binlog.ParsePosition(place)
	if err != nil {
		log.Fatal(err)
	}

	var tx *sql.Tx
	err = stream.Run(ctx, from, func(ev binlog.Event) (err error) {
		switch ev := ev.(type) {
		case *binlog.Begin:
			tx, err = index.BeginTx(ctx, nil)
		case *binlog.Rows:
			if ev.Origin.Token != 0 {
				break // a mover's: the shop is being copied here and not yet at home
			}
			for _, change := range ev.Changes {
				_, err = tx.ExecContext(ctx, `REPLACE INTO changed VALUES (?)`, fmt.Sprint(change.After))
			}
		case *binlog.Statement:
			if ev.Kind == binlog.Write || ev.Kind == binlog.Truncate {
				err = fmt.Errorf("index again: rows were changed by %s", ev.Text)
			}
		case *binlog.Commit:
			if _, err = tx.ExecContext(ctx, `UPDATE followed SET place = ?`, ev.Position.String()); err == nil {
				err = tx.Commit()
			}
		case *binlog.Restart, *binlog.Rollback:
			err = tx.Rollback()
		case *binlog.Prepare, *binlog.RollbackTo:
			err = errors.New("index again: the shop uses no XA, and no tables without transactions")
		}
		return err
	})
	log.Fatal(err)
}

// A mover marks its transactions, so that whoever follows the target can leave
// its writes out.
func ExampleMark() {
	move := func(ctx context.Context, db *sql.DB) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if err := binlog.Mark(ctx, tx, 7, 42); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO products VALUES (7, 1, 'lamp')`); err != nil {
			return err
		}
		return tx.Commit()
	}
	_ = move
}

func ExampleParsePosition() {
	p, err := binlog.ParsePosition("binlog.000004:1234/7/0-7-100")
	fmt.Println(p.File, p.Offset, p.Server, p.GTIDs, err)
	// Output: binlog.000004 1234 7 0-7-100 <nil>
}

// What isn't a position is refused before anything is connected to.
func ExampleStream_Run_refused() {
	stream, err := binlog.New(&mysql.Config{Net: "tcp", Addr: "pod1.internal:3306"}, nil)
	if err != nil {
		log.Fatal(err)
	}
	err = stream.Run(context.Background(), binlog.Position{}, func(binlog.Event) error { return nil })
	fmt.Println(errors.Is(err, binlog.ErrPosition))
	fmt.Println(err)
	// Output:
	// true
	// binlog: not a position to begin from: it has neither a file nor GTIDs; Stream.Now returns where the log ends
}
