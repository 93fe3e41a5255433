package sessiontest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/session"
)

// The environment of a process that startProcess has started.
const (
	processTest = "SESSIONTEST_PROCESS_TEST" // the name of the test that called Run
	processRun  = "SESSIONTEST_PROCESS_RUN"  // the how manieth of that test
	processAddr = "SESSIONTEST_PROCESS_ADDR" // where that waits for a connection
)

// runs counts the calls of Run by test.
var runs struct {
	sync.Mutex
	of map[string]int
}

// countRun returns how many times Run was called by a test, this time included.
func countRun(t *testing.T) string {
	runs.Lock()
	defer runs.Unlock()
	if runs.of == nil {
		runs.of = make(map[string]int)
	}
	runs.of[t.Name()]++
	return strconv.Itoa(runs.of[t.Name()])
}

// isSecondProcess reports whether this process has to make calls for another one.
func isSecondProcess() bool { return os.Getenv(processTest) != "" }

// A process is a second one, which runs the same test up to Run, and makes calls for this one.
type process struct {
	cmd    *exec.Cmd
	client *rpc.Client
}

// startProcess starts this program again, for the same test. It ends with the test, or with this process.
func startProcess(t *testing.T, run string) (*process, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	parts := strings.Split(t.Name(), "/")
	for i, part := range parts {
		parts[i] = "^" + regexp.QuoteMeta(part) + "$"
	}
	cmd := exec.Command(self, "-test.run="+strings.Join(parts, "/"), "-test.timeout=30m")
	cmd.Env = append(os.Environ(), processTest+"="+t.Name(), processRun+"="+run, processAddr+"="+listener.Addr().String(), "GORACE=atexit_sleep_ms=0")
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
		listener.Close()
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	listener.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute))
	conn, err := listener.Accept()
	if err != nil {
		cmd.Process.Kill()
		<-ended
		return nil, fmt.Errorf("the second process has not come as far as sessiontest.Run in the test %s, which may need nothing but "+
			"what Stores.Open is given (%w); it wrote:\n%s", t.Name(), err, &output)
	}
	return &process{cmd, rpc.NewClient(conn)}, nil
}

// serveProcess makes calls for the process that started this one, until that ends, if it is this call of Run that it is for.
func serveProcess(t *testing.T, stores Stores, run string) {
	if os.Getenv(processTest) != t.Name() || os.Getenv(processRun) != run {
		return
	}
	conn, err := net.Dial("tcp", os.Getenv(processAddr))
	if err != nil {
		t.Fatal(err)
	}
	server := rpc.NewServer()
	server.RegisterName("Stores", &processServer{stores: stores})
	server.ServeConn(conn)
}

// open opens a store there.
func (p *process) open(ctx context.Context, place string) (session.Store, error) {
	r := &remote{client: p.client}
	var answer processReply
	if err := r.call(ctx, "Open", processCall{Place: place}, &answer); err != nil {
		return nil, err
	}
	r.handle = answer.Number
	return r, nil
}

// A processCall is what travels there, a processReply what comes back.
type (
	processCall struct {
		Handle, Number int
		Place          string
		ID             session.ID
		Record         session.Record
		Byte           byte
		Direct         bool // without cache
		Left           time.Duration
	}
	processReply struct {
		Number  int
		Record  session.Record
		Entries []session.Entry
		Error   string
		Is      []int // those of the sentinels that the error is
	}
)

// A remote is a store in the other process.
type remote struct {
	client *rpc.Client
	handle int
}

var travelling = append(sentinels(), context.Canceled, context.DeadlineExceeded)

// A remoteError is one of the other process.
type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.is }

func (r *remote) call(ctx context.Context, method string, c processCall, answer *processReply) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.Handle, c.Direct, c.Left = r.handle, !session.CacheAllowed(ctx), time.Minute
	if deadline, ok := ctx.Deadline(); ok {
		c.Left = time.Until(deadline)
	}
	pending := r.client.Go("Stores."+method, c, answer, make(chan *rpc.Call, 1))
	select {
	case <-pending.Done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if pending.Error != nil {
		return fmt.Errorf("the second process: %w", pending.Error)
	}
	if answer.Error == "" {
		return nil
	}
	err := &remoteError{text: answer.Error}
	for _, i := range answer.Is {
		err.is = append(err.is, travelling[i])
	}
	return err
}

func (r *remote) Load(ctx context.Context, id session.ID) (session.Record, error) {
	var answer processReply
	err := r.call(ctx, "Load", processCall{ID: id}, &answer)
	return answer.Record, err
}

func (r *remote) Save(ctx context.Context, id session.ID, rec session.Record) error {
	return r.call(ctx, "Save", processCall{ID: id, Record: rec}, new(processReply))
}

func (r *remote) Delete(ctx context.Context, id session.ID) error {
	return r.call(ctx, "Delete", processCall{ID: id}, new(processReply))
}

func (r *remote) Touch(ctx context.Context, id session.ID, rec session.Record) error {
	return r.call(ctx, "Touch", processCall{ID: id, Record: rec}, new(processReply))
}

func (r *remote) DeleteExpired(ctx context.Context, limit int) (int, error) {
	var answer processReply
	err := r.call(ctx, "DeleteExpired", processCall{Number: limit}, &answer)
	return answer.Number, err
}

func (r *remote) Count(ctx context.Context, at int, b byte) (int, error) {
	var answer processReply
	err := r.call(ctx, "Count", processCall{Number: at, Byte: b}, &answer)
	return answer.Number, err
}

func (r *remote) List(ctx context.Context) iter.Seq2[session.Entry, error] {
	return func(yield func(session.Entry, error) bool) {
		var answer processReply
		err := r.call(ctx, "List", processCall{}, &answer)
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

// A processServer makes the calls.
type processServer struct {
	stores  Stores
	mu      sync.Mutex
	handles []session.Store
}

// do calls f with a handle, and puts what comes of it into the reply.
func (p *processServer) do(c processCall, answer *processReply, f func(ctx context.Context, s session.Store) error) error {
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

func (p *processServer) Open(c processCall, answer *processReply) error {
	return p.do(c, answer, func(ctx context.Context, _ session.Store) error {
		s, err := p.stores.Open(ctx, c.Place)
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
func (p *processServer) Close(c processCall, answer *processReply) error {
	return p.do(c, answer, func(_ context.Context, s session.Store) error { return closeStore(s) })
}

func (p *processServer) Load(c processCall, answer *processReply) error {
	return p.do(c, answer, func(ctx context.Context, s session.Store) (err error) {
		answer.Record, err = s.Load(ctx, c.ID)
		return err
	})
}

func (p *processServer) Save(c processCall, answer *processReply) error {
	return p.do(c, answer, func(ctx context.Context, s session.Store) error { return s.Save(ctx, c.ID, c.Record) })
}

func (p *processServer) Delete(c processCall, answer *processReply) error {
	return p.do(c, answer, func(ctx context.Context, s session.Store) error { return s.Delete(ctx, c.ID) })
}

// Touch wants a record as Load returned it, with what the store may hide in it, and that does not travel.
func (p *processServer) Touch(c processCall, answer *processReply) error {
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

func (p *processServer) DeleteExpired(c processCall, answer *processReply) error {
	return p.do(c, answer, func(ctx context.Context, s session.Store) (err error) {
		sweeper, ok := s.(session.Sweeper)
		if !ok {
			return unsupported(s, "DeleteExpired")
		}
		answer.Number, err = sweeper.DeleteExpired(ctx, c.Number)
		return err
	})
}

func (p *processServer) Count(c processCall, answer *processReply) error {
	return p.do(c, answer, func(ctx context.Context, s session.Store) (err error) {
		counter, ok := s.(session.Counter)
		if !ok {
			return unsupported(s, "Count")
		}
		answer.Number, err = counter.Count(ctx, c.Number, c.Byte)
		return err
	})
}

func (p *processServer) List(c processCall, answer *processReply) error {
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
