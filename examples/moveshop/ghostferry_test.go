package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
)

// ghostferries are Ghostferry as it comes and as fast as it gets, if its binary is
// on this machine. It runs on MySQL only.
//
// It is not changed. MySQL 9.6 and later have no MD5() until
// component_classic_hashing is installed, which a.md5 does; and as it comes it wants
// binlog_rows_query_log_events, which its turn has and no other.
func ghostferries(b *testing.B) []mover {
	path := os.Getenv("PODWORKS_GHOSTFERRY")
	if path == "" {
		var err error
		if path, err = exec.LookPath("ghostferry-sharding"); err != nil {
			fmt.Println("# without Ghostferry: PODWORKS_GHOSTFERRY names no binary of its sharding command, and there is no ghostferry-sharding on the path")
			return nil
		}
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		b.Fatalf("PODWORKS_GHOSTFERRY: %v", err)
	}
	// The figures are worth something if one knows of what: v1.3.1 is 317547432f78.
	vcs := map[string]string{"vcs.revision": "unknown", "vcs.modified": "unknown"}
	for _, s := range info.Settings {
		if _, ok := vcs[s.Key]; ok {
			vcs[s.Key] = s.Value
		}
	}
	fmt.Printf("ghostferry-revision: %s\nghostferry-modified: %s\n", vcs["vcs.revision"], vcs["vcs.modified"])
	fmt.Println("ghostferry-note: MD5() by component_classic_hashing; tuned is batches of 2000 rows, 1000 events, and no check of the target's log")
	return []mover{
		{"ghostferry", func(b *testing.B, a *arena) sample {
			return byGhostferry(b, a, path, nil)
		}},
		{"ghostferry-tuned", func(b *testing.B, a *arena) sample {
			return byGhostferry(b, a, path, map[string]any{
				"UpdatableConfig":        map[string]any{"DataIterationBatchSize": 2000},
				"BinlogEventBatchSize":   1000,
				"SkipTargetVerification": true,
			})
		}},
	}
}

// byGhostferry moves the shop with a process of Ghostferry's. What serves its
// callbacks closes the source's fence and opens the target's, so that the same
// writer as ferry's waits, and finds its way.
func byGhostferry(b *testing.B, a *arena, path string, more map[string]any) sample {
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	a.md5(b)
	if more["SkipTargetVerification"] == nil {
		a.logQueries(b, true)
		defer a.logQueries(b, false)
	}
	master, err := open(a.job.master)
	if err != nil {
		b.Fatal(err)
	}
	defer master.Close()
	j := a.job
	if _, err := j.prepare(ctx, master); err != nil {
		b.Fatal(err)
	}

	var (
		mu             sync.Mutex // guards what follows
		locked, opened time.Time
		failed         error
	)
	source, target := a.open(b, sourcePod), a.open(b, targetPod)
	mux := http.NewServeMux()
	handle := func(path string, at *time.Time, before bool, do func() error) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			asked := time.Now()
			err := do()
			mu.Lock()
			defer mu.Unlock()
			if *at = time.Now(); before {
				*at = asked
			}
			if failed = errors.Join(failed, err); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	handle("/lock", &locked, true, func() error {
		return fence.Shut(ctx, source, podworks.Route{Shop: ownShop, Pod: sourcePod, Epoch: 1}, targetPod, 1)
	})
	handle("/unlock", &opened, false, func() error { return fence.Turn(ctx, target, ownShop, 2, fence.Open) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	defer server.Close()
	go server.Serve(l)

	w, err := startWriter(ctx, order{DSNs: [2]string{j.pods[sourcePod].FormatDSN(), j.pods[targetPod].FormatDSN()}, Shop: ownShop, Write: ownWrite, load: oneWriter})
	if err != nil {
		b.Fatal(err)
	}
	defer w.stop()
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdin = bytes.NewReader(ghostferryConfig(b, a, "http://"+l.Addr().String(), more))
	var said lastWords
	cmd.Stdout, cmd.Stderr = &said, &said
	began := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatalf("ghostferry: %v: %s", err, &said)
	}
	w.arrive(ctx)
	writes, err := w.stop()
	if err != nil {
		b.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if failed != nil || opened.IsZero() {
		b.Fatalf("ghostferry ended, and the shop was opened at %v: %v", opened, failed)
	}
	longest, err := pause(writes, locked, opened)
	if err != nil {
		b.Fatal(err)
	}
	s := rate(opened.Sub(began).Seconds())
	s["pause-ms"] = milliseconds(longest)
	return s
}

func ghostferryConfig(b *testing.B, a *arena, url string, more map[string]any) []byte {
	at := func(s *testcluster.MySQLServer) map[string]any {
		return map[string]any{"Host": "127.0.0.1", "Port": s.Port(), "User": "root", "Collation": "utf8mb4_unicode_ci", "Params": map[string]string{"charset": "utf8mb4"}}
	}
	call := func(path string) map[string]string { return map[string]string{"URI": url + path} }
	c := map[string]any{
		"Source": at(a.source), "Target": at(a.target), "SourceDB": podDatabase, "TargetDB": podDatabase,
		"ShardingKey": "shop_id", "ShardingValue": ownShop, "IncludedTables": []string{"^products$", "^orders$"},
		"CutoverLock": call("/lock"), "CutoverUnlock": call("/unlock"),
	}
	for key, value := range more {
		c[key] = value
	}
	text, err := json.Marshal(c)
	if err != nil {
		b.Fatal(err)
	}
	return text
}

// md5 gives the servers MD5() if they have none.
func (a *arena) md5(b *testing.B) {
	for _, pod := range []podworks.PodID{sourcePod, targetPod} {
		db := a.open(b, pod)
		if _, err := db.ExecContext(b.Context(), `DO MD5('')`); err != nil {
			a.exec(b, db, `INSTALL COMPONENT 'file://component_classic_hashing'`)
		}
	}
}

// logQueries has sessions that begin from now on log the text of their statements.
func (a *arena) logQueries(b *testing.B, on bool) {
	for _, pod := range []podworks.PodID{sourcePod, targetPod} {
		a.exec(b, a.open(b, pod), fmt.Sprintf(`SET GLOBAL binlog_rows_query_log_events = %v`, on))
	}
}
