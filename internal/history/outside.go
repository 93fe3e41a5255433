package history

import "time"

// An Outside runs functions on a goroutine that is in no bubble: a client of a server must not meet the bubble's clock.
// Nil runs them where it is asked to.
type Outside struct {
	work chan func()
	done chan struct{}
}

// NewOutside returns one that works until its Close.
func NewOutside() *Outside {
	o := &Outside{make(chan func()), make(chan struct{})}
	go func() {
		for f := range o.work {
			f()
			o.done <- struct{}{}
		}
		close(o.done)
	}()
	return o
}

// Close ends the goroutine.
func (o *Outside) Close() {
	close(o.work)
	<-o.done
}

// do runs f. Calls must not meet.
func (o *Outside) do(f func()) {
	if o == nil {
		f()
		return
	}
	o.work <- f
	<-o.done
}

// shift returns how far the time outside is from now, in the bubble.
func (o *Outside) shift(now time.Time) (d time.Duration) {
	if o != nil {
		o.do(func() { d = time.Now().Round(0).Sub(now.Round(0)) })
	}
	return d
}
