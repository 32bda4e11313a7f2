package main

import (
	"context"
	"fmt"
	"time"
)

// signUpWithin is how long an address stays reserved for a sign-up whose process
// died, before somebody else can have it.
const signUpWithin = time.Minute

// owner is the e-mail address of who has the shop.
func (sh shop) owner() string { return fmt.Sprintf("owner-%d@mail.example", sh.id) }

// signUp opens a shop. An address has one shop, over all pods, which no pod's
// unique key can guard: it is claimed before the shop is made and confirmed after.
// What fails in between can be called again.
//
// It is the one thing here that needs the master database: while that is away, it
// fails with master.ErrPrimary.
func (p *platform) signUp(ctx context.Context, sh shop) error {
	claim, err := p.global.Claim(ctx, "email", sh.owner(), int64(sh.id), signUpWithin)
	if err != nil {
		return err
	}
	if _, err := p.CreateShop(ctx, sh.id, sh.pod, sh.host); err != nil {
		return err
	}
	return p.global.Confirm(ctx, claim)
}
