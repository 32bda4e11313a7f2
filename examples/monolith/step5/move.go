package shop

import (
	"context"
	"fmt"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
)

// Move moves a shop to another pod while it sells, and returns how it went. On an
// error the shop sells where it was.
func (a *App) Move(ctx context.Context, shop int64, to podworks.PodID) (*ferry.Report, error) {
	return a.ferry.Move(ctx, podworks.ShopID(shop), to)
}

// Gather moves every shop to one pod. It may be run again.
func (a *App) Gather(ctx context.Context, to podworks.PodID) error {
	shops, err := a.shops(ctx)
	if err != nil {
		return err
	}
	for _, s := range shops {
		route, err := a.cluster.Directory().Fresh(ctx, podworks.ShopID(s.ID))
		if err != nil {
			return err
		}
		if route.Pod == to {
			continue
		}
		if _, err := a.ferry.Move(ctx, route.Shop, to); err != nil {
			return fmt.Errorf("shop: gather in pod %d: %w", to, err)
		}
	}
	return nil
}
