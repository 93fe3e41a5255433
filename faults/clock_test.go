package faults

import (
	"sync/atomic"
	"time"
)

// A clock tells how much time this process had to work in. It loses time when the process is held up, because other
// programs have the processors, or its own goroutines do: so what a request takes by this clock hardly depends on
// what else the machine has to do. It is never ahead of a true clock, and where nothing holds the process up, it
// goes slow by a few per cent at most.
type clock struct{ ticks atomic.Int64 }

// tick is how far the clock goes forward at a time. However late a tick comes, it counts no more than this.
const tick = 10 * time.Millisecond

// run keeps the clock going.
func (c *clock) run() {
	for {
		time.Sleep(tick)
		c.ticks.Add(1)
	}
}

// now returns for how long the clock has been going.
func (c *clock) now() time.Duration { return time.Duration(c.ticks.Load()) * tick }
