package main

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"sync"
)

// accounts are the users and what is kept of their passwords. An application has them in its database.
type accounts struct {
	iterations int

	mu     sync.Mutex
	hashes map[string]passwordHash
}

const (
	// defaultIterations is what the OWASP Password Storage Cheat Sheet asks for with PBKDF2-HMAC-SHA256, which is
	// in the standard library; Argon2id is the better choice where golang.org/x/crypto is in use anyway.
	defaultIterations = 600_000
	// minPassword and maxPassword bound the length in bytes (NIST SP 800-63B-4, 3.1.1.2).
	minPassword, maxPassword = 15, 256
)

var errPasswordLength = errors.New("a password has 15 to 256 characters")

func newAccounts(iterations int) *accounts {
	return &accounts{iterations: iterations, hashes: make(map[string]passwordHash)}
}

// setPassword makes it the user's password. A user who does not exist is created.
func (a *accounts) setPassword(user, password string) error {
	if len(password) < minPassword || len(password) > maxPassword {
		return errPasswordLength
	}
	h := passwordHash{iterations: a.iterations, salt: make([]byte, 16)}
	rand.Read(h.salt)
	var err error
	if h.key, err = h.derive(password); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hashes[user] = h
	return nil
}

// check reports whether the password is the user's. For a user who does not exist it does the same work, so that
// the time it takes tells nobody who has an account.
func (a *accounts) check(user, password string) bool {
	a.mu.Lock()
	h, exists := a.hashes[user]
	a.mu.Unlock()
	if !exists {
		h = passwordHash{iterations: a.iterations, salt: make([]byte, 16), key: make([]byte, sha256.Size)}
	}
	key, err := h.derive(password)
	return subtle.ConstantTimeCompare(key, h.key) == 1 && exists && err == nil
}

// A passwordHash says how it was made, so that the number of iterations can grow.
type passwordHash struct {
	iterations int
	salt, key  []byte
}

func (h *passwordHash) derive(password string) ([]byte, error) {
	return pbkdf2.Key(sha256.New, password, h.salt, h.iterations, sha256.Size)
}
