//go:build !linux

package peer_test

import (
	"errors"
	"io"
)

func blackhole() (addr string, keep []io.Closer, err error) {
	return "", nil, errors.ErrUnsupported
}
