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

func backlog(net.Listener, int) error { return errors.ErrUnsupported }
