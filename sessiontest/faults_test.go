package sessiontest_test

import (
	"context"
	"slices"

	"example.com/session"
)

// A fault breaks one rule, and often others with it.
type fault struct {
	rule  string // that must be reported
	what  string
	make  func(s *faulty)
	plain bool // hides the optional interfaces
}

type (
	id  = session.ID
	rec = session.Record
	ctx = context.Context
)

func faults() []fault {
	return slices.Concat(savingFaults(), dataFaults(), expiryFaults(), touchFaults(), listFaults(), waitingFaults())
}
