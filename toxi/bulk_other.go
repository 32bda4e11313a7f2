//go:build !linux

package toxi

import (
	"errors"
	"net"
)

// There is no splice(2) here: what is read is written.
type (
	bulk struct{}
	tube struct{}
)

func newBulk(src, dst net.Conn) *bulk { return nil }

func newTube() (*tube, error) { return nil, errors.ErrUnsupported }

func (*bulk) read(*tube) (int, error)       { return 0, errors.ErrUnsupported }
func (*bulk) write(*tube, int) (int, error) { return 0, errors.ErrUnsupported }
func (*tube) read([]byte) (int, error)      { return 0, errors.ErrUnsupported }
func (*tube) close()                        {}
