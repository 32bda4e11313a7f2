package testcluster

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
)

// MemcachedOptions say how a memcached server runs. The zero value is one with
// 64 MB on a unix socket.
type MemcachedOptions struct {
	// MemoryMB bounds what the server keeps; default 64.
	MemoryMB int

	// TCP makes the server listen on 127.0.0.1, on Port, instead of a unix
	// socket: memcached does one or the other.
	TCP bool

	// Args are more arguments for the server. They come last and win.
	Args []string
}

// A MemcachedServer is a running memcached. It forgets everything when it ends.
type MemcachedServer struct {
	*Process
	socket string
	port   int
}

// StartMemcached starts a server and returns when it has answered. ErrMissing
// is in the error if there is no memcached on this machine.
func StartMemcached(ctx context.Context, opts *MemcachedOptions) (*MemcachedServer, error) {
	var o MemcachedOptions
	if opts != nil {
		o = *opts
	}
	if o.MemoryMB == 0 {
		o.MemoryMB = 64
	}
	path, err := findTool("PODWORKS_MEMCACHED", "memcached")
	if err != nil {
		return nil, err
	}
	return onPort(o.TCP, func(port int) (*MemcachedServer, error) {
		dir, err := newFolder("memcached-")
		if err != nil {
			return nil, err
		}
		s := &MemcachedServer{Process: &Process{name: "memcached", dir: dir}, port: port}
		if s.socket, err = dir.socket(); err != nil {
			return nil, errors.Join(err, s.discard())
		}
		s.argv = []string{path,
			"-m", strconv.Itoa(o.MemoryMB),
			// It writes the file only as a daemon, which this is not. The sweep
			// recognises a server by its command line.
			"-P", filepath.Join(dir.path, "memcached.pid"),
		}
		network, address := "unix", s.socket
		if port == 0 {
			s.argv = append(s.argv, "-s", s.socket, "-a", "0700")
		} else {
			network, address, s.socket = "tcp", loopback(port), ""
			s.argv = append(s.argv, "-l", "127.0.0.1", "-p", strconv.Itoa(port), "-U", "0")
		}
		if len(asUser()) > 0 {
			s.argv = append(s.argv, "-u", "root")
		}
		s.argv = append(s.argv, o.Args...)
		s.ready = func(ctx context.Context) error { return askSocket(ctx, network, address, "version\r\n", "VERSION ") }
		if err := s.start(ctx); err != nil {
			return nil, err
		}
		return s, nil
	})
}

// Socket returns the path of the unix socket, or "" with TCP.
func (s *MemcachedServer) Socket() string { return s.socket }

// Port returns the port on 127.0.0.1, or 0 without TCP.
func (s *MemcachedServer) Port() int { return s.port }

// Addr returns "127.0.0.1:port", or "" without TCP.
func (s *MemcachedServer) Addr() string { return loopback(s.port) }
