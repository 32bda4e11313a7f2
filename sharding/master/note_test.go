package master

import (
	"testing"

	"github.com/podworks/podworks/internal/flavor"
)

// Two writers of one session learn their GTIDs in the other order than they
// asked: what the later one was told holds the write of both.
func TestAnswersThatComeInTheWrongOrderLoseNoWrite(t *testing.T) {
	t.Parallel()
	const uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
	for _, tt := range []struct{ first, second, want string }{
		{uuid + ":1-5", uuid + ":1-7", uuid + ":1-7"}, // everything executed
		{"0-1-5", "0-1-7", "0-1-7"},                   // the session's own
		{"0-1-7,1-1-1", "0-1-5", "0-1-7,1-1-1"},
	} {
		for _, swapped := range []bool{false, true} {
			s := new(session)
			type answer struct {
				turn uint64
				text string
			}
			answers := []answer{{s.turn(), tt.first}, {s.turn(), tt.second}}
			if swapped {
				answers[0], answers[1] = answers[1], answers[0]
			}
			for _, a := range answers {
				g, err := flavor.ParseGTIDs(a.text)
				if err != nil {
					t.Fatal(err)
				}
				s.note(a.turn, g, nil)
			}
			if got, changed := s.token(); got != tt.want || !changed {
				t.Errorf("%q and then %q (swapped %t) became %q, want %q", tt.first, tt.second, swapped, got, tt.want)
			}
		}
	}
}
