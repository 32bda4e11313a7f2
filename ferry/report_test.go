package ferry_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
)

func examplePlan() *ferry.Plan {
	return &ferry.Plan{
		From: podworks.Route{Shop: 7, Pod: 1, Region: "here", Epoch: 4},
		To:   2,
		Tables: []ferry.TablePlan{
			{Name: "images", Rows: 12, Bytes: 31_000_000, Key: []string{"id"}, LargestValue: 9_000_000, AutoIncrement: 1001, TargetAutoIncrement: 17},
			{Name: "order_lines", Rows: 1_234_567, Bytes: 987_654_321, Key: []string{"order_id", "line"}, Index: "PRIMARY"},
		},
		Findings: []ferry.Finding{
			{Severity: ferry.Refuse, Pod: 2, Table: "images", What: "12 rows of shop 7 are there already", Do: "if an earlier move left them, Clean removes them"},
			{Severity: ferry.Refuse, What: "no column shop_id and no rule for: coupons", Do: "add the column"},
			{Severity: ferry.Warn, Pod: 1, Table: "images", What: "no index begins with shop_id", Do: "CREATE INDEX `shop_id` ON `images` (`shop_id`, `id`)"},
			{Severity: ferry.Note, Pod: 2, What: "needs about 1.0 GB of disk space"},
		},
		Estimate: ferry.Estimate{
			Duration: 96*time.Second + 412*time.Millisecond, Pause: 14_321 * time.Microsecond, ReadRate: 412_345.6, LogRate: 1_234_567,
			Source: 210 * time.Microsecond, Target: 1_250 * time.Microsecond, Directory: 12 * time.Millisecond, How: "read a chunk of each table",
		},
	}
}

const exampleReport = `Move shop 7 from pod 1 to pod 2: refused, for 2 reasons.

table           rows   bytes  next id  there  key             found by
images            12   31 MB     1001     17  id              no index
order_lines  1234567  988 MB        -      -  order_id, line  PRIMARY
2 in all     1234579  1.0 GB

It takes about 1m36.4s, and writers wait about 14.3ms.
Measured: 412346 rows read a second; round trips of 210µs to the source, 1.25ms to the target, 12ms to the directory; 1.2 MB of log a second.
How: read a chunk of each table.

Refused because:
  - pod 2, table images: 12 rows of shop 7 are there already
    -> if an earlier move left them, Clean removes them
  - no column shop_id and no rule for: coupons
    -> add the column

Look at this first:
  - pod 1, table images: no index begins with shop_id
    -> CREATE INDEX ` + "`shop_id` ON `images` (`shop_id`, `id`)" + `

To know:
  - pod 2: needs about 1.0 GB of disk space
`

func TestAReportSaysWhatThePlanHas(t *testing.T) {
	t.Parallel()
	if got := examplePlan().String(); got != exampleReport {
		t.Errorf("got the report\n%s\nwant\n%s", got, exampleReport)
	}
	for _, tt := range []struct {
		plan ferry.Plan
		want string
	}{
		{ferry.Plan{From: podworks.Route{Shop: 7, Pod: 1}, To: 2}, "Move shop 7 from pod 1 to pod 2: it can be made.\n"},
		{ferry.Plan{From: podworks.Route{Shop: 9}, To: 2, Findings: []ferry.Finding{{Severity: ferry.Refuse, What: "unknown shop 9"}}},
			"Move shop 9 to pod 2: refused, for 1 reason.\n\nRefused because:\n  - unknown shop 9\n"},
	} {
		if got := tt.plan.String(); got != tt.want {
			t.Errorf("got the report %q, want %q", got, tt.want)
		}
	}
}

func TestAPlanSurvivesJSON(t *testing.T) {
	t.Parallel()
	want := examplePlan()
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got := new(ferry.Plan)
	if err := json.Unmarshal(text, got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if !strings.Contains(string(text), `"Severity":"refuse"`) {
		t.Errorf("the severity has no name in %s", text)
	}
}
