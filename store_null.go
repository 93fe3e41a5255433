package session

import "context"

// A NullStore keeps nothing, which switches sessions off without a change to the handlers: each request has a new
// and empty session, saving it does nothing, and no cookie is sent. The zero value is ready to use.
type NullStore struct{}

// Load implements Store. There is no record.
func (NullStore) Load(context.Context, ID) (Record, error) { return Record{}, ErrNotFound }

// Save implements Store. It forgets the record; one that is to be replaced is not there.
func (NullStore) Save(_ context.Context, _ ID, rec Record) error {
	if rec.Version != 0 {
		return ErrConflict
	}
	return nil
}

// Delete implements Store. There is no record.
func (NullStore) Delete(context.Context, ID) error { return nil }
