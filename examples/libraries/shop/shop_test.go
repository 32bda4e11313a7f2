package shop_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/examples/libraries/shop"
)

func TestTheSchemaIsOneStatementPerTable(t *testing.T) {
	t.Parallel()
	got := shop.Schema()
	if len(got) != 2 || !strings.Contains(got[0], "CREATE TABLE products") || !strings.Contains(got[1], "CREATE TABLE orders") {
		t.Errorf("Schema() = %q, want the statements for products and orders", got)
	}
}

// Pods hand out numbers that never meet.
func Example() {
	for pod := podworks.PodID(1); pod <= 2; pod++ {
		n := shop.Numbers(pod)
		fmt.Println("pod", pod, "begins at", n["auto_increment_offset"], "in steps of", n["auto_increment_increment"])
	}

	// Output:
	// pod 1 begins at 1 in steps of 1024
	// pod 2 begins at 2 in steps of 1024
}

// What a buyer who came too late gets.
func Example_soldOut() {
	err := fmt.Errorf("order 7: %w", shop.ErrSoldOut)
	fmt.Println(errors.Is(err, shop.ErrSoldOut), err)

	// Output:
	// true order 7: shop: sold out
}
