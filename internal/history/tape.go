package history

import (
	"math/rand/v2"
	"slices"
)

// A Tape draws what happens in a history, and remembers it, so that a history can be played again, and again with less
// in it. The least that can be drawn is the simplest: no fault, no pause, the first of those that could come next.
type Tape struct {
	drawn  []uint32
	next   int
	random *rand.Rand // nil: the tape is played again, and is followed by zeros
}

// NewTape returns a tape that draws from the seed.
func NewTape(seed uint64) *Tape { return &Tape{random: rand.New(rand.NewPCG(seed, 0))} }

// Int draws a number from 0 to n-1.
func (t *Tape) Int(n int) int {
	var v uint32
	switch {
	case t.random != nil:
		v = uint32(t.random.IntN(n))
		t.drawn = append(t.drawn, v)
	case t.next < len(t.drawn):
		v = t.drawn[t.next] % uint32(n)
	}
	t.next++
	return int(v)
}

// Chance draws true in that part of all cases.
func (t *Tape) Chance(p float64) bool {
	const fine = 1000
	return p > 0 && t.Int(fine) >= fine-int(p*fine)
}

// Pick draws one of several; the first is the simplest.
func Pick[T any](t *Tape, of ...T) T { return of[t.Int(len(of))] }

// Shrink looks for a shorter tape, with smaller numbers on it, with which play still fails, and returns it with
// what play said then. It plays the history again as many times as that at most.
func Shrink(t *Tape, err error, most int, play func(*Tape) error) (*Tape, error) {
	best := slices.Clone(t.drawn[:min(t.next, len(t.drawn))])
	try := func(drawn []uint32) bool {
		if most--; most < 0 {
			return false
		}
		shorter := &Tape{drawn: slices.Clone(drawn)}
		failure := play(shorter)
		if failure == nil {
			return false
		}
		best, err = shorter.drawn[:min(shorter.next, len(shorter.drawn))], failure
		return true
	}
	for size := len(best) / 2; size > 0; size /= 2 {
		for from := 0; from < len(best); {
			end := min(from+size, len(best))
			if !try(slices.Delete(slices.Clone(best), from, end)) {
				from = end
			}
		}
		for from := 0; from < len(best); from += size {
			zeros := slices.Clone(best)
			part := zeros[from:min(from+size, len(zeros))]
			if slices.Max(part) > 0 {
				clear(part)
				try(zeros)
			}
		}
	}
	return &Tape{drawn: best}, err
}

// Len returns how much is on the tape.
func (t *Tape) Len() int { return len(t.drawn) }
