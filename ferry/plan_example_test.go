package ferry_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
)

// A plan touches nothing. It comes with its refusal, so that everything that
// speaks against a move can be mended at once.
func ExampleFerry_Plan() {
	pods := map[podworks.PodID]*mysql.Config{1: {DBName: "shop"}, 2: {DBName: "shop"}}
	f, err := ferry.New(shopInPodOne{}, pods, nil)
	if err != nil {
		log.Fatal(err)
	}
	plan, err := f.Plan(context.Background(), 7, 3)
	if err != nil && !errors.Is(err, ferry.ErrRefused) {
		log.Fatal(err) // something can't be asked
	}
	fmt.Print(plan)
	// Output:
	// Move shop 7 from pod 1 to pod 3: refused, for 1 reason.
	//
	// Refused because:
	//   - pod 3 is unknown to this ferry
	//     -> give New its configuration
}
