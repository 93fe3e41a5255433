package integration_test

import (
	"os"
	"testing"

	"example.com/session/internal/storetest"
)

func TestMain(m *testing.M) {
	os.Exit(storetest.Children{
		"open":       childOpen,
		"increment":  childIncrement,
		"write":      childWrite,
		"visits":     childVisits,
		"casualties": childCasualties,
		"lockers":    childLockers,
		"holder":     childHolder,
	}.Main(m))
}
