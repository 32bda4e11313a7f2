package ferry

import (
	"context"
	"database/sql"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Triggers run for the rows that a mover writes as for anybody's, and can't be
// switched off for one session. The rows have been through the source's triggers
// once. So each trigger on the target is one of these:
//
//   - conditional on @podworks_ferry, which is 1 in the mover's sessions: taken
//     at its word.
//   - on UPDATE: does not run, as rows are deleted and inserted. One that comes after
//     the plan may run: rows that stand apart are written over (see apart.go).
//   - BEFORE INSERT, and does nothing but give columns other values: each row is
//     written once more, by an UPDATE that gives them their own again.
//   - anything else: refused.

var (
	setsOnly = regexp.MustCompile(`(?is)^\s*SET\s+NEW\s*\.[^;]*;?\s*$`)
	mayWrite = regexp.MustCompile(`(?i)\b(SELECT|CALL|INSERT|UPDATE|DELETE|REPLACE|GET_LOCK|NEXTVAL|NEXT\s+VALUE|SETVAL)\b|@`)
	assigned = regexp.MustCompile("(?i)\\bNEW\\s*\\.\\s*(?:`((?:[^`]|``)+)`|([\\w$]+))\\s*:?=")
	oneWord  = regexp.MustCompile(`[\w$]+`)
)

// inspectTriggers looks at the target's triggers, and notes in the tables what to
// do about them.
func inspectTriggers(ctx context.Context, s *server, tables map[string]*table) (faults []error, err error) {
	routines := map[string]bool{}
	if err := each(ctx, s.db, func(rows *sql.Rows) error {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		routines[strings.ToLower(name)] = true
		return nil
	}, `SELECT routine_name FROM information_schema.routines WHERE routine_schema = DATABASE()`); err != nil {
		return nil, err
	}
	rewrites := map[*table]string{} // by which trigger
	err = each(ctx, s.db, func(rows *sql.Rows) error {
		var name, trigger, timing, event, body string
		if err := rows.Scan(&name, &trigger, &timing, &event, &body); err != nil {
			return err
		}
		t := tables[name]
		if t == nil || strings.Contains(strings.ToLower(body), "@podworks_ferry") {
			return nil
		}
		fault := func(why string) {
			faults = append(faults, fmt.Errorf("pod %d, table %s: trigger %s %s; have it do nothing where @podworks_ferry is 1, "+
				"as IF @podworks_ferry IS NULL THEN … END IF does", s.pod, name, trigger, why))
		}
		switch {
		case event == "UPDATE":
			t.onUpdate = true
		case event != "INSERT" || timing != "BEFORE":
			fault("would run again for every row that is copied")
		case !setsOnly.MatchString(body) || mayWrite.MatchString(body):
			fault("would run again for every row that is copied, and may do more than give columns other values")
		default:
			for _, word := range oneWord.FindAllString(body, -1) {
				if routines[strings.ToLower(word)] {
					fault("would run again for every row that is copied, and calls " + word)
					return nil
				}
			}
			for _, m := range assigned.FindAllStringSubmatch(body, -1) {
				column := t.column(strings.ReplaceAll(m[1], "``", "`") + m[2])
				if column >= 0 && t.columns[column].name == t.owner().name || slices.Contains(t.key, column) {
					fault("would change the key of rows that are copied, or whose they are")
					return nil
				}
			}
			if t.keyless {
				fault("would change rows that are copied, and nothing tells these apart to change them back")
				return nil
			}
			rewrites[t] = trigger
		}
		return nil
	}, `SELECT event_object_table, trigger_name, action_timing, event_manipulation, action_statement FROM information_schema.triggers
		WHERE trigger_schema = DATABASE() ORDER BY event_object_table, trigger_name`)
	for t, trigger := range rewrites {
		t.rewritten = true
		if t.onUpdate {
			faults = append(faults, fmt.Errorf("pod %d, table %s: trigger %s gives rows that are copied other values, and a trigger for UPDATE would run when they are changed back; "+
				"have one of them do nothing where @podworks_ferry is 1", s.pod, t.name, trigger))
		}
	}
	return faults, err
}
