package ferry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/fence"
)

const (
	smallTable = 10_000   // rows, which are quickly read whole where no index finds the shop's
	sampleRows = 1_000    // of the shop, whose average is taken for the size of all
	valueSlack = 16 << 10 // of a packet, for what stands around a value
)

// inspectFences checks both fence rows. It reports whether rows of the shop on
// the target are those of the move to resume.
func (f *Ferry) inspectFences(ctx context.Context, src, dst *server, p *prepared, resumed *podworks.Move) (own bool, err error) {
	shop := p.From.Shop
	for _, s := range []*server{src, dst} {
		refuse := func(do, format string, args ...any) {
			p.find(Finding{Severity: Refuse, Pod: s.pod, What: fmt.Sprintf(format, args...), Do: do})
		}
		row, err := fence.Read(ctx, s.db, shop, "")
		switch {
		case missing(err):
			refuse("run Migrate", "there is no table podworks_fence")
		case denied(err):
			p.find(Finding{Severity: Refuse, Pod: s.pod, What: err.Error(), Do: "grant it", cause: err})
		case err != nil:
			return false, err
		case s == src && row == (fence.Row{Shop: shop, State: fence.Absent}):
			refuse("open it there with OpenShop, or sharding's CreateShop", "the shop has no row in podworks_fence, so nothing can make its writers wait")
		case s == src && (row.State != fence.Open || row.Epoch != p.From.Epoch):
			refuse("recover an earlier move first", "the directory says open at epoch %d, the fence says %v", p.From.Epoch, row)
		case s == dst && row.State == fence.Open:
			refuse("find out which of them is right before anything else: two pods may be taking its writes",
				"the directory says the shop is in pod %d, but here its fence is open (%v)", src.pod, row)
		case s == dst:
			own = resumed != nil && row.State == fence.Incoming && row.Token <= resumed.Token
			l, err := readLeft(ctx, s.db, shop)
			if err != nil && !missing(err) && !denied(err) { // which are findings of try
				return false, err
			}
			if p.left = l.of(p.From); p.left {
				own = true
				p.find(Finding{Severity: Note, Pod: s.pod, What: fmt.Sprintf("the rows that the shop left there when it went to pod %d are gone on with, from the place in the log that was noted then, or that an earlier move back came to", src.pod)})
			}
		}
	}
	return own, nil
}

// denied reports whether the server said that the user may not.
func denied(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && (e.Number == 1142 || e.Number == 1143 || e.Number == 1044 || e.Number == 1227)
}

// notOfShop is the condition for everybody else's rows, and for those that are
// nobody's.
func (t *table) notOfShop() string {
	if t.joined() {
		return `NOT COALESCE(` + t.ofShop() + `, FALSE)`
	}
	return `NOT (` + quote(t.columns[t.shop].name) + ` <=> ` + t.tenant + `)`
}

// keyColumns returns the columns that tell the table's rows apart, if there are any.
func (t *table) keyColumns() (names []string) {
	for _, i := range t.key {
		names = append(names, t.columns[i].name)
	}
	return names
}

// inspectIndexes checks that both servers find the shop's rows by an index.
// Without one, every chunk of the copy and every comparison reads all shops' rows.
func (f *Ferry) inspectIndexes(ctx context.Context, src, dst *server, p *prepared) {
	for _, t := range p.tables {
		for _, s := range []*server{src, dst} {
			sch := p.schemas[s.pod][t.name]
			shop := t.owner().name
			if sch == nil || sch.leading(shop) != "" {
				continue
			}
			found := Finding{Severity: Refuse, Pod: s.pod, Table: t.name}
			found.What = fmt.Sprintf("no index begins with %s, so finding the shop's rows reads every shop's, for each chunk again", shop)
			columns := []string{quote(shop)}
			for _, name := range t.keyColumns() {
				columns = append(columns, quote(name))
			}
			found.Do = fmt.Sprintf("CREATE INDEX %s ON %s (%s)", quote(shop), quote(t.name), strings.Join(columns, ", "))
			var n int
			err := s.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT 1 FROM `+quote(t.name)+` LIMIT `+strconv.Itoa(smallTable)+`) AS sampled`).Scan(&n)
			if err == nil && n < smallTable {
				found.Severity = Warn
				found.What += fmt.Sprintf(" (it has %d rows in all, which is still quick)", n)
			}
			p.find(found)
		}
	}
}

// inspectRows counts and sizes the shop's rows, and looks for what is in their
// way on the target.
func (f *Ferry) inspectRows(ctx context.Context, src, dst *server, p *prepared, own, usable bool) error {
	for _, t := range p.tables {
		here, there := p.schemas[src.pod][t.name], p.schemas[dst.pod][t.name]
		if here == nil || !t.named() {
			continue
		}
		plan := TablePlan{Name: t.name, Key: t.keyColumns(), Index: here.leading(t.owner().name), AutoIncrement: here.autoIncrement}
		if there != nil {
			plan.TargetAutoIncrement = there.autoIncrement
		}
		if err := p.size(ctx, src, dst, t, here, &plan); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("ferry: %w", context.Cause(ctx))
			}
			p.find(Finding{Severity: Refuse, Pod: src.pod, Table: t.name, What: fmt.Sprintf("can't count the shop's rows: %v", err), cause: err})
			continue
		}
		p.Tables = append(p.Tables, plan)
		p.fits(src, dst, plan)
		if t.keyless && (plan.Rows > maxKeyless || plan.Bytes > maxKeylessBytes) {
			p.find(Finding{Severity: Refuse, Pod: src.pod, Table: t.name, Do: "give it a key",
				What: fmt.Sprintf("nothing tells its rows apart (no primary key, and no unique key of whole columns that are NOT NULL), so it is copied again whenever it changes, and the shop has %d rows and %s there, more than %d or %s",
					plan.Rows, bytesText(plan.Bytes), maxKeyless, bytesText(maxKeylessBytes))})
		}
		if there == nil {
			continue
		}
		if !own {
			var n int64
			if err := dst.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM `+quote(t.name)+` WHERE `+t.ofShop()).Scan(&n); err != nil {
				if ctx.Err() != nil {
					return fmt.Errorf("ferry: %w", context.Cause(ctx))
				}
				p.find(Finding{Severity: Refuse, Pod: dst.pod, Table: t.name, What: fmt.Sprintf("can't count the shop's rows: %v", err), cause: err})
				continue
			}
			if n > 0 {
				p.find(Finding{Severity: Refuse, Pod: dst.pod, Table: t.name,
					What: fmt.Sprintf("%d rows of shop %d are there already", n, p.From.Shop), Do: "if an earlier move left them, Clean removes them"})
			}
		}
		if usable {
			if err := p.collisions(ctx, src, dst, t, here); err != nil {
				return fmt.Errorf("ferry: compare the keys of table %s with pod %d's: %w", t.name, dst.pod, err)
			}
		}
	}
	return nil
}

// size counts the shop's rows of a table and takes their size from a sample.
func (p *prepared) size(ctx context.Context, src, dst *server, t *table, s *schema, plan *TablePlan) error {
	from := ` FROM ` + quote(t.name) + ` WHERE ` + t.ofShop()
	var lengths, sent []string
	for _, i := range t.writable() {
		n := `COALESCE(LENGTH(` + quote(t.columns[i].name) + `), 0)`
		lengths = append(lengths, n)
		if c := t.columns[i]; c.isText() && !c.unicode() {
			n += ` * 4 DIV 3` // in base 64
		}
		sent = append(sent, n)
	}
	length := strings.Join(lengths, ` + `)
	if s.longest*4/3+valueSlack > p.smallestPacket(src, dst) {
		if err := src.db.QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(MAX(GREATEST(0, `+strings.Join(sent, `, `)+`)), 0)`+from).Scan(&plan.Rows, &plan.LargestValue); err != nil {
			return err
		}
	} else if err := src.db.QueryRowContext(ctx, `SELECT COUNT(*)`+from).Scan(&plan.Rows); err != nil {
		return err
	}
	var average sql.NullFloat64
	if err := src.db.QueryRowContext(ctx, `SELECT AVG(n) FROM (SELECT `+length+` AS n`+from+` LIMIT `+strconv.Itoa(sampleRows)+`) AS sampled`).Scan(&average); err != nil {
		return err
	}
	plan.Bytes = int64(math.Round(average.Float64 * float64(plan.Rows)))
	return nil
}

// A packet is a bound on what is sent to a server at once.
type packet struct {
	pod   podworks.PodID
	bytes int64
}

// packets returns the bounds of both servers.
func (p *prepared) packets(src, dst *server) (bounds []packet) {
	for _, s := range []*server{src, dst} {
		if n, err := strconv.ParseInt(p.settings[s.pod]["max_allowed_packet"], 10, 64); err == nil {
			bounds = append(bounds, packet{s.pod, n})
		}
	}
	return bounds
}

func (p *prepared) smallestPacket(src, dst *server) int64 {
	smallest := int64(math.MaxInt64)
	for _, b := range p.packets(src, dst) {
		smallest = min(smallest, b.bytes)
	}
	return smallest
}

// fits checks the largest value against what one packet may hold: both servers
// compute its checksum from one value, which would be NULL, and the target must
// take it. The values of a row need not fit together.
func (p *prepared) fits(src, dst *server, plan TablePlan) {
	for _, b := range p.packets(src, dst) {
		if plan.LargestValue+valueSlack <= b.bytes {
			continue
		}
		enough := int64(1 << 20)
		for enough < 2*plan.LargestValue && enough < 1<<30 { // where the servers end
			enough *= 2
		}
		p.find(Finding{Severity: Refuse, Pod: b.pod, Table: plan.Name, Do: fmt.Sprintf("SET GLOBAL max_allowed_packet = %d", enough),
			What: fmt.Sprintf("the shop's largest value takes %s to send, and max_allowed_packet is %s", bytesText(plan.LargestValue), bytesText(b.bytes))})
	}
}
