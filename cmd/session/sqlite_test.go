package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/session"
	"example.com/session/sessiontest"
)

// openTest opens a store for as long as the test takes.
func openTest(t *testing.T, rawURL string) session.Store {
	t.Helper()
	store, err := openSQLite(t.Context(), rawURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// What an application has is there. Nothing is made but by those who say so.
func TestSQLite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a % b?#.db")
	rawURL := "sqlite://" + strings.NewReplacer("%", "%25", "?", "%3F", "#", "%23", " ", "%20").Replace(filepath.ToSlash(path))
	if _, err := openSQLite(t.Context(), rawURL); err == nil {
		t.Error("a database that is not there was opened")
	}
	if made, err := os.ReadDir(dir); len(made) > 0 || err != nil {
		t.Errorf("there are %v, %v", made, err)
	}
	store := openTest(t, rawURL+"?create=true")
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	if _, err := openSQLite(t.Context(), rawURL+"?table=other"); err == nil || !strings.Contains(err.Error(), "session.SQLiteSchema") {
		t.Errorf("a table that is not there: %v", err)
	}
	if err := sessiontest.Check(t.Context(), store); err != nil {
		t.Error(err)
	}
	if err := store.Save(t.Context(), session.ID{1}, session.Record{Data: []byte("x")}); err != nil {
		t.Error(err)
	}
	for _, rawURL := range []string{rawURL, "sqlite://localhost" + strings.TrimPrefix(rawURL, "sqlite://") + "?table=sessions&create=false"} {
		if n, err := session.CountRecords(t.Context(), openTest(t, rawURL)); n != 1 || err != nil {
			t.Errorf("%s: %d records, %v", rawURL, n, err)
		}
	}
}

func TestSQLiteURLs(t *testing.T) {
	for _, rawURL := range []string{"sqlite:", "sqlite://", "sqlite://host/x", "sqlite://me:secret@localhost/x", "sqlite:/x#y", "sqlite:/%zz",
		"sqlite:/x?create=maybe", "sqlite:/x?mode=secret", "sqlite:/x?table=secret%20x"} {
		_, err := openSQLite(t.Context(), rawURL)
		if err == nil || strings.Contains(err.Error(), "me:secret") {
			t.Errorf("%s: %v", rawURL, err)
		}
	}
}
