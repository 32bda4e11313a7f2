//go:build !linux

package toxi

import (
	"errors"
	"net"
)

func reserve(string) (string, func() error, error) { return "", nil, errors.ErrUnsupported }

func backlog(net.Listener, int) error { return errors.ErrUnsupported }
