package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
)

// The pods.
const (
	sourcePod podworks.PodID = 1
	targetPod podworks.PodID = 2
)

// A job is a move between two servers that are there and hold what is to be moved.
type job struct {
	pods   map[podworks.PodID]*mysql.Config
	master *mysql.Config
	shop   podworks.ShopID
	opts   ferry.Options
	write  string // of the writer
	load   load
}

// move makes the move that the settings describe.
func move(ctx context.Context, s settings, p *progress) (*report, error) {
	j := job{shop: podworks.ShopID(s.Shop), opts: ferry.Options{Column: s.Column, Ignore: s.Ignore}, write: s.Write, load: oneWriter}
	if s.own() {
		p.say("starting two %s servers and filling them with %d rows", s.Family, s.Rows)
		source, target, err := startServers(ctx, s.Family)
		if err == nil {
			err = fill(ctx, source, target, s.Rows)
		}
		if err == nil {
			err = recreate(ctx, source, ownMaster, nil)
		}
		if err != nil {
			return nil, err
		}
		j.pods = map[podworks.PodID]*mysql.Config{sourcePod: config(source, podDatabase), targetPod: config(target, podDatabase)}
		j.master, j.write = config(source, ownMaster), ownWrite
		return j.run(ctx, p)
	}
	var cfgs [3]*mysql.Config
	for i, dsn := range []string{s.Source, s.Target, s.Master} {
		var err error
		if cfgs[i], err = mysql.ParseDSN(dsn); err != nil {
			return nil, err
		}
	}
	j.pods = map[podworks.PodID]*mysql.Config{sourcePod: cfgs[0], targetPod: cfgs[1]}
	j.master = cfgs[2]
	return j.run(ctx, p)
}

// run makes the move while a writer writes, and measures it.
func (j *job) run(ctx context.Context, p *progress) (*report, error) {
	master, err := open(j.master)
	if err != nil {
		return nil, err
	}
	defer master.Close()
	stages := &stages{tell: p.show}
	j.opts.Progress = stages.hear
	f, err := j.prepare(ctx, master)
	if err != nil {
		return nil, err
	}
	plan, err := f.Plan(ctx, j.shop, targetPod)
	if err != nil {
		return nil, err
	}
	source, target, err := j.settings(ctx)
	if err != nil {
		return nil, err
	}
	method, err := j.methods(ctx)
	if err != nil {
		return nil, err
	}
	made, err := j.moveUnderWrites(ctx, f, stages)
	p.done()
	if err != nil {
		return nil, err
	}
	moved := made.report
	r := &report{
		Rows: moved.RowsCopied, Bytes: plan.Bytes(),
		Seconds:       stages.at("opened").Sub(made.called).Seconds(),
		CopySeconds:   stages.at("verify").Sub(stages.at("copy")).Seconds(),
		VerifySeconds: stages.at("cutover").Sub(stages.at("verify")).Seconds(),
		Settings:      map[string]map[string]string{"source": source, "target": target},
	}
	r.RowsPerS = float64(r.Rows) / r.Seconds
	if n, last := failures(made.writes); n > 0 {
		p.say("%d writes had to be tried again, the last one after: %s", n, last)
	}
	longest, err := made.pause()
	if err != nil {
		return nil, err
	}
	r.WritePauseMS = milliseconds(longest)
	if e := moved.Evidence; e.Switch != nil {
		r.Verified, r.Differences = e.Switch.Equal(), e.Switch.Differing
	} else {
		p.say("not verified at the switch: %s", e.Incomplete)
	}
	if r.WriteMethod, err = method(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// A made is a move that was made, and what a writer wrote meanwhile.
type made struct {
	called time.Time
	report *ferry.Report
	writes []written
}

// moveUnderWrites makes the move while the writer writes.
func (j *job) moveUnderWrites(ctx context.Context, f *ferry.Ferry, s *stages) (*made, error) {
	o := order{DSNs: [2]string{j.pods[sourcePod].FormatDSN(), j.pods[targetPod].FormatDSN()}, Shop: j.shop, Write: j.write, load: j.load}
	w, err := startWriter(ctx, o)
	if err != nil {
		return nil, err
	}
	defer w.stop()
	m := &made{called: time.Now()}
	if m.report, err = f.Move(ctx, j.shop, targetPod); err != nil && !errors.Is(err, ferry.ErrDiffers) {
		return nil, err
	}
	if s.at("opened").IsZero() {
		return nil, errors.New("the move is made, but by recovery after a failure: there are no times to report")
	}
	w.arrive(ctx)
	m.writes, err = w.stop()
	return m, err
}

// pause is the longest that a write took while the shop was closed. The last try at
// the cutover had the lock then: who waited for it, waited for that.
func (m *made) pause() (time.Duration, error) {
	at := func(step string) time.Time {
		i := slices.IndexFunc(m.report.Evidence.Steps, func(s ferry.StepTime) bool { return s.Step == step })
		return m.report.Evidence.Steps[i].At
	}
	return pause(m.writes, at("drain"), at("opened"))
}

// milliseconds returns a duration as reports have it.
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// prepare makes the directory and ferry's tables, and opens the shop, unless they
// are there. It is no part of a move.
func (j *job) prepare(ctx context.Context, master *sql.DB) (*ferry.Ferry, error) {
	dir := ferry.NewTables(master)
	if err := dir.Migrate(ctx); err != nil {
		return nil, err
	}
	for _, pod := range []podworks.PodID{sourcePod, targetPod} {
		if err := dir.AddPod(ctx, pod, "here"); err != nil {
			return nil, err
		}
	}
	if _, err := dir.AddShop(ctx, j.shop, sourcePod); err != nil {
		return nil, err
	}
	f, err := ferry.New(dir, j.pods, &j.opts)
	if err != nil {
		return nil, err
	}
	if err := f.Migrate(ctx); err != nil {
		return nil, err
	}
	return f, f.OpenShop(ctx, j.shop)
}

// settingNames are the variables of a server that decide how fast it may be.
const settingNames = `'version', 'version_comment', 'log_bin', 'sync_binlog', 'innodb_flush_log_at_trx_commit', 'innodb_flush_method',
	'innodb_doublewrite', 'innodb_buffer_pool_size', 'innodb_redo_log_capacity', 'innodb_log_file_size', 'binlog_format', 'binlog_row_image',
	'binlog_rows_query_log_events', 'local_infile', 'max_allowed_packet', 'gtid_mode'`

// settings asks both servers for theirs.
func (j *job) settings(ctx context.Context) (source, target map[string]string, err error) {
	source, err = variables(ctx, j.pods[sourcePod], `SHOW GLOBAL VARIABLES WHERE Variable_name IN (`+settingNames+`)`)
	if err != nil {
		return nil, nil, err
	}
	target, err = variables(ctx, j.pods[targetPod], `SHOW GLOBAL VARIABLES WHERE Variable_name IN (`+settingNames+`)`)
	return source, target, err
}

// methods returns a function that says by which statement rows came into the target
// since. Others who load data into the server meanwhile mislead it.
func (j *job) methods(ctx context.Context) (func(context.Context) (string, error), error) {
	const query = `SHOW GLOBAL STATUS LIKE 'Com_load'`
	before, err := variables(ctx, j.pods[targetPod], query)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (string, error) {
		after, err := variables(ctx, j.pods[targetPod], query)
		if err == nil && after["Com_load"] != before["Com_load"] {
			return "load data", nil
		}
		return "insert", err
	}, nil
}

// variables asks a server for names and values.
func variables(ctx context.Context, cfg *mysql.Config, query string) (map[string]string, error) {
	db, err := open(cfg)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", query, err)
	}
	defer rows.Close()
	out := make(map[string]string)
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return nil, fmt.Errorf("%s: %w", query, err)
		}
		out[name] = value
	}
	return out, rows.Err()
}

// stages note when each step of a move began for the first time: a try at the
// cutover that steps back makes writers wait too.
type stages struct {
	tell func(ferry.Progress)

	mu    sync.Mutex
	began map[string]time.Time
}

func (s *stages) hear(p ferry.Progress) {
	s.mu.Lock()
	if _, ok := s.began[p.Step]; !ok {
		if s.began == nil {
			s.began = make(map[string]time.Time)
		}
		s.began[p.Step] = time.Now()
	}
	s.mu.Unlock()
	s.tell(p)
}

func (s *stages) at(step string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.began[step]
}
