package toxiproxy

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"time"

	"github.com/podworks/podworks/toxi"
)

// A field is one attribute of a toxic, bound to where its value is kept.
type field struct {
	name string
	unit string        // "" if it is a number of things, or no number
	want func() string // what it may be, for error messages

	// silent leaves it unwritten while it is 0 or false: clients of Toxiproxy should
	// see of Toxiproxy's toxics what they know.
	silent bool

	// set takes a JSON value and reports whether it is what is wanted. If not, it
	// changes nothing.
	set func(json.RawMessage) bool
	// get returns the value as it is written in JSON.
	get func() any
	// valid reports whether the value, which nobody may have set, is what is wanted.
	valid func() bool
}

// integer is an attribute of whole numbers in a unit of which v counts per.
func integer[T ~int | ~int64 | ~uint16](name, unit string, v *T, per, least, most int64) field {
	return field{
		name: name, unit: unit,
		want: func() string { return fmt.Sprintf("an integer from %d to %d", least, most) },
		set: func(value json.RawMessage) bool {
			n, err := strconv.ParseInt(string(value), 10, 64)
			if err != nil || n < least || n > most {
				return false
			}
			*v = T(n * per)
			return true
		},
		get:   func() any { return int64(*v) / per },
		valid: func() bool { return int64(*v) >= least*per && int64(*v) <= most*per },
	}
}

// ours marks an attribute that a toxic of Toxiproxy's has only here.
func ours(f field) field {
	f.silent = true
	return f
}

// longest is the longest time that toxi accepts.
const longest = 365 * 24 * time.Hour

func milliseconds(name string, v *time.Duration) field {
	return integer(name, "ms", v, int64(time.Millisecond), 0, longest.Milliseconds())
}

func microseconds(name string, v *time.Duration) field {
	return integer(name, "µs", v, int64(time.Microsecond), 0, longest.Microseconds())
}

func bytesOf[T ~int | ~int64](name string, v *T, least int64) field {
	return integer(name, "bytes", v, 1, least, math.MaxInt)
}

// share is a fraction of all.
func share(name string, v *float64, positive bool) field {
	ok := func(f float64) bool { return f >= 0 && f <= 1 && !(positive && f == 0) }
	want := "a number from 0 to 1"
	if positive {
		want = "a number over 0, up to 1"
	}
	return field{
		name: name, want: func() string { return want },
		set: func(value json.RawMessage) bool {
			var f float64
			if json.Unmarshal(value, &f) != nil || !ok(f) {
				return false
			}
			*v = f
			return true
		},
		get:   func() any { return *v },
		valid: func() bool { return ok(*v) },
	}
}

// flag is true or false, also as text: Toxiproxy's command sends whatever is not a
// number as text.
func flag(name string, v *bool) field {
	return field{
		name: name, want: func() string { return "true or false" },
		set: func(value json.RawMessage) bool {
			switch string(value) {
			case `true`, `"true"`:
				*v = true
			case `false`, `"false"`:
				*v = false
			default:
				return false
			}
			return true
		},
		get:   func() any { return *v },
		valid: func() bool { return true },
	}
}

// pattern is a regular expression; nil, for everything, is written as "".
func pattern(name string, v **regexp.Regexp) field {
	return field{
		name: name, want: func() string { return "a regular expression" },
		set: func(value json.RawMessage) bool {
			s, ok := words(value)
			if !ok || s == "" {
				*v = nil
				return ok
			}
			re, err := regexp.Compile(s)
			if err != nil {
				return false
			}
			*v = re
			return true
		},
		get: func() any {
			if *v == nil {
				return ""
			}
			return (*v).String()
		},
		valid: func() bool { return true },
	}
}

func line(name string, v *string) field {
	return field{
		name: name, want: func() string { return "a string" },
		set: func(value json.RawMessage) bool {
			s, ok := words(value)
			if ok {
				*v = s
			}
			return ok
		},
		get:   func() any { return *v },
		valid: func() bool { return true },
	}
}

// moment is when a connection is cut.
func moment(name string, v *toxi.Moment) field {
	return field{
		name: name, want: func() string { return `"none", "before" or "after"` },
		set: func(value json.RawMessage) bool {
			s, _ := words(value)
			for _, m := range []toxi.Moment{toxi.NoCut, toxi.CutBefore, toxi.CutAfter} {
				if s == m.String() {
					*v = m
					return true
				}
			}
			return false
		},
		get:   func() any { return v.String() },
		valid: func() bool { return true },
	}
}

// mostWords bounds text in attributes; a regular expression takes much more memory than
// its text.
const mostWords = 4 << 10

// words reads a string. It may be a number, too: Toxiproxy's command sends what looks
// like one as one.
func words(value json.RawMessage) (string, bool) {
	var s string
	if err := json.Unmarshal(value, &s); err != nil {
		var n json.Number
		if json.Unmarshal(value, &n) != nil {
			return "", false
		}
		s = n.String()
	}
	return s, len(s) <= mostWords
}
