package session

// What the tests of the SQL stores see of the inside.
var (
	ParseMySQLURL     = parseMySQLURL
	NewMySQLConnector = newMySQLConnector
	ParsePostgresURL  = parsePostgresURL
)
