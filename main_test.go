package session_test

import (
	"os"
	"testing"

	"example.com/session/internal/servertest"
)

func TestMain(m *testing.M) { os.Exit(servertest.Main(m)) }
