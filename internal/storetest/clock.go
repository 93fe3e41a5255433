package storetest

import (
	"reflect"
	"time"

	"example.com/session"
)

// SetClock makes a manager go by another clock, before it serves any request. No option does that, and the methods that
// the tests of package session have for it are theirs alone.
func SetClock(m *session.Manager, now func() time.Time) {
	clock := reflect.ValueOf(m).Elem().FieldByName("clock")
	*(*func() time.Time)(clock.Addr().UnsafePointer()) = now
}
