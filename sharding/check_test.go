package sharding_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
)

func TestCheckFindsWhatKeepsATableFromBeingMoved(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		check := func(ignore ...string) []string {
			t.Helper()
			problems, err := w.cluster.Check(t.Context(), ignore...)
			if err != nil {
				t.Fatal(err)
			}
			var out []string
			for _, p := range problems {
				text, _, _ := strings.Cut(p.String(), "; ")
				out = append(out, text)
			}
			return out
		}
		if got := check(); len(got) != 0 {
			t.Errorf("a sound schema: got %q, want nothing", got)
		}
		for _, pod := range []podworks.PodID{1, 2} {
			for _, stmt := range []string{
				`CREATE TABLE schema_migrations (version BIGINT PRIMARY KEY)`,
				`CREATE TABLE order_lines (id BIGINT PRIMARY KEY, SHOP_ID BIGINT NOT NULL, KEY by_price (id, shop_id))`,
				`CREATE TABLE views (id BIGINT, shop_id BIGINT, UNIQUE KEY (shop_id, id)) ENGINE=MyISAM`,
			} {
				w.exec(pod, stmt)
			}
		}
		w.exec(1, `CREATE TABLE drafts (shop_id BIGINT PRIMARY KEY)`)
		w.exec(2, `CREATE TABLE leftovers (shop_id BIGINT PRIMARY KEY)`)
		w.exec(2, `ALTER TABLE things ADD COLUMN w INT, MODIFY v BIGINT NOT NULL, ADD KEY (v)`)
		w.exec(2, `DROP TABLE podworks_fence`)
		want := []string{
			"pod 1: table order_lines: no index begins with shop_id, so whoever reads one shop's rows, a mover for instance, reads everybody's",
			"pod 1: table views: its engine is MyISAM, which has no transactions, so the fence can't hold its writes",
			"pod 2: there is no InnoDB table podworks_fence, so no shop can write",
			"pod 2: table order_lines: no index begins with shop_id, so whoever reads one shop's rows, a mover for instance, reads everybody's",
			"pod 2: table views: its engine is MyISAM, which has no transactions, so the fence can't hold its writes",
			"pod 2: table drafts: it is not here, and in pod 1 it is",
			"pod 2: table things: column v is (bigint(20) NOT NULL), and in pod 1 it is (int(11) NOT NULL)",
			"pod 2: table things: column w is here, and in pod 1 it is not",
			"pod 2: table things: index v is here, and in pod 1 it is not",
			"pod 2: table leftovers: it is here, and in pod 1 it is not",
		}
		got := check("schema_migrations")
		for i := range got { // MySQL has no display widths any more
			got[i] = strings.ReplaceAll(strings.ReplaceAll(got[i], "bigint ", "bigint(20) "), "(int ", "(int(11) ")
		}
		if !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if got := check(); !slices.ContainsFunc(got, func(s string) bool {
			return strings.Contains(s, "table schema_migrations: it has no column shop_id")
		}) {
			t.Errorf("without ignoring it: got %q, want a word about schema_migrations", got)
		}
	})
}
