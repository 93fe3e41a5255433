//go:build encrypted

package session_test

func init() { encrypted = true }
