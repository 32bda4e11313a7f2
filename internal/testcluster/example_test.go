package testcluster_test

import (
	"context"
	"database/sql"
	"log"

	_ "github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/testcluster"
)

// A server whose process dies comes back with what was committed.
func ExampleStartMySQL() {
	ctx := context.Background()
	s, err := testcluster.StartMySQL(ctx, &testcluster.MySQLOptions{Family: testcluster.MySQL})
	if err != nil {
		log.Fatal(err) // with errors.Is(err, testcluster.ErrMissing): says what to run
	}
	defer s.Stop()

	db, err := sql.Open("mysql", s.DSN(""))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "CREATE DATABASE shop"); err != nil {
		log.Fatal(err)
	}
	if err := s.Kill(); err != nil {
		log.Fatal(err)
	}
	// Nothing answers here.
	if err := s.Restart(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := db.ExecContext(ctx, "USE shop"); err != nil {
		log.Fatal(err)
	}
}
