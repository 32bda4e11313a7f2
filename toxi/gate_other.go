//go:build !linux

package toxi

import (
	"errors"
	"net"
)

// A reservation is nil here.
type reservation struct{}

func (*reservation) share(bool) {}
func (*reservation) free()      {}

func reserve(string) (string, *reservation, error) { return "", nil, errors.ErrUnsupported }

// A filler is nil here.
type filler struct{ from string }

func (*filler) close() {}

func fill(net.Listener) *filler { return nil }

func backlog(net.Listener, int) error { return errors.ErrUnsupported }
