package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
)

// prepare creates the databases' tables and fills them. It writes past the
// fence, which is right exactly here: no shop is open before signUp.
func prepare(ctx context.Context, pl *plan) error {
	p, err := openPlatform(pl, asAdmin, 8)
	if err != nil {
		return err
	}
	defer p.master.Close()
	defer p.Close()
	if err := errors.Join(p.Migrate(ctx), p.global.Migrate(ctx)); err != nil {
		return err
	}
	f, err := openFerry(pl, p, nil)
	if err != nil {
		return err
	}
	if err := f.Migrate(ctx); err != nil {
		return err
	}

	shops := pl.Settings.shops()
	var wg sync.WaitGroup
	errs := make([]error, len(pl.Servers.Pods))
	for id, at := range pl.Servers.Pods {
		wg.Go(func() { errs[id-firstPod] = fillPod(ctx, pl.Settings, id, at, shops) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}

	for id := range pl.Servers.Pods {
		if err := p.Directory().AddPod(ctx, id, region); err != nil {
			return err
		}
	}
	for _, s := range shops {
		if err := p.signUp(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// openFerry returns the ferry between the pods, with the rights it needs.
func openFerry(pl *plan, p *platform, progress func(ferry.Progress)) (*ferry.Ferry, error) {
	pods, err := podConfigs(pl)
	if err != nil {
		return nil, err
	}
	return ferry.New(p.Directory(), pods, &ferry.Options{Progress: progress, Logger: p.log})
}

// fillPod creates a pod's tables and loads its shops.
func fillPod(ctx context.Context, s settings, pod podworks.PodID, at podServers, shops []shop) error {
	db, err := asAdmin.open(at.MySQL)
	if err != nil {
		return err
	}
	defer db.Close()
	for _, stmt := range schema {
		if _, err := db.ExecContext(ctx, stmt); err != nil {
			return fmt.Errorf("create the tables of pod %d: %w", pod, err)
		}
	}
	for _, sh := range shops {
		if sh.pod != pod {
			continue
		}
		if err := fillShop(ctx, db, s, sh); err != nil {
			return fmt.Errorf("load shop %d into pod %d: %w", sh.id, pod, err)
		}
	}
	return nil
}

// fillShop loads a shop: its products, their stock, and its past orders.
func fillShop(ctx context.Context, db *sql.DB, s settings, sh shop) error {
	products := loader{db: db, table: "products", columns: 4}
	stock := loader{db: db, table: "stock", columns: 4}
	orders := loader{db: db, table: "orders", columns: 6}
	lines := loader{db: db, table: "order_lines", columns: 6}
	payments := loader{db: db, table: "payments", columns: 4}
	for n := int64(1); n <= sh.products; n++ {
		p := s.product(sh.id, n)
		products.add(ctx, int64(sh.id), p.id, p.title, p.cents)
		for slot := range int64(slotsPerProduct) {
			stock.add(ctx, int64(sh.id), slotID(p.id, slot), p.id, p.slot(slot))
		}
	}
	for n := int64(1); n <= sh.history; n++ {
		at := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Minute)
		price := 500 + n*7919%9500
		orders.add(ctx, int64(sh.id), n, fmt.Sprintf("%032x", n), fmt.Sprintf("buyer-%d@mail.example", n%977), 2*price, at)
		for i := range int64(2) {
			lines.add(ctx, int64(sh.id), 2*n+i, n, 1+(n+i)%sh.products, 1, price)
		}
		payments.add(ctx, int64(sh.id), n, 2*price, at)
	}
	return errors.Join(products.flush(ctx), stock.flush(ctx), orders.flush(ctx), lines.flush(ctx), payments.flush(ctx))
}

// slotID returns the id of a product's n-th row of stock.
func slotID(product, n int64) int64 { return product*100 + n }

// A loader inserts rows many at a time. After an error it does nothing more;
// flush returns it.
type loader struct {
	db      *sql.DB
	table   string
	columns int
	args    []any
	err     error
}

func (l *loader) add(ctx context.Context, row ...any) {
	const rowsAtATime = 1000
	l.args = append(l.args, row...)
	if len(l.args) == rowsAtATime*l.columns {
		l.flush(ctx)
	}
}

func (l *loader) flush(ctx context.Context) error {
	if l.err != nil || len(l.args) == 0 {
		return l.err
	}
	row := "(?" + strings.Repeat(",?", l.columns-1) + ")"
	_, l.err = l.db.ExecContext(ctx, `INSERT INTO `+l.table+` VALUES `+row+strings.Repeat(","+row, len(l.args)/l.columns-1), l.args...)
	l.args = l.args[:0]
	return l.err
}
