//go:build !unix

package toxi

import "net"

func newReader(c net.Conn) reader { return connReader{c} }
