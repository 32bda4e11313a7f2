package testcluster

import (
	"context"
	"errors"
	"strconv"
)

// RedisOptions say how a Redis server runs. The zero value is an empty server
// on a unix socket that forgets everything when it ends.
type RedisOptions struct {
	// AppendOnly keeps what was written over Kill and Restart.
	AppendOnly bool

	// TCP makes the server listen on 127.0.0.1 as well, on Port.
	TCP bool

	// Args are more arguments for the server, such as "--maxmemory", "16mb".
	// They come last and win.
	Args []string
}

// A RedisServer is a running Redis.
type RedisServer struct {
	*Process
	socket string
	port   int
}

// StartRedis starts a server and returns when it has answered. ErrMissing is in
// the error if there is no redis-server on this machine.
func StartRedis(ctx context.Context, opts *RedisOptions) (*RedisServer, error) {
	var o RedisOptions
	if opts != nil {
		o = *opts
	}
	path, err := findTool("PODWORKS_REDIS_SERVER", "redis-server", "valkey-server")
	if err != nil {
		return nil, err
	}
	return onPort(o.TCP, func(port int) (*RedisServer, error) {
		dir, err := newFolder("redis-")
		if err != nil {
			return nil, err
		}
		s := &RedisServer{Process: &Process{name: "redis", dir: dir}, port: port}
		if s.socket, err = dir.socket(); err != nil {
			return nil, errors.Join(err, s.discard())
		}
		s.ready = func(ctx context.Context) error { return askSocket(ctx, "unix", s.socket, "PING\r\n", "+PONG") }
		save := "no"
		if o.AppendOnly {
			save = "yes"
		}
		s.argv = append([]string{path,
			"--daemonize", "no",
			"--dir", dir.path,
			"--unixsocket", s.socket,
			"--unixsocketperm", "700",
			"--bind", "127.0.0.1",
			"--port", strconv.Itoa(port),
			"--save", "",
			"--appendonly", save,
			// The sweep recognises a server by its command line.
			"--set-proc-title", "no",
		}, o.Args...)
		if err := s.start(ctx); err != nil {
			return nil, err
		}
		return s, nil
	})
}

// Socket returns the path of the unix socket.
func (s *RedisServer) Socket() string { return s.socket }

// Port returns the port on 127.0.0.1, or 0 without TCP.
func (s *RedisServer) Port() int { return s.port }

// Addr returns "127.0.0.1:port", or "" without TCP.
func (s *RedisServer) Addr() string { return loopback(s.port) }
