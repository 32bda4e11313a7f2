package watch_test

import (
	"errors"
	"fmt"
	"log"
	"net/http"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/ferry/watch"
)

var operators = map[string]string{} // by session

// The page is mounted where the application's operators are; who they are is
// the application's to say.
func Example() {
	pods := map[podworks.PodID]*mysql.Config{1: {DBName: "shop"}, 2: {DBName: "shop"}}
	f, err := ferry.New(ferry.NewTables(nil), pods, nil)
	if err != nil {
		log.Fatal(err)
	}
	page, err := watch.New(f, func(r *http.Request) (string, error) {
		session, err := r.Cookie("session") // of the application's own sign-in
		if err != nil {
			return "", errors.New("not signed in")
		}
		if operator, ok := operators[session.Value]; ok {
			return operator, nil
		}
		return "", errors.New("not an operator")
	}, nil)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/ops/moves", page)
	// http.ListenAndServe("localhost:8080", mux)
}

// Nobody gets a page that everybody could undo moves on.
func ExampleNew_refused() {
	_, err := watch.New(new(ferry.Ferry), nil, nil)
	fmt.Println(err)
	// Output:
	// watch: authorize is nil; whoever sees the page can undo moves, so let the application say who may
}
