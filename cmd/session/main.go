// Session looks after the sessions in a store: it lists, shows and ends sessions, removes what has expired, moves them to
// another store, and checks a store. Run it with --help. Package console has it, for those who have a kind of store of
// their own.
package main

import "example.com/session/cmd/session/console"

func main() {
	console.Main(console.Scheme{Name: "sqlite", URL: "sqlite:///path/to/file" + sqliteNote, Open: openSQLite})
}
