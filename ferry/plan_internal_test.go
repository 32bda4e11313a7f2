package ferry

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestHowLongTheLogIsKept(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		vars map[string]string
		want time.Duration
	}{
		{nil, 0},
		{map[string]string{"binlog_expire_logs_seconds": "0", "expire_logs_days": "0.000000"}, 0},
		{map[string]string{"binlog_expire_logs_seconds": "90"}, 90 * time.Second},
		{map[string]string{"binlog_expire_logs_seconds": "0", "expire_logs_days": "0.500000"}, 12 * time.Hour},
		{map[string]string{"binlog_expire_logs_seconds": "90", "binlog_expire_logs_auto_purge": "OFF"}, 0},
	} {
		if got, _ := retention(tt.vars); got != tt.want {
			t.Errorf("of %v: kept for %v, want %v", tt.vars, got, tt.want)
		}
	}
}

func TestHowLongALogOfLimitedSizeIsKept(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		vars map[string]string
		rate float64
		want time.Duration
		how  string
	}{
		{nil, 1000, 0, ""},
		{map[string]string{"max_binlog_total_size": "0"}, 1000, 0, ""},
		{map[string]string{"max_binlog_total_size": "5000000"}, 0, 0, ""},
		{map[string]string{"max_binlog_total_size": "5000000"}, 1000, 5000 * time.Second, "max_binlog_total_size is 5.0 MB, which at 1.0 kB a second is"},
		{map[string]string{"binlog_space_limit": "18446744073709547520"}, 1, 10 * 365 * 24 * time.Hour, "binlog_space_limit is"},
	} {
		got, how := retentionBySize(tt.vars, tt.rate)
		if got != tt.want || !strings.HasPrefix(how, tt.how) {
			t.Errorf("of %v at %v bytes a second: kept for %v (%s), want %v (%s)", tt.vars, tt.rate, got, how, tt.want, tt.how)
		}
	}
}

func TestALogMustBeKeptForTwiceTheMoveAndShouldForTenTimes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		kept, takes time.Duration
		want        Severity
	}{
		{199 * time.Second, 100 * time.Second, Refuse},
		{200 * time.Second, 100 * time.Second, Warn},
		{999 * time.Second, 100 * time.Second, Warn},
		{1000 * time.Second, 100 * time.Second, ""},
	} {
		var got Severity
		for _, f := range tooShort(1, tt.kept, "kept for", tt.takes) {
			got = f.Severity
		}
		if got != tt.want {
			t.Errorf("kept for %v, takes %v: got %q, want %q", tt.kept, tt.takes, got, tt.want)
		}
	}
}

func TestBytesAndTimesArePrintedForPeople(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 9_949: "9.9 kB", 10_400: "10 kB", 999_499: "999 kB", 999_500: "1.0 MB", 1 << 40: "1.1 TB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d bytes: got %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 123_456 * time.Nanosecond: "123µs", 9_876 * time.Microsecond: "9.88ms", 1234 * time.Millisecond: "1.23s", 12_345 * time.Millisecond: "12.3s", 11*time.Hour + 20*time.Minute: "11h20m0s",
	} {
		if got := rough(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

// Whatever a server writes, a column is never taken for a key nor the other way
// round, and each text is one of its lines.
func FuzzParseCreate(f *testing.F) {
	f.Add("CREATE TABLE `t` (\n  `a``b` int NOT NULL COMMENT 'x\\n) y, ',\n  PRIMARY KEY (`a``b`),\n  UNIQUE KEY `u` (`a``b`(3) DESC),\n" +
		"  CONSTRAINT `c` CHECK (`a``b` <> ')'),\n  CONSTRAINT `f` FOREIGN KEY (`a``b`) REFERENCES `t` (`a``b`)\n) ENGINE=InnoDB COMMENT=') z'\n PARTITION BY HASH (`a``b`)\nPARTITIONS 2")
	f.Add("CREATE TABLE `t` (\n)")
	f.Add(")\n(")
	f.Fuzz(func(t *testing.T, text string) {
		c := parseCreate(text)
		var lines []string
		for line := range strings.SplitSeq(text, "\n") {
			lines = append(lines, strings.TrimSuffix(strings.TrimSpace(line), ","))
		}
		for _, part := range []struct {
			texts  map[string]string
			column bool
		}{{c.columns, true}, {c.keys, false}, {c.checks, false}, {c.foreign, false}} {
			for key, line := range part.texts {
				if !slices.Contains(lines, line) {
					t.Errorf("%q of %q is no line of %q", line, key, text)
				}
				if strings.HasPrefix(line, "`") != part.column {
					t.Errorf("%q is taken for a column: %t", line, part.column)
				}
			}
		}
	})
}

func TestParseCreateTakesATableApart(t *testing.T) {
	t.Parallel()
	c := parseCreate("CREATE TABLE `t` (\n  `A``b` int NOT NULL COMMENT 'x\\n) y',\n  PRIMARY KEY (`A``b`),\n  UNIQUE KEY `u` (`A``b`(3) DESC),\n" +
		"  CONSTRAINT `c` CHECK (`A``b` <> ')'),\n  CONSTRAINT `f` FOREIGN KEY (`A``b`) REFERENCES `t` (`A``b`)\n) ENGINE=InnoDB COMMENT=') z'\n PARTITION BY HASH (`A``b`)\nPARTITIONS 2")
	for what, tt := range map[string]struct{ got, want string }{
		"column":      {c.columns["a`b"], "`A``b` int NOT NULL COMMENT 'x\\n) y'"},
		"primary key": {c.keys["PRIMARY KEY (`A``b`)"], "PRIMARY KEY (`A``b`)"},
		"unique key":  {c.keys["UNIQUE KEY (`A``b`(3) DESC)"], "UNIQUE KEY `u` (`A``b`(3) DESC)"},
		"check":       {c.checks["CHECK (`A``b` <> ')')"], "CONSTRAINT `c` CHECK (`A``b` <> ')')"},
		"foreign key": {c.foreign["FOREIGN KEY (`A``b`) REFERENCES `t` (`A``b`)"], "CONSTRAINT `f` FOREIGN KEY (`A``b`) REFERENCES `t` (`A``b`)"},
		"partitions":  {c.partitioned, "PARTITION BY HASH (`A``b`) PARTITIONS 2"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: got %q, want %q", what, tt.got, tt.want)
		}
	}
}
