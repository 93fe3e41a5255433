// Package remote makes the calls of one process to stores of another one.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/rpc"
	"sync"
	"time"

	"example.com/session"
)

// Serve makes calls for the process at the other end of a connection, until that closes it.
func Serve(conn io.ReadWriteCloser, open func(ctx context.Context, place string) (session.Store, error)) {
	s := rpc.NewServer()
	if err := s.RegisterName("Stores", &server{open: open}); err != nil {
		panic(err)
	}
	s.ServeConn(conn)
}

// A Client has its calls made at the other end of a connection.
type Client struct{ rpc *rpc.Client }

// NewClient returns a client for a connection at whose other end is Serve.
func NewClient(conn io.ReadWriteCloser) *Client { return &Client{rpc.NewClient(conn)} }

// Open opens a store there.
func (c *Client) Open(ctx context.Context, place string) (*Store, error) {
	s := &Store{client: c.rpc}
	answer, err := s.call(ctx, "Open", Call{Place: place})
	if err != nil {
		return nil, err
	}
	s.handle = answer.Number
	return s, nil
}

func unsupported(s session.Store, method string) error {
	return fmt.Errorf("%T has no %s: %w", s, method, errors.ErrUnsupported)
}

// Close closes it there.
func (r *Store) Close() error {
	_, err := r.call(context.Background(), "Close", Call{})
	return err
}

// A Call is what travels there, a Reply what comes back: package rpc wants them exported.
type (
	Call struct {
		Handle, Number int
		Place          string
		ID             session.ID
		Record         session.Record
		Byte           byte
		Direct         bool // without cache
		Left           time.Duration
	}
	Reply struct {
		Number  int
		Record  session.Record
		Entries []session.Entry
		Error   string
		Is      []int // those of the sentinels that the error is
	}
)

// A Store is a store in the other process.
type Store struct {
	client *rpc.Client
	handle int
}

var travelling = []error{session.ErrNotFound, session.ErrConflict, session.ErrTooLarge, errors.ErrUnsupported,
	context.Canceled, context.DeadlineExceeded}

// A remoteError is one of the other process.
type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.is }

// call returns the other process's reply. One that comes when ctx is done is nobody's.
func (r *Store) call(ctx context.Context, method string, c Call) (answer Reply, err error) {
	if err := ctx.Err(); err != nil {
		return answer, err
	}
	c.Handle, c.Direct, c.Left = r.handle, !session.CacheAllowed(ctx), time.Minute
	if deadline, ok := ctx.Deadline(); ok {
		c.Left = time.Until(deadline)
	}
	pending := r.client.Go("Stores."+method, c, new(Reply), make(chan *rpc.Call, 1))
	select {
	case <-pending.Done:
	case <-ctx.Done():
		return answer, ctx.Err()
	}
	if pending.Error != nil {
		return answer, fmt.Errorf("the second process: %w", pending.Error)
	}
	answer = *pending.Reply.(*Reply)
	if answer.Error == "" {
		return answer, nil
	}
	failed := &remoteError{text: answer.Error}
	for _, i := range answer.Is {
		failed.is = append(failed.is, travelling[i])
	}
	return answer, failed
}

func (r *Store) Load(ctx context.Context, id session.ID) (session.Record, error) {
	answer, err := r.call(ctx, "Load", Call{ID: id})
	return answer.Record, err
}

func (r *Store) Save(ctx context.Context, id session.ID, rec session.Record) error {
	_, err := r.call(ctx, "Save", Call{ID: id, Record: rec})
	return err
}

func (r *Store) Delete(ctx context.Context, id session.ID) error {
	_, err := r.call(ctx, "Delete", Call{ID: id})
	return err
}

func (r *Store) Touch(ctx context.Context, id session.ID, rec session.Record) error {
	_, err := r.call(ctx, "Touch", Call{ID: id, Record: rec})
	return err
}

func (r *Store) DeleteExpired(ctx context.Context, limit int) (int, error) {
	answer, err := r.call(ctx, "DeleteExpired", Call{Number: limit})
	return answer.Number, err
}

func (r *Store) Count(ctx context.Context, at int, b byte) (int, error) {
	answer, err := r.call(ctx, "Count", Call{Number: at, Byte: b})
	return answer.Number, err
}

func (r *Store) List(ctx context.Context) iter.Seq2[session.Entry, error] {
	return func(yield func(session.Entry, error) bool) {
		answer, err := r.call(ctx, "List", Call{})
		for _, entry := range answer.Entries {
			if !yield(entry, nil) {
				return
			}
		}
		if err != nil {
			yield(session.Entry{}, err)
		}
	}
}

// A server makes the calls.
type server struct {
	open    func(ctx context.Context, place string) (session.Store, error)
	mu      sync.Mutex
	handles []session.Store
}

// do calls f with a handle, and puts what comes of it into the reply.
func (p *server) do(c Call, answer *Reply, f func(ctx context.Context, s session.Store) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.Left)
	defer cancel()
	if c.Direct {
		ctx = session.WithoutCache(ctx)
	}
	var s session.Store
	p.mu.Lock()
	if c.Handle < len(p.handles) {
		s = p.handles[c.Handle]
	}
	p.mu.Unlock()
	if err := f(ctx, s); err != nil {
		answer.Error = err.Error()
		for i, sentinel := range travelling {
			if errors.Is(err, sentinel) {
				answer.Is = append(answer.Is, i)
			}
		}
	}
	return nil
}

func (p *server) Open(c Call, answer *Reply) error {
	return p.do(c, answer, func(ctx context.Context, _ session.Store) error {
		s, err := p.open(ctx, c.Place)
		if err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.handles = append(p.handles, s)
		answer.Number = len(p.handles) - 1
		return nil
	})
}

// Close closes a handle whose rule is over.
func (p *server) Close(c Call, answer *Reply) error {
	return p.do(c, answer, func(_ context.Context, s session.Store) error {
		if closer, ok := s.(io.Closer); ok {
			return closer.Close()
		}
		return nil
	})
}

func (p *server) Load(c Call, answer *Reply) error {
	return p.do(c, answer, func(ctx context.Context, s session.Store) (err error) {
		answer.Record, err = s.Load(ctx, c.ID)
		return err
	})
}

func (p *server) Save(c Call, answer *Reply) error {
	return p.do(c, answer, func(ctx context.Context, s session.Store) error { return s.Save(ctx, c.ID, c.Record) })
}

func (p *server) Delete(c Call, answer *Reply) error {
	return p.do(c, answer, func(ctx context.Context, s session.Store) error { return s.Delete(ctx, c.ID) })
}

// Touch wants a record as Load returned it, with what the store may hide in it, and that does not travel.
func (p *server) Touch(c Call, answer *Reply) error {
	return p.do(c, answer, func(ctx context.Context, s session.Store) error {
		toucher, ok := s.(session.Toucher)
		if !ok {
			return unsupported(s, "Touch")
		}
		if rec, err := s.Load(ctx, c.ID); err == nil && rec.Version == c.Record.Version {
			rec.Expires = c.Record.Expires
			c.Record = rec
		}
		return toucher.Touch(ctx, c.ID, c.Record)
	})
}

func (p *server) DeleteExpired(c Call, answer *Reply) error {
	return p.do(c, answer, func(ctx context.Context, s session.Store) (err error) {
		sweeper, ok := s.(session.Sweeper)
		if !ok {
			return unsupported(s, "DeleteExpired")
		}
		answer.Number, err = sweeper.DeleteExpired(ctx, c.Number)
		return err
	})
}

func (p *server) Count(c Call, answer *Reply) error {
	return p.do(c, answer, func(ctx context.Context, s session.Store) (err error) {
		counter, ok := s.(session.Counter)
		if !ok {
			return unsupported(s, "Count")
		}
		answer.Number, err = counter.Count(ctx, c.Number, c.Byte)
		return err
	})
}

func (p *server) List(c Call, answer *Reply) error {
	return p.do(c, answer, func(ctx context.Context, s session.Store) error {
		for entry, err := range session.List(ctx, s) {
			if err != nil {
				return err
			}
			answer.Entries = append(answer.Entries, entry)
		}
		return nil
	})
}
