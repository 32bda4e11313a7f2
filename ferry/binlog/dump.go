package binlog

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/go-mysql-org/go-mysql/client"
	gomysql "github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"
	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/hook"
)

// silence is how long a server may say nothing. It sends a heartbeat each
// second when it has nothing else.
const silence = 10 * time.Second

// A link is one connection that the server sends its log over.
type link struct {
	queue  *queue
	failed chan error // one, after which nothing is queued
	close  func()
}

// dump asks the server for its log from a position: by GTID if set isn't nil.
// It must be the one that srv is.
func dump(ctx context.Context, cfg *mysql.Config, srv *server, set *gtids, from place, decode func(*replication.RowsEvent, []byte) error) (*link, error) {
	family := string(srv.family)
	ctx, cancel := context.WithCancel(ctx)
	l := &link{queue: newQueue(), failed: make(chan error, 1)}
	c := replication.BinlogSyncerConfig{
		ServerID:                1<<31 + rand.Uint32N(1<<31), // must differ from every replica's
		Flavor:                  family,
		User:                    cfg.User,
		Password:                cfg.Passwd,
		TLSConfig:               cfg.TLS,
		TimestampStringLocation: time.UTC,
		RenderJSONAsMySQLText:   true,
		// Reconnecting is ours: go-mysql's own would go on in the middle of a
		// transaction, without the map of its tables.
		DisableRetrySync:    true,
		DiscardGTIDSet:      true,
		HeartbeatPeriod:     heartbeat,
		EventCacheCount:     1,
		Logger:              slog.New(slog.DiscardHandler),
		RowsEventDecodeFunc: decode,
		Dialer:              dialer(ctx, cfg),
		Option: func(conn *client.Conn) error {
			// A handler may take its time; by default the server ends the
			// connection of a reader that is stuck for a minute, and a long
			// transaction would begin again and again.
			if !hook.Off(ctx, waitLong) {
				if _, err := conn.Execute(`SET SESSION net_write_timeout = 86400`); err != nil {
					return err
				}
			}
			answer, err := conn.Execute(`SELECT CONCAT(` + srv.idExpr() + `)`)
			if err != nil {
				return err
			}
			id, err := answer.GetString(0, 0)
			if err == nil && id != srv.id {
				err = fmt.Errorf("the address leads to server %s, and a moment ago it led to %s", id, srv.id)
			}
			return err
		},
		SynchronousEventHandler: handler(func(ev *replication.BinlogEvent) error { return l.queue.push(ctx, ev) }),
	}
	if cfg.Net == "unix" {
		c.Host = cfg.Addr
	} else {
		host, port, err := net.SplitHostPort(cfg.Addr)
		if err != nil {
			cancel()
			return nil, err
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			cancel()
			return nil, err
		}
		c.Host, c.Port = host, uint16(n)
	}
	syncer := replication.NewBinlogSyncer(c)
	stop := func() {
		cancel() // which closes the connection and ends a push
		syncer.Close()
	}
	streamer, err := start(syncer, family, set, from)
	if err != nil {
		stop()
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, err := streamer.GetEvent(ctx) // the events go to the handler
		l.failed <- err
	}()
	l.close = func() {
		stop()
		<-ended
	}
	return l, nil
}

func start(syncer *replication.BinlogSyncer, family string, set *gtids, from place) (*replication.BinlogStreamer, error) {
	if set == nil {
		if from.offset > 1<<32-1 {
			return nil, fmt.Errorf("%w: the offset %d in %s is above 4 GiB, from where servers send their log by GTID only", ErrPosition, from.offset, from.file)
		}
		return syncer.StartSync(gomysql.Position{Name: from.file, Pos: uint32(from.offset)})
	}
	parsed, err := gomysql.ParseGTIDSet(family, set.String())
	if err != nil {
		return nil, err
	}
	return syncer.StartSyncGTID(parsed)
}

// next returns the next event. After an error what came before it is delivered
// first.
func (l *link) next(ctx context.Context) (*replication.BinlogEvent, error) {
	select {
	case ev := <-l.queue.events:
		l.queue.taken(ev)
		return ev, nil
	default:
	}
	select {
	case ev := <-l.queue.events:
		l.queue.taken(ev)
		return ev, nil
	case err := <-l.failed:
		select {
		case ev := <-l.queue.events:
			l.failed <- err
			l.queue.taken(ev)
			return ev, nil
		default:
			return nil, err
		}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

type handler func(*replication.BinlogEvent) error

func (h handler) HandleEvent(ev *replication.BinlogEvent) error { return h(ev) }

// A queue is between the goroutine that reads and decodes and the one that
// handles. It is bounded by bytes, because an event may be of any size: what is
// in it and in hand is maxQueued and two events at most.
type queue struct {
	events chan *replication.BinlogEvent
	bytes  atomic.Int64
	room   chan struct{} // holds one signal
}

const (
	maxQueued = 4 << 20
	maxEvents = 1024
)

func newQueue() *queue {
	return &queue{events: make(chan *replication.BinlogEvent, maxEvents), room: make(chan struct{}, 1)}
}

// push is called by one goroutine.
func (q *queue) push(ctx context.Context, ev *replication.BinlogEvent) error {
	for q.bytes.Load() > maxQueued {
		select {
		case <-q.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	q.bytes.Add(int64(ev.Header.EventSize))
	select {
	case q.events <- ev:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (q *queue) taken(ev *replication.BinlogEvent) {
	q.bytes.Add(-int64(ev.Header.EventSize))
	select {
	case q.room <- struct{}{}:
	default:
	}
}

// dialer dials as cfg says, until ctx ends, which closes the connection too.
// go-mysql's own read timeout would count from the packet before, and so the
// time that the handler takes.
func dialer(ctx context.Context, cfg *mysql.Config) client.Dialer {
	return func(dialCtx context.Context, network, addr string) (net.Conn, error) {
		if ctx.Err() != nil {
			return nil, errors.New("the stream has ended") // go-mysql dials to end its session, which the server does by itself
		}
		dial := cfg.DialFunc
		if dial == nil {
			dial = (&net.Dialer{}).DialContext
		}
		conn, err := dial(dialCtx, network, addr)
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { conn.Close() })
		return &patient{conn}, nil
	}
}

// patient gives each read its own time.
type patient struct{ net.Conn }

func (c *patient) Read(b []byte) (int, error) {
	if err := c.Conn.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// SetReadDeadline does nothing: the deadlines are Read's. go-mysql sets one to
// stop its reader, which the closed connection has stopped already, and if that
// failed it would close the connection while the reader still uses it.
func (c *patient) SetReadDeadline(time.Time) error { return nil }

// tlsOf returns what cfg.TLSConfig names.
func tlsOf(cfg *mysql.Config) (*tls.Config, error) {
	switch {
	case cfg.TLSConfig == "preferred", cfg.AllowFallbackToPlaintext:
		return nil, errors.New("tls is preferred, which means none to whoever sits in between: want true, skip-verify, false or the name of a registered configuration")
	case cfg.TLS != nil, cfg.TLSConfig == "", cfg.TLSConfig == "false":
		return cfg.TLS, nil
	}
	parsed, err := mysql.ParseDSN(cfg.FormatDSN())
	if err != nil {
		return nil, err
	}
	return parsed.TLS, nil
}
