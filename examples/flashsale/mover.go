package main

import (
	"context"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
)

// moveNews says how the move goes.
type moveNews struct {
	Step    string
	Table   string
	Copied  int64
	Total   int64
	Changes int64

	Started int64 // Unix nanoseconds
	Ended   int64 // the same, when Move has returned
	Report  *ferry.Report
}

// runMover moves the hot shop to its new pod.
func runMover(ctx context.Context, p *process) error {
	platform, err := openPlatform(&p.plan, asAdmin, 4)
	if err != nil {
		return err
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = platform.run(background) }) // nothing is left in the pools

	n := moveNews{Step: "plan"}
	f, err := openFerry(&p.plan, platform, func(now ferry.Progress) {
		n.Step, n.Table, n.Copied, n.Total, n.Changes = now.Step, now.Table, now.RowsCopied, now.RowsTotal, now.RowChanges
		p.tell(news{Move: &n})
	})
	if err != nil {
		return err
	}
	n.Started = time.Now().UnixNano()
	p.tell(news{Move: &n})
	report, err := f.Move(ctx, p.Hot, p.MoveTo)
	n.Ended = time.Now().UnixNano()
	n.Report = report
	p.tell(news{Move: &n})
	return err
}

// podConfigs returns how the ferry reaches the pods' databases.
func podConfigs(pl *plan) (map[podworks.PodID]*mysql.Config, error) {
	pods := map[podworks.PodID]*mysql.Config{}
	for id, at := range pl.Servers.Pods {
		cfg, err := asAdmin.config(at.MySQL)
		if err != nil {
			return nil, err
		}
		pods[id] = cfg
	}
	return pods, nil
}
