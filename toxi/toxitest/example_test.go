package toxitest_test

import (
	"net/http"
	"testing"

	"github.com/podworks/podworks/toxi/toxitest"
)

// The test of a shop that lives without its Redis. checkout_test.go in this folder has
// such a shop, and more that can happen to it.
func Example() {
	_ = func(t *testing.T) { // TestWhenRedisIsDownCheckoutStillAnswers200
		redis := toxitest.New(t, "127.0.0.1:6379")
		app := startShop(t, redis.Addr())

		redis.Down(func() {
			if got := post(t, app+"/checkout").StatusCode; got != http.StatusOK {
				t.Errorf("without Redis checkout answers %d, want 200", got)
			}
		})
	}
}

func startShop(*testing.T, string) (url string)         { return "" }
func post(*testing.T, string) (response *http.Response) { return nil }
