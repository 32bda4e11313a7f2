package testcluster

import (
	"errors"
	"testing"
)

func TestAPortThatIsTakenMeanwhileIsGivenUpForAnother(t *testing.T) {
	t.Parallel()
	var tried []int
	port, err := onPort(true, func(port int) (int, error) {
		tried = append(tried, port)
		if len(tried) < 3 {
			return 0, errors.New("bind: Address already in use")
		}
		return port, nil
	})
	if err != nil || len(tried) != 3 || port != tried[2] || port == tried[0] || port == tried[1] {
		t.Errorf("got port %d, %v after trying %d, want the third", port, err, tried)
	}
	if port < lowestPort || port >= highestPort {
		t.Errorf("port %d is not from %d to %d", port, lowestPort, highestPort)
	}
}

func TestAServerThatFailsForAnotherReasonIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	tries := 0
	_, err := onPort(true, func(int) (int, error) { tries++; return 0, broken })
	if err != broken || tries != 1 {
		t.Errorf("got %v after %d tries, want %v after 1", err, tries, broken)
	}
}
