package shop_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	shop "github.com/podworks/podworks/examples/monolith/step5"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

// A shop opens, and is moved to another pod.
func Example() {
	ctx, app, stop := installed()
	defer stop()

	server := httptest.NewServer(app.Handler())
	defer server.Close()
	fmt.Println(ask(server, "POST", "platform.example/admin/shops", `{"Name": "Hats", "Host": "hats.example"}`))
	fmt.Println(ask(server, "POST", "hats.example/products", `{"Title": "Top hat", "Cents": 9900, "Stock": 3}`))

	report, err := app.Move(ctx, 1, 2)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("in pod", report.Route.Pod)
	fmt.Println(ask(server, "GET", "hats.example/products", ""))

	// Output:
	// {"ID":1,"Name":"Hats","Host":"hats.example"}
	// {"ID":1,"Title":"Top hat","Cents":9900,"Stock":3}
	// in pod 2
	// [{"ID":1,"Title":"Top hat","Cents":9900,"Stock":3}]
}

// A move that can't be made is refused before anything is touched.
func ExampleApp_Move_refused() {
	ctx, app, stop := installed()
	defer stop()
	server := httptest.NewServer(app.Handler())
	defer server.Close()
	ask(server, "POST", "platform.example/admin/shops", `{"Name": "Hats", "Host": "hats.example"}`)

	_, err := app.Move(ctx, 1, 3)
	fmt.Println(errors.Is(err, ferry.ErrRefused))
	fmt.Println(err)

	// Output:
	// true
	// ferry: refused before anything was touched: move shop 1 to pod 3:
	//   - pod 3 is unknown to this ferry; give New its configuration
}

// installed returns the application on two pods, which are databases of one
// server here. New shops open in the first.
func installed() (ctx context.Context, app *shop.App, stop func()) {
	ctx = context.Background()
	server, err := testcluster.StartMySQL(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	admin, err := sql.Open("mysql", server.DSN(""))
	if err != nil {
		log.Fatal(err)
	}
	defer admin.Close()
	for _, name := range []string{"master", "pod1", "pod2"} {
		if _, err := admin.ExecContext(ctx, `CREATE DATABASE `+name); err != nil {
			log.Fatal(err)
		}
	}
	pods := map[podworks.PodID]*mysql.Config{1: server.Config("pod1"), 2: server.Config("pod2")}
	if app, err = shop.New(pods, server.Config("master"), 1); err != nil {
		log.Fatal(err)
	}
	if err := app.Install(ctx); err != nil {
		log.Fatal(err)
	}
	return ctx, app, func() {
		app.Close()
		if err := server.Stop(); err != nil {
			log.Print(err)
		}
	}
}

// ask sends a request to a host and returns what it answers.
func ask(server *httptest.Server, method, where, body string) string {
	host, path, _ := strings.Cut(where, "/")
	r, err := http.NewRequest(method, server.URL+"/"+path, strings.NewReader(body))
	if err != nil {
		return err.Error()
	}
	r.Host = host
	answer, err := server.Client().Do(r)
	if err != nil {
		return err.Error()
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}
